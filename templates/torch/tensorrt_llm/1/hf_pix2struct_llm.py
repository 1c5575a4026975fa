"""The text decoder of a Hugging Face Pix2Struct checkpoint."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutput


class Pix2StructDecoder(nn.Module):  # type: ignore[misc]
    """The decoder as a language model of its own; only the whole model has generate()."""

    def __init__(self, whole: transformers.Pix2StructForConditionalGeneration) -> None:
        super().__init__()
        self.whole = whole

    def get_input_embeddings(self) -> nn.Module:
        return self.whole.decoder.get_input_embeddings()

    def forward(self, **inputs: Any) -> Any:
        """As Pix2StructTextModel: input_ids, encoder_hidden_states, encoder_attention_mask and the cache."""
        return self.whole.decoder(**inputs)

    def generate(
        self,
        input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        generation_config: transformers.GenerationConfig,
        **more: Any,
    ) -> Any:
        """transformers' generate() from ids that begin with the decoder's start token."""
        generation_config.decoder_start_token_id = int(input_ids[0, 0])
        return self.whole.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=input_ids,
            generation_config=generation_config,
            **more,
        )


def load(settings: dict[str, Any], dtype: torch.dtype) -> Pix2StructDecoder:
    """The decoder of the checkpoint on the CPU, in `dtype`; the encoder is left out by loading it with no layers."""
    config = transformers.AutoConfig.from_pretrained(settings["checkpoint"])
    config.vision_config.num_hidden_layers = 0
    whole = transformers.Pix2StructForConditionalGeneration.from_pretrained(
        settings["checkpoint"], config=config, torch_dtype=dtype
    )
    return Pix2StructDecoder(whole)
