"""The decoder of a Hugging Face vision-encoder-decoder checkpoint."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutput


class NougatDecoder(nn.Module):  # type: ignore[misc]
    """The decoder as a language model of its own; generate() is the whole model's, which keeps the cache of what the
    decoder attends to apart from that of its tokens."""

    def __init__(self, whole: transformers.VisionEncoderDecoderModel) -> None:
        super().__init__()
        self.whole = whole
        self.whole.generation_config = transformers.GenerationConfig()  # a request's values are all that counts

    def get_input_embeddings(self) -> nn.Module:
        return self.whole.decoder.get_input_embeddings()

    def forward(self, **inputs: Any) -> Any:
        """As MBartForCausalLM: input_ids, encoder_hidden_states, encoder_attention_mask and the cache."""
        return self.whole.decoder(**inputs)

    def generate(
        self,
        input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        generation_config: transformers.GenerationConfig,
        **more: Any,
    ) -> Any:
        """transformers' generate() from ids that begin with the decoder's start token, over features that are all
        valid."""
        generation_config.decoder_start_token_id = int(input_ids[0, 0])
        return self.whole.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            decoder_input_ids=input_ids,
            generation_config=generation_config,
            **more,
        )


def load(settings: dict[str, Any], dtype: torch.dtype) -> NougatDecoder:
    """The decoder of the checkpoint on the CPU, in `dtype`; the encoder is left out by loading it with no layers."""
    checkpoint = settings["checkpoint"]
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.encoder.depths = [0] * len(config.encoder.depths)
    model = transformers.VisionEncoderDecoderModel.from_pretrained(checkpoint, config=config, torch_dtype=dtype)
    return NougatDecoder(model)
