"""The vision side of a Hugging Face LLaVA-NeXT checkpoint: LLaVA's for each tile, and the newline row."""

from __future__ import annotations

import torch
import transformers
from hf_llava import load

__all__ = ["constants", "load"]


def constants(checkpoint: str, dtype: torch.dtype) -> torch.Tensor:
    """Rows that no picture changes, [1, hidden] on the CPU in `dtype`: the row that ends each line of a picture."""
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.text_config.num_hidden_layers = 0
    model = transformers.LlavaNextForConditionalGeneration.from_pretrained(checkpoint, config=config, torch_dtype=dtype)
    holder = model if hasattr(model, "image_newline") else model.model
    newline: torch.Tensor = holder.image_newline.detach().to(dtype)
    return newline[None]
