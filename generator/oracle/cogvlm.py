"""CogVLM after the code that THUDM/cogvlm-chat-hf comes with, in plain functions; transformers has no class of it.

Everything is in bf16 on the CPU, angles of positions too, as that code has it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AutoTokenizer

from generator.oracle.common import MARK, Checkpoint, Image, Oracle, open_image, weights_of

BFloat16 = NDArray[Any]
"""numpy has no bf16: float32 arrays of values that bf16 holds exactly."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Weights = dict[str, torch.Tensor]
Past = dict[int, list[tuple[torch.Tensor, torch.Tensor]]]
"""By layer, keys and values [heads, L, c] of all calls so far."""


class CogvlmOracle(Oracle):
    """Truth of the checkpoint in `folder`, its tokenizer in the folder vicuna-7b-v1.5 beside it.

    A prompt is a begin token, one image and a text, which stands in a question unless it is `raw`.
    """

    image_id = -1
    question = "Question: {} Answer:"

    def __init__(self, folder: Path, tokenizer: Path | None = None) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = weights_of(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer or folder.parent / "vicuna-7b-v1.5")
        self.end_ids = [int(self.config["eos_token_id"])]
        self.pad_id = int(self.config["pad_token_id"])

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CogvlmOracle:
        return cls(checkpoint.folder, checkpoint.tokenizer)

    @property
    def rows_per_image(self) -> int:
        vision = self.config["vision_config"]
        return int((vision["image_size"] // vision["patch_size"]) ** 2) + 2

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        """What follows the image."""
        if images != 1 or MARK in text:
            raise ValueError(f"the prompt takes one image, {images} were given, and no {MARK} in {text!r}")
        return text if raw else self.question.format(text)

    def ids(self, text: str, images: Sequence[Any] = (), raw: bool = False) -> list[int]:
        after = self.tokenizer.encode(self.prompt(text, len(images), raw), add_special_tokens=False)
        return [self.tokenizer.bos_token_id, *[self.image_id] * self.rows_per_image, *after]

    def pixels(self, images: Sequence[Image]) -> BFloat16:
        """Squashed to a square, [n, 3, S, S]; torchvision's ToTensor and Normalize step by step."""
        side = self.config["vision_config"]["image_size"]
        squashed = [open_image(image).resize((side, side), 3) for image in images]
        levels = torch.from_numpy(np.stack([np.asarray(image) for image in squashed])).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        normal = levels.float().div(255).sub(mean).div(std)
        # In the order that a request carries them: convolutions of other layouts round differently on some processors.
        return normal.bfloat16().float().contiguous().numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: BFloat16) -> BFloat16:
        with torch.inference_mode():
            rows = [tower(self._part("model.vision."), self.config, image) for image in torch.from_numpy(pixels)]
        return torch.stack(rows).float().numpy()  # type: ignore[no-any-return]

    def continuation(self, ids: Sequence[int], rows: BFloat16 | None, max_new_tokens: int) -> list[int]:
        visual = torch.tensor([token == self.image_id for token in ids])
        return self.decoded(ids, rows, positions(visual), experts(visual), max_new_tokens)

    def decoded(
        self,
        ids: Sequence[int],
        rows: BFloat16 | None,
        places: torch.Tensor,
        seen: torch.Tensor,
        max_new_tokens: int,
    ) -> list[int]:
        """Greedy new ids, for any positions [L] and any choice of experts [L]: the entry for further mutations."""
        sequence = torch.tensor(list(ids))
        visual = sequence == self.image_id
        given = np.zeros((0, self.config["hidden_size"]), np.float32) if rows is None else rows
        flat = torch.from_numpy(np.ascontiguousarray(given)).reshape(-1, self.config["hidden_size"])
        if len(flat) != int(visual.sum()):
            raise ValueError(f"{int(visual.sum())} image positions but {len(flat)} vision rows")
        embedding = self.weights["model.embed_tokens.weight"]
        states = embedding[sequence.masked_fill(visual, 0)]
        states[visual] = flat.bfloat16()
        new: list[int] = []
        each: list[torch.Tensor] = []
        past: Past = {}
        with torch.inference_mode():
            while len(new) < max_new_tokens and not set(new) & set(self.end_ids):
                each.append(self.scores(states, places, seen, past)[-1])
                token = int(each[-1].argmax())
                new.append(token)
                states, places, seen = embedding[[token]], places[-1:] + 1, seen.new_zeros(1)
        self.logits = torch.stack(each).numpy()
        return new

    def scores(
        self, states: torch.Tensor, places: torch.Tensor, seen: torch.Tensor, past: Past | None = None
    ) -> torch.Tensor:
        """Embeddings [L, h], positions [L] and whether the experts read it [L] -> float32 [L, V].

        They follow those of the calls before with the same `past`.
        """
        past = {} if past is None else past
        for number in range(self.config["num_hidden_layers"]):
            own = past.setdefault(number, [])
            states = layer(self._part(f"model.layers.{number}."), self.config, states, places, seen, own)
        final = rms(states, self.weights["model.norm.weight"], self.config["rms_norm_eps"])
        return functional.linear(final, self.weights["lm_head.weight"]).float()

    def _part(self, prefix: str) -> Weights:
        return {name.removeprefix(prefix): self.weights[name] for name in self.weights if name.startswith(prefix)}


def positions(visual: torch.Tensor) -> torch.Tensor:
    """Of tokens [L], some of which are rows of the image: its first and last count as any, the others share a place."""
    inside = visual & visual.roll(1) & visual.roll(-1)
    inside[0] = inside[-1] = False
    steps = [0] + [0 if inside[i] and inside[i - 1] else 1 for i in range(1, len(visual))]
    return torch.tensor(steps).cumsum(0)


def experts(visual: torch.Tensor) -> torch.Tensor:
    """The image's rows but the last."""
    return torch.tensor([bool(own and after) for own, after in zip(visual, [*visual[1:], False], strict=True)])


def rms(states: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    exact = states.float()
    return (gain * (exact * torch.rsqrt((exact * exact).mean(-1, keepdim=True) + eps))).to(states.dtype)


def layer(
    weights: Weights,
    config: dict[str, Any],
    states: torch.Tensor,
    places: torch.Tensor,
    seen: torch.Tensor,
    past: list[tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """One layer of the language model: [L, h] -> [L, h]; its keys and values are added to `past`."""

    def chosen(
        name: str, x: torch.Tensor, kinds: tuple[str, str] = ("vision_expert", "language_expert")
    ) -> torch.Tensor:
        both = [
            functional.linear(x[mask], weights[name.format(kind)])
            for kind, mask in zip(kinds, (seen, ~seen), strict=True)
        ]
        mixed = x.new_zeros(len(x), both[0].shape[-1])
        mixed[seen], mixed[~seen] = both
        return mixed

    length, heads = len(states), config["num_attention_heads"]
    normed = rms(states, weights["input_layernorm.weight"], config["rms_norm_eps"])
    fused = chosen("self_attn.{}_query_key_value.weight", normed)
    query, key, value = (part.reshape(length, heads, -1).transpose(0, 1) for part in fused.split(states.shape[1], -1))
    angle = torch.outer(places.to(states.dtype), weights["self_attn.rotary_emb.inv_freq"])
    cosine, sine = (torch.cat([turn, turn], -1) for turn in (angle.cos(), angle.sin()))

    def turned(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return x * cosine + torch.cat([-x[..., half:], x[..., :half]], -1) * sine

    past.append((turned(key), value))
    keys, values = (torch.cat(parts, 1)[None] for parts in zip(*past, strict=True))
    mixed = functional.scaled_dot_product_attention(turned(query)[None], keys, values, is_causal=len(past) == 1)
    states = states + chosen("self_attn.{}_dense.weight", mixed[0].transpose(0, 1).reshape(length, -1))
    normed = rms(states, weights["post_attention_layernorm.weight"], config["rms_norm_eps"])
    kinds = ("vision", "language")
    gate, up = (chosen("mlp.{}_mlp." + name + "_proj.weight", normed, kinds) for name in ("gate", "up"))
    return states + chosen("mlp.{}_mlp.down_proj.weight", functional.silu(gate) * up, kinds)


def tower(weights: Weights, config: dict[str, Any], image: torch.Tensor) -> torch.Tensor:
    """Pixels [3, S, S] -> rows [N + 2, h]: patches through layers whose norms come last, the projector, two edges."""
    vision = config["vision_config"]
    width, heads = vision["hidden_size"], vision["num_heads"]

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
        return functional.layer_norm(x, (x.shape[-1],), weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    patches = functional.conv2d(
        image[None].bfloat16(),
        weights["patch_embedding.proj.weight"],
        weights["patch_embedding.proj.bias"],
        stride=vision["patch_size"],
    )
    states = torch.cat([weights["patch_embedding.cls_embedding"], patches[0].flatten(1).T])
    states = states + weights["patch_embedding.position_embedding.weight"]
    for number in range(vision["num_hidden_layers"]):
        name = f"transformer.layers.{number}."
        fused = linear(f"{name}attention.query_key_value", states).reshape(len(states), 3, heads, width // heads)
        query, key, value = fused.permute(1, 2, 0, 3)
        scores = torch.matmul(query * (width // heads) ** -0.5, key.transpose(1, 2)).softmax(-1)
        mixed = torch.matmul(scores, value).transpose(0, 1).reshape(len(states), width)
        eps = vision["layer_norm_eps"]
        states = states + norm(f"{name}input_layernorm", linear(f"{name}attention.dense", mixed), eps)
        grown = functional.gelu(linear(f"{name}mlp.fc1", states))
        states = states + norm(f"{name}post_attention_layernorm", linear(f"{name}mlp.fc2", grown), eps)
    rows = functional.gelu(norm("linear_proj.norm1", linear("linear_proj.linear_proj", states[1:])))
    gated = functional.silu(linear("linear_proj.gate_proj", rows)) * linear("linear_proj.dense_h_to_4h", rows)
    return torch.cat([weights["boi"][0], linear("linear_proj.dense_4h_to_h", gated), weights["eoi"][0]])
