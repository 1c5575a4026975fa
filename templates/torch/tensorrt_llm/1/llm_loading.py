"""The language model of a checkpoint, without its vision tower, checked against the repository's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VISION_PARTS = ("vision_tower", "vision_model", "visual", "multi_modal_projector")


def load(settings: dict[str, Any], device: torch.device) -> Any:
    """The transformers model named by the settings, on `device`, in the settings' dtype, ready for inference.

    Raises ValueError, with the remedy, when the repository was generated for another checkpoint.
    """
    folder = Path(settings["checkpoint"], settings["subfolder"])
    auto_class = getattr(transformers, settings["auto_class"])
    model = auto_class.from_pretrained(str(folder), torch_dtype=getattr(torch, settings["dtype"]))
    if settings["attribute"]:
        model = getattr(model, settings["attribute"])
    for holder in (model, getattr(model, "model", None)):
        for part in VISION_PARTS:
            if hasattr(holder, part):
                setattr(holder, part, None)
    embedding = model.get_input_embeddings().weight
    for name, found in zip(("vocab_size", "hidden_size"), embedding.shape, strict=True):
        if found != settings[name]:
            raise ValueError(
                f"{folder} has {name} {found}, this repository was generated for {settings[name]}: "
                "ids of the prompt table would be wrong; generate the repository again from this checkpoint"
            )
    # The checkpoint's own sampling defaults must not mix with the values of a request.
    model.generation_config = transformers.GenerationConfig()
    return model.to(device).eval()
