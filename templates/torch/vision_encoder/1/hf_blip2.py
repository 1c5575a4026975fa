"""The vision side of a Hugging Face BLIP-2 checkpoint: vision model, Q-Former over its queries, projection."""

from __future__ import annotations

import torch
import transformers
from torch import nn


class Blip2Vision(nn.Module):  # type: ignore[misc]
    """Pixels [n, 3, S, S] to rows of the prompt table [n, N, hidden], one row for each query of the Q-Former.

    transformers 5 keeps the Q-Former and its queries in fp32 in a half-precision model; 4.45 does not. Both are
    taken as they were loaded, so the rows are those of the installed release.
    """

    def __init__(self, model: transformers.Blip2ForConditionalGeneration) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.query_tokens = model.query_tokens
        self.qformer = model.qformer
        self.projection = model.language_projection

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.vision_model(pixels).last_hidden_state
        queries = self.qformer(
            # no len(): it would be exported as a constant
            query_embeds=self.query_tokens.expand(pixels.shape[0], -1, -1),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:-1], dtype=torch.long, device=states.device),
        ).last_hidden_state
        rows: torch.Tensor = self.projection(queries.to(states.dtype))
        return rows


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The vision side of the checkpoint folder on the CPU, in `dtype`: pixels [n,3,S,S] -> rows [n,N,hidden].

    transformers itself maps the names of the weights (they differ between its releases); the language model
    is left out by loading it with no layers.
    """
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.text_config.num_hidden_layers = 0
    if hasattr(config.text_config, "num_decoder_layers"):  # an encoder-decoder counts the two sides apart
        config.text_config.num_decoder_layers = 0
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(checkpoint, config=config, torch_dtype=dtype)
    return Blip2Vision(model)
