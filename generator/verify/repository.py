"""What `gen-repo verify` reads of a generated repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from generator import manifest, models
from generator.findings import Refused, error
from generator.plan import FRONT
from generator.spec import ModelSpec, Variant

NOT_QUANTIZED = (None, "none")


@dataclass(frozen=True)
class Repository:
    """A generated repository.

    Attributes:
        names: of its Triton models by role. vocab_size: of the LLM; larger ids choose vision rows.
        most_images: per request. quantized: whether the LLM is. as_levels: whether pixels cross as 8-bit levels.
    """

    spec: ModelSpec
    variant: Variant
    names: Mapping[str, str]
    vocab_size: int
    most_images: int
    quantized: bool
    as_levels: bool

    @property
    def face(self) -> str:
        """The model that clients ask."""
        return self.names.get(FRONT, self.names["ensemble"])


def read(folder: Path) -> Repository:
    """The repository in `folder`. Raises Refused when it is none of ours, or a file of it cannot be read."""
    content = manifest.of(folder)
    file = folder / content["models"]["preprocessing"] / "1" / "settings.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise Refused(error("verify", f"it cannot be read: {problem}", file, "generate the repository again")) from None
    spec, variant = models.find(content["variant"])
    return Repository(
        spec,
        variant,
        content["models"],
        int(settings["tokenizer"]["vocab_size"]),
        int(settings["limits"].get("max_images", 1)),
        content.get("quantization") not in NOT_QUANTIZED,
        settings["pixels"].get("dtype") == "uint8",
    )
