"""Whether a server that runs already has a given repository loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator.check import configs
from generator.server import ServerError

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

REMEDY = "give the repository that the server was started with, or leave out --url"
Tensors = dict[str, tuple[str, list[int]]]


def must_be(repository: Path, names: Iterable[str], url: str, client: InferenceServerClient) -> None:
    """Compares the tensors of the models `names` with those of the server behind `client`, at `url`.

    Parameters are left alone: somebody may have tuned the server's.

    Raises:
        ServerError: the server has another repository loaded, or a config.pbtxt here cannot be read.
    """
    from google.protobuf.text_format import ParseError
    from tritonclient.utils import InferenceServerException

    other = f"the server at {url} has another repository loaded than {repository}"
    for name in names:
        file = repository / name / "config.pbtxt"
        try:
            ours, theirs = configs.parse(file.read_text("utf-8")), client.get_model_config(name).config
        except InferenceServerException as problem:
            raise ServerError(f"{other}: it has no {name} ({problem.message()})", REMEDY) from None
        except (OSError, UnicodeDecodeError, ParseError) as problem:
            raise ServerError(f"{file} cannot be read: {problem}", "generate the repository again") from None
        for kind in ("input", "output"):
            here, there = _tensors(getattr(ours, kind)), _tensors(getattr(theirs, kind))
            for tensor in sorted(here.keys() | there.keys()):
                if here.get(tensor) != there.get(tensor):
                    what = f"{_shown(there.get(tensor))} there, {_shown(here.get(tensor))} here"
                    raise ServerError(f"{other}: {name}'s {kind} {tensor} is {what}", REMEDY)


def _tensors(declared: Any) -> Tensors:
    kinds = configs.schema().DataType
    return {tensor.name: (kinds.Name(tensor.data_type).removeprefix("TYPE_"), list(tensor.dims)) for tensor in declared}


def _shown(tensor: tuple[str, list[int]] | None) -> str:
    return "none" if tensor is None else f"{tensor[0]} {tensor[1]}"
