"""The encoder of a Hugging Face Pix2Struct checkpoint, which reads patches of a chart."""

from __future__ import annotations

import torch
import transformers
from torch import nn


class Pix2StructVision(nn.Module):  # type: ignore[misc]
    """Patches [n, P, 2 + pixels] to rows [n, P, hidden]; those of patches that do not exist mean nothing.

    A patch begins with its line and column, counted from 1; where these are 0 there is none, and it is masked.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        valid = (patches[:, :, 0] != 0).float()
        rows: torch.Tensor = self.encoder(flattened_patches=patches, attention_mask=valid).last_hidden_state
        return rows


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The encoder of the checkpoint folder on the CPU, in `dtype`: patches [n,P,770] -> rows [n,P,hidden].

    transformers itself maps the names of the weights; the decoder is left out by loading it with no layers.
    """
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.text_config.num_layers = 0
    model = transformers.Pix2StructForConditionalGeneration.from_pretrained(
        checkpoint, config=config, torch_dtype=dtype
    )
    return Pix2StructVision(model.encoder)
