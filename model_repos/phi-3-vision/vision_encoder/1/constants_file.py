"""Rows that all images share, from the file that the vision engine's build writes beside the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def load(constants: dict[str, Any]) -> torch.Tensor:
    """The rows [c, hidden] that the settings name, in that order, on the host.

    Raises FileNotFoundError when there is no such file, and ValueError when it is damaged or lacks a name; with the
    remedy.
    """
    file = constants["file"]
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"{file} does not exist: remove its folder and run build_engines.sh again, which builds the vision engine "
            "and writes it"
        )
    try:
        stored = load_file(file)
        return torch.stack([stored[name].reshape(-1) for name in constants["names"]])
    except (SafetensorError, KeyError, RuntimeError) as problem:
        raise ValueError(
            f"{file} cannot be used ({problem}): remove its folder and run build_engines.sh again, which builds the "
            "vision engine and writes it"
        ) from None
