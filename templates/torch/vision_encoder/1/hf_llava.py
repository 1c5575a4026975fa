"""The vision side of a Hugging Face LLaVA checkpoint: tower, chosen hidden state, projector."""

from __future__ import annotations

import torch
import transformers
from torch import nn

SELECT_STRATEGIES = ("default", "full")


class LlavaVision(nn.Module):  # type: ignore[misc]
    """Pixels [n, 3, S, S] to rows of the prompt table [n, N, hidden], in the dtype of the weights."""

    def __init__(self, tower: nn.Module, projector: nn.Module, layers: list[int], drop_class_token: bool) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.layers = layers
        self.first_patch = 1 if drop_class_token else 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        chosen = [states[layer][:, self.first_patch :] for layer in self.layers]
        features = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)
        rows: torch.Tensor = self.projector(features)
        return rows


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The vision side of the checkpoint folder on the CPU, in `dtype`: pixels [n,3,S,S] -> rows [n,N,hidden].

    transformers itself maps the names of the weights (they differ between its releases); the language model
    is left out by loading it with no layers. Raises ValueError for a select strategy other than HF's two.
    """
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.text_config.num_hidden_layers = 0
    strategy, layer = config.vision_feature_select_strategy, config.vision_feature_layer
    if strategy not in SELECT_STRATEGIES:
        raise ValueError(
            f"{checkpoint}/config.json: vision_feature_select_strategy {strategy!r} is not "
            f"one of {', '.join(SELECT_STRATEGIES)}"
        )
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(checkpoint, config=config, torch_dtype=dtype)
    holder = model if hasattr(model, "vision_tower") else model.model  # up to transformers 4, and from 5 on
    return LlavaVision(
        holder.vision_tower,
        holder.multi_modal_projector,
        [layer] if isinstance(layer, int) else list(layer),
        drop_class_token=strategy == "default",
    )
