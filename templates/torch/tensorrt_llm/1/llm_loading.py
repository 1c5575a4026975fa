"""The language model of a checkpoint, checked against the repository's settings."""

from __future__ import annotations

import importlib
from typing import Any

import torch
import transformers


def load(settings: dict[str, Any], device: torch.device) -> Any:
    """The language model that the settings' module loads, on `device`, in the settings' dtype, ready for inference.

    Raises ValueError, with the remedy, when the repository was generated for another checkpoint.
    """
    model = importlib.import_module(settings["module"]).load(settings, getattr(torch, settings["dtype"]))
    embedding = model.get_input_embeddings().weight
    for name, found in zip(("vocab_size", "hidden_size"), embedding.shape, strict=True):
        if found != settings[name]:
            raise ValueError(
                f"{settings['checkpoint']} has {name} {found}, this repository was generated for {settings[name]}: "
                "ids of the prompt table would be wrong; generate the repository again from this checkpoint"
            )
    # The checkpoint's own sampling defaults must not mix with the values of a request.
    model.generation_config = transformers.GenerationConfig()
    return model.to(device).eval()
