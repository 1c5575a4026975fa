"""The vision side of a CogVLM checkpoint: EVA2-CLIP tower, gated projector, a row before and one after the patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

VISION = "model.vision."
EPS = 1e-5  # of the projector's norm, which config.json does not state


class Patches(nn.Module):  # type: ignore[misc]
    """Pixels [n, 3, S, S] to the class token and one token per patch, their positions added: [n, 1 + N, c]."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.proj = nn.Conv2d(config["in_channels"], width, kernel_size=patch, stride=patch)
        self.cls_embedding = nn.Parameter(torch.empty(1, width))
        self.position_embedding = nn.Embedding(config["num_positions"], width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        first = self.cls_embedding.expand(patches.shape[0], -1, -1)  # no len(): it would be exported as a constant
        tokens: torch.Tensor = torch.cat([first, patches], dim=1) + self.position_embedding.weight
        return tokens


class Attention(nn.Module):  # type: ignore[misc]
    """Written out, as the guide patches the published code, whose kernel needs a GPU, for the engine."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.heads = config["num_heads"]
        self.query_key_value = nn.Linear(width, 3 * width)
        self.dense = nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        n, length, width = states.shape
        fused = self.query_key_value(states).view(n, length, 3, self.heads, -1)
        query, key, value = fused.permute(2, 0, 3, 1, 4)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ value
        output: torch.Tensor = self.dense(mixed.transpose(1, 2).reshape(n, length, width))
        return output


class Layer(nn.Module):  # type: ignore[misc]
    """A layer whose norms stand after attention and MLP."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.input_layernorm = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(config)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(width, config["intermediate_size"]),
                "fc2": nn.Linear(config["intermediate_size"], width),
            }
        )
        self.activation = ACT2FN[config["hidden_act"]]
        self.post_attention_layernorm = nn.LayerNorm(width, eps=eps)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states + self.input_layernorm(self.attention(states))
        grown = self.mlp["fc2"](self.activation(self.mlp["fc1"](states)))
        output: torch.Tensor = states + self.post_attention_layernorm(grown)
        return output


class Projector(nn.Module):  # type: ignore[misc]
    """Patches [n, N, c] to the language model's width, [n, N, hidden]."""

    def __init__(self, width: int, hidden: int, grown: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(width, hidden, bias=False)
        self.norm1 = nn.LayerNorm(hidden, eps=EPS)
        self.gate_proj = nn.Linear(hidden, grown, bias=False)
        self.dense_h_to_4h = nn.Linear(hidden, grown, bias=False)
        self.dense_4h_to_h = nn.Linear(grown, hidden, bias=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        states = functional.gelu(self.norm1(self.linear_proj(patches)))
        rows: torch.Tensor = self.dense_4h_to_h(functional.silu(self.gate_proj(states)) * self.dense_h_to_4h(states))
        return rows


class CogvlmVision(nn.Module):  # type: ignore[misc]
    """Pixels [n, 3, S, S] to rows of the prompt table [n, N + 2, hidden], N = (S / patch)^2, in the weights' dtype."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        vision, hidden = config["vision_config"], config["hidden_size"]
        self.patch_embedding = Patches(vision)
        layers = nn.ModuleList(Layer(vision) for _ in range(vision["num_hidden_layers"]))
        self.transformer = nn.ModuleDict({"layers": layers})
        self.linear_proj = Projector(vision["hidden_size"], hidden, config["intermediate_size"])
        self.boi = nn.Parameter(torch.empty(1, 1, hidden))
        self.eoi = nn.Parameter(torch.empty(1, 1, hidden))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.patch_embedding(pixels)
        for layer in self.transformer["layers"]:
            states = layer(states)
        rows = self.linear_proj(states[:, 1:])
        begin, end = (edge.expand(rows.shape[0], -1, -1) for edge in (self.boi, self.eoi))
        return torch.cat([begin, rows, end], dim=1)


def load(checkpoint: str, dtype: torch.dtype) -> nn.Module:
    """The vision side of the checkpoint folder on the CPU, in `dtype`: pixels [n,3,S,S] -> rows [n,N+2,hidden].

    Raises ValueError, naming folder and remedy, when its weights are not there or are those of another model.
    """
    folder = Path(checkpoint)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith(VISION)]  # noqa: SIM118 (not a mapping)
            weights.update({name.removeprefix(VISION): tensors.get_tensor(name).to(dtype) for name in names})
    if not weights:
        raise ValueError(f"{folder} holds no .safetensors file with {VISION}*: download the checkpoint's weights again")
    with torch.device("meta"):
        vision = CogvlmVision(config)
    try:
        vision.load_state_dict(weights, assign=True)
    except RuntimeError as problem:
        raise ValueError(f"{folder} is not a checkpoint of CogVLM's first generation: {problem}") from None
    return vision
