"""The vision side of a checkpoint in VILA's own layout: config.json, vision_tower/ and mm_projector/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

TOWERS = ("siglip_vision_model", "clip_vision_model")  # the ones that transformers has classes for
PROJECTOR = "mlp_downsample"


class MergeBlocks(nn.Module):  # type: ignore[misc]
    """Four neighbouring patches become one row: [n, s*s, c] -> [n, ceil(s/2)^2, 4c].

    An odd grid gets a zero row and column at its bottom and right. A merged vector holds the four patches of
    its 2x2 block in reading order. The merged rows run down the COLUMNS of the block grid: the order that
    VILA1.5 was trained with (the NVILA release changed it under the same projector name).
    """

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        n, count, c = patches.shape
        side = int(count**0.5)
        grid = patches.reshape(n, side, side, c)
        grid = functional.pad(grid, (0, 0, 0, side % 2, 0, side % 2))
        blocks = (side + 1) // 2
        grid = grid.reshape(n, blocks, 2, blocks, 2, c)  # block row, row in it, block column, column in it
        return grid.permute(0, 3, 1, 2, 4, 5).reshape(n, blocks * blocks, 4 * c)


class VilaVision(nn.Module):  # type: ignore[misc]
    """Pixels [n, 3, S, S] to rows of the prompt table [n, N, hidden], in the dtype of the weights."""

    def __init__(self, tower: nn.Module, projector: nn.Module, layer: int, drop_class_token: bool) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.layer = layer
        self.first_patch = 1 if drop_class_token else 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        rows: torch.Tensor = self.projector(states[self.layer][:, self.first_patch :])
        return rows


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The vision side of the checkpoint folder on the CPU, in `dtype`: pixels [n,3,S,S] -> rows [n,N,hidden].

    Raises ValueError, naming file and remedy, for a tower, projector or setting that this module cannot run.
    """
    folder = Path(checkpoint)
    config = _json(folder / "config.json")
    if config.get("s2"):
        raise ValueError(f"{folder}/config.json: s2 (several scales) is not served by --runtime torch; use trtllm")
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        raise ValueError(f"{folder}/config.json: mm_vision_select_feature {feature!r} is not patch or cls_patch")
    return VilaVision(
        _tower(folder / "vision_tower", dtype),
        _projector(folder / "mm_projector").to(dtype),
        config.get("mm_vision_select_layer", -2),
        drop_class_token=feature == "patch",
    )


def _tower(folder: Path, dtype: torch.dtype) -> nn.Module:
    kind = _json(folder / "config.json").get("model_type")
    if kind not in TOWERS:
        raise ValueError(
            f"{folder}/config.json: the tower {kind!r} is no part of transformers, so --runtime torch cannot "
            f"run it (it runs {', '.join(TOWERS)}); use --runtime trtllm"
        )
    tower: nn.Module = transformers.AutoModel.from_pretrained(str(folder), torch_dtype=dtype)
    return tower


def _projector(folder: Path) -> nn.Module:
    kind = _json(folder / "config.json").get("mm_projector_type")
    if kind != PROJECTOR:
        raise ValueError(
            f"{folder}/config.json: the projector {kind!r} is not served by --runtime torch (it runs "
            f"{PROJECTOR!r}); use --runtime trtllm"
        )
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(str(file)))
    if not weights:
        raise ValueError(f"{folder} holds no .safetensors file: convert the projector's weights to safetensors")
    weights = {name.removeprefix("layers."): weight for name, weight in weights.items()}
    hidden, merged = weights["2.weight"].shape
    projector = nn.Sequential(
        MergeBlocks(), nn.LayerNorm(merged), nn.Linear(merged, hidden), nn.GELU(), nn.Linear(hidden, hidden)
    )
    projector.load_state_dict(weights)
    return projector


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
