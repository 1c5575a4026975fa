"""What differs between TensorRT-LLM releases outside the backend's contract: containers, scripts, folders, flags.

The facts and their sources are data/releases.json. A release may be asked for by its number or by the month of the
Triton container that ships it.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from generator import contract
from generator.findings import EXIT_USAGE, Refused, error

IMAGE = "nvcr.io/nvidia/tritonserver:{}-trtllm-python-py3"


@dataclass(frozen=True)
class Release:
    """One release.

    Attributes:
        containers: months of the Triton containers with it, oldest first; empty = none was published.
        tensorrt: version of TensorRT in them; engines run with this version only.
        vision_script: name of the guide's script that builds vision engines. vision_output: their output's name.
        one_engine_folder: the guide keeps both engines below one folder, as `vision` and `llm`.
        models_folder: the examples lie below examples/models/core and examples/models/contrib.
        fused_mlp: the trtllm-build arguments that fuse the MLP.
        enable_xqa: trtllm-build knows --enable_xqa.
    """

    name: str
    containers: tuple[str, ...]
    tensorrt: str
    vision_script: str
    vision_output: str
    one_engine_folder: bool
    models_folder: bool
    fused_mlp: tuple[str, ...]
    enable_xqa: bool

    @property
    def images(self) -> tuple[str, ...]:
        """Tags of the containers, newest first."""
        return tuple(IMAGE.format(month) for month in reversed(self.containers))

    @property
    def guide(self) -> str:
        """The multimodal guide's folder below examples/."""
        return "models/core/multimodal" if self.models_folder else "multimodal"

    @property
    def examples_from_guide(self) -> str:
        return "../../.." if self.models_folder else ".."

    def converter(self, name: str) -> str:
        """A checkpoint converter below examples/."""
        group = "contrib" if name in _data()["contrib_converters"] else "core"
        return f"models/{group}/{name}/convert_checkpoint.py" if self.models_folder else f"{name}/convert_checkpoint.py"

    def builds_vision(self, model_type: str) -> bool:
        """Whether its script builds vision engines of this `--model_type`."""
        entry = next(entry for entry in _data()["vision_builds"] if model_type in entry["model_types"])
        return _position(self.name) <= _position(entry["until"])


@functools.cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((contract.DATA / "releases.json").read_text("utf-8"))
    return data


def _position(name: str) -> int:
    return contract.releases().index(name)


@functools.cache
def of(name: str) -> Release:
    """The facts of a known release."""
    at = _position(name)

    def fact(key: str) -> Any:
        intervals = _data()["facts"][key]
        last = contract.releases()[-1]
        return next(i["is"] for i in intervals if _position(i["since"]) <= at <= _position(i.get("until", last)))

    entry = _data()["releases"][name]
    return Release(
        name=name,
        containers=tuple(entry["containers"]),
        tensorrt=entry["tensorrt"],
        vision_script=fact("vision_script"),
        vision_output=fact("vision_output"),
        one_engine_folder=fact("one_engine_folder"),
        models_folder=fact("models_folder"),
        fused_mlp=tuple(fact("fused_mlp")),
        enable_xqa=fact("enable_xqa"),
    )


def newest_that_builds(model_type: str) -> str:
    """The newest release with the backend whose guide builds vision engines of this `--model_type`."""
    return next(name for name in reversed(contract.releases()) if of(name).builds_vision(model_type))


def resolve(text: str) -> str:
    """The known release that `text` means: a release (0.16, v0.16.0) or a container's month (24.12).

    Raises:
        Refused: unknown release, or a month whose container holds none of the known ones; the error lists what is
            known, for a month its neighbours.
    """
    month = re.fullmatch(r"r?(\d\d\.(?:0[1-9]|1[0-2]))(-\S+)?", text.strip())
    if month is None or month.group(1) < "23.10":  # the first container with TensorRT-LLM
        return contract.resolve(text)
    wanted = month.group(1)
    known = {container: name for name in contract.releases() for container in of(name).containers}
    if wanted in known:
        return known[wanted]
    others: dict[str, str] = _data()["other_containers"]
    held = (
        f"container {wanted} holds TensorRT-LLM {others[wanted]}, which" if wanted in others else f"container {wanted}"
    )
    before = max((m for m in known if m < wanted), default=None)
    after = min((m for m in known if m > wanted), default=None)
    neighbours = " and ".join(f"{m} with {known[m]}" for m in (before, after) if m)
    nearest = before or after
    raise Refused(
        error(
            "unknown-release",
            f"{held} is not known; the nearest known: {neighbours}",
            "--release",
            f"use one of them, for example --release {nearest}, or give the release itself: "
            + ", ".join(contract.releases()),
        ),
        exit_code=EXIT_USAGE,
    )
