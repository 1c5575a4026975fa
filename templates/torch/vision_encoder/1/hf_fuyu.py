"""The vision side of a Hugging Face Fuyu checkpoint: one linear layer, which takes patches as they are cut."""

from __future__ import annotations

import torch
import transformers
from torch import nn


class FuyuVision(nn.Module):  # type: ignore[misc]
    """Patches [n, 1, P, patch * patch * channels] to rows of the prompt table [n, P, hidden]."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.embed(patches.flatten(0, 1))
        return rows


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The linear layer of the checkpoint folder on the CPU, in `dtype`: patches [n,1,P,2700] -> rows [n,P,hidden].

    transformers itself maps the names of the weights (they differ between its releases); the language model
    is left out by loading it with no layers.
    """
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.text_config.num_hidden_layers = 0
    model = transformers.FuyuForCausalLM.from_pretrained(checkpoint, config=config, torch_dtype=dtype)
    holder = model if hasattr(model, "vision_embed_tokens") else model.model
    return FuyuVision(holder.vision_embed_tokens)
