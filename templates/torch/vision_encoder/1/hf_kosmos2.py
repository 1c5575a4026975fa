"""The vision side of a Hugging Face Kosmos-2 checkpoint: vision model, its last norm, resampler to the LLM's width."""

from __future__ import annotations

import torch
import transformers
from torch import nn
from torch.nn import functional


class Kosmos2Vision(nn.Module):  # type: ignore[misc]
    """Pixels [n, 3, S, S] to rows of the prompt table [n, N, hidden], one row for each latent query.

    The rows are unscaled: the language model multiplies all its embeddings, these too, by the root of its width.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.projection = projection

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.vision_model.model.post_layernorm(self.vision_model(pixels).last_hidden_state)
        rows: torch.Tensor = self.projection(functional.normalize(states, dim=-1))[0]
        return rows


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The vision side of the checkpoint folder on the CPU, in `dtype`: pixels [n,3,S,S] -> rows [n,N,hidden].

    transformers itself maps the names of the weights (they differ between its releases); the language model
    is left out by loading it with no layers.
    """
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.text_config.num_hidden_layers = 0
    model = transformers.Kosmos2ForConditionalGeneration.from_pretrained(checkpoint, config=config, torch_dtype=dtype)
    return Kosmos2Vision(model.vision_model, model.image_to_text_projection)
