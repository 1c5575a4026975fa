"""The vision side of a Hugging Face Nougat checkpoint: its Swin encoder."""

from __future__ import annotations

import torch
import transformers
from torch import nn


class NougatVision(nn.Module):  # type: ignore[misc]
    """Pixels [n, 3, H, W] to the features that the decoder attends to: [n, N, hidden]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.encoder(pixels).last_hidden_state
        return features


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The encoder of the checkpoint folder on the CPU, in `dtype`; the decoder is left out by loading it with no
    layers."""
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.decoder.decoder_layers = 0
    model = transformers.VisionEncoderDecoderModel.from_pretrained(checkpoint, config=config, torch_dtype=dtype)
    return NougatVision(model.encoder)
