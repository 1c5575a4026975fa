"""The vision side of a Phi-3-vision checkpoint: CLIP tower, 2x2 merge of patches, projector, separator rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import nn

VISION = "model.vision_embed_tokens."
TOWER = "img_processor.vision_model."
HEAD_WIDTH = 64  # of CLIP's attention; the checkpoint does not tell the number of heads
SERVED: dict[str, dict[str, Any]] = {
    "embd_layer": {"hd_transform_order": "sub_glb", "projection_cls": "mlp", "use_hd_transform": True},
    "img_processor": {"name": "clip_vision_model", "type_feature": "patch"},
}


class Phi3Vision(nn.Module):  # type: ignore[misc]
    """Views [n, 3, S, S] to rows of the prompt table [n, N, hidden], in the dtype of the weights.

    N is a quarter of the tower's patches: a row holds the four patches of a 2x2 block in reading order, and the rows
    of a view are in reading order, too.
    """

    def __init__(self, tower: nn.Module, projector: nn.Module, layer: int) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.layer = layer

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        patches = self.tower(views, output_hidden_states=True).hidden_states[self.layer][:, 1:]
        n, count, c = patches.shape
        blocks = int(count**0.5) // 2
        grid = patches.reshape(n, blocks, 2, blocks, 2, c)  # block row, row in it, block column, column in it
        rows: torch.Tensor = self.projector(grid.transpose(2, 3).reshape(n, blocks * blocks, 4 * c))
        return rows


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The vision side of the checkpoint folder on the CPU, in `dtype`: pixels [n,3,S,S] -> rows [n,N,hidden].

    Raises ValueError, naming file and remedy, for a setting that this module cannot run.
    """
    folder = Path(checkpoint)
    layer = _checked(folder).get("layer_idx", -2)
    weights = _vision_weights(folder)
    return Phi3Vision(_tower(weights), _projector(weights), layer).to(dtype)


def constants(checkpoint: str, dtype: torch.dtype) -> torch.Tensor:
    """Rows that all images share, [2, hidden] in `dtype`: behind each line of rows, and before the global view."""
    folder = Path(checkpoint)
    _checked(folder)
    weights = _vision_weights(folder)
    separators = torch.stack([weights["sub_GN"].flatten(), weights["glb_GN"].flatten()])
    with torch.inference_mode():
        rows: torch.Tensor = _projector(weights).to(dtype)(separators.to(dtype))
    return rows.clone()


def _checked(folder: Path) -> dict[str, Any]:
    """The img_processor part of config.json. Raises ValueError for a setting that is not served."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part, served in SERVED.items():
        for name, value in served.items():
            found = config[part].get(name, value)
            if found != value:
                raise ValueError(f"{folder}/config.json: {part}.{name} is {found!r}; only {value!r} is served")
    image_settings: dict[str, Any] = config["img_processor"]
    return image_settings


def _vision_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith(VISION)]  # noqa: SIM118 (not a mapping)
            weights.update({name.removeprefix(VISION): tensors.get_tensor(name) for name in names})
    if not weights:
        raise ValueError(f"{folder} holds no .safetensors file with {VISION}*: download the checkpoint's weights again")
    return weights


def _tower(weights: dict[str, torch.Tensor]) -> nn.Module:
    """The tower, its sizes taken from its weights: config.json names ViT-L/14-336 and describes nothing."""
    own = {name.removeprefix(TOWER): weight for name, weight in weights.items() if name.startswith(TOWER)}
    width, channels, patch_size, _ = own["embeddings.patch_embedding.weight"].shape
    positions = len(own["embeddings.position_embedding.weight"])
    config = transformers.CLIPVisionConfig(
        hidden_act="quick_gelu",
        hidden_size=width,
        image_size=patch_size * int((positions - 1) ** 0.5),
        intermediate_size=len(own["encoder.layers.0.mlp.fc1.bias"]),
        layer_norm_eps=1e-5,
        num_attention_heads=width // HEAD_WIDTH,
        num_channels=channels,
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in own if name.startswith("encoder.layers.")),
        patch_size=patch_size,
    )
    tower: nn.Module = transformers.CLIPVisionModel(config)
    inner = getattr(tower, "vision_model", tower)  # transformers 5 has one level less
    inner.load_state_dict(own)
    return tower


def _projector(weights: dict[str, torch.Tensor]) -> nn.Sequential:
    hidden, merged = weights["img_projection.0.weight"].shape
    projector = nn.Sequential(nn.Linear(merged, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    name = "img_projection."
    projector.load_state_dict({key.removeprefix(name): weights[key] for key in weights if key.startswith(name)})
    return projector
