"""The language model of a Hugging Face checkpoint, without its vision tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VISION_PARTS = ("vision_tower", "vision_model", "visual", "multi_modal_projector", "vision_embed_tokens")


def load(settings: dict[str, Any], dtype: torch.dtype) -> Any:
    """The transformers model that the checkpoint's config names, or a part of it as the settings say, on the CPU."""
    folder = str(Path(settings["checkpoint"], settings["subfolder"]))
    [architecture] = transformers.AutoConfig.from_pretrained(folder).architectures
    model = getattr(transformers, architecture).from_pretrained(folder, torch_dtype=dtype)
    if settings["attribute"]:
        model = getattr(model, settings["attribute"])
    for holder in (model, getattr(model, "model", None)):
        for part in VISION_PARTS:
            if hasattr(holder, part):
                setattr(holder, part, None)
    return model
