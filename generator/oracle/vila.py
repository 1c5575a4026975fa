"""VILA1.5, for which transformers has no class: tower and LLM by transformers, the rest composed here.

What is composed follows the original repository (NVlabs/VILA, September 2024): its prompt, its split at
`<image>`, its resize before the image processor, its projector with the 2x2 merge.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer, LlamaForCausalLM, SiglipVisionModel

from generator.oracle.common import (
    MARK,
    Checkpoint,
    Image,
    Oracle,
    checked_marks,
    from_checkpoint,
    open_image,
    with_pillow,
)

IMAGE_TOKEN_INDEX = -200
"""The original's stand-in for one image; here it stands at each of the image's N positions."""


@dataclass(frozen=True)
class Conversation:
    """How a checkpoint was taught to chat: the text around a question, and the token that ends an answer."""

    before: str
    after: str
    stop: str


CONVERSATIONS = {
    "vicuna_v1": Conversation(
        before="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ",
        after=" ASSISTANT:",
        stop="</s>",
    ),
    "llama_3": Conversation(
        before="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "You are a helpful language and vision assistant. "
        "You are able to understand the visual content that the user provides, "
        "and assist the user with a variety of tasks using natural language."
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
        after="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        stop="<|eot_id|>",
    ),
    "hermes-2": Conversation(
        before="<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n",
        after="<|im_end|><|im_start|>assistant\n",
        stop="<|im_end|>",
    ),
}


class VilaOracle(Oracle):
    """Truth of a VILA1.5 checkpoint in `folder` (llm, vision_tower, mm_projector), fp16 on the CPU."""

    def __init__(self, folder: Path, conversation: str = "vicuna_v1") -> None:
        self.conversation = CONVERSATIONS[conversation]
        self.config = json.loads((folder / "config.json").read_text())
        if self.config["image_aspect_ratio"] != "resize" or self.config["mm_vision_select_feature"] != "cls_patch":
            raise ValueError("the oracle knows image_aspect_ratio 'resize' with select_feature 'cls_patch' only")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
        self.model = from_checkpoint(LlamaForCausalLM, folder / "llm")
        self.tower = from_checkpoint(SiglipVisionModel, folder / "vision_tower")
        self.image_processor = with_pillow(AutoImageProcessor, folder / "vision_tower")
        self.projector = load_file(folder / "mm_projector" / "model.safetensors")
        self.image_id = IMAGE_TOKEN_INDEX
        stop_id = self.tokenizer.convert_tokens_to_ids(self.conversation.stop)
        self.end_ids = sorted({int(self.tokenizer.eos_token_id), int(stop_id)})
        self.pad_id = int(self.tokenizer.pad_token_id)
        side = int(self.tower.config.image_size) // int(self.tower.config.patch_size)
        self.rows_per_image = ((side + 1) // 2) ** 2

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> VilaOracle:
        return cls(checkpoint.folder, checkpoint.conversation)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        marked = checked_marks(text, images)
        if raw:
            return text
        question = text if marked else f"{MARK}\n" * images + text
        return self.conversation.before + question + self.conversation.after

    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        """Each piece between marks is tokenized alone. If the first begins with BOS, the others lose one id.

        A template that spells BOS out, as llama_3 does, therefore has two: the tokenizer's and its own.
        """
        prompt = self.prompt(text, len(images), raw)
        if prompt.count(MARK) != len(images):
            raise ValueError(f"{len(images)} images but {prompt.count(MARK)} {MARK} marks in the raw prompt")
        first, *others = (self.tokenizer(piece).input_ids for piece in prompt.split(MARK))
        drop = 1 if first and first[0] == self.tokenizer.bos_token_id else 0
        ids: list[int] = list(first)
        for piece in others:
            ids += [IMAGE_TOKEN_INDEX] * self.rows_per_image + piece[drop:]
        return ids

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """Squashed to a square by Pillow's default filter, then rescaled and normalised by transformers."""
        size = self.image_processor.size
        squashed = [open_image(image).resize((size["width"], size["height"])) for image in images]
        pixels = self.image_processor(squashed, return_tensors="pt")["pixel_values"]
        return pixels.to(torch.float16).numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        with torch.inference_mode():
            hidden = self.tower(torch.from_numpy(pixels), output_hidden_states=True).hidden_states
            projected = mlp_downsample(hidden[self.config["mm_vision_select_layer"]], self.projector)
        rows: NDArray[np.float16] = projected.numpy()
        return rows


def mlp_downsample(patches: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Project [n, side * side, c] to [n, ceil(side / 2) ** 2, h].

    Four neighbours become one row: upper left, upper right, lower left, lower right, joined along channels. A
    missing neighbour at the lower and right border is zero. Rows run down one column of blocks after another.
    """
    count, length, channels = patches.shape
    side = round(length**0.5)
    grid = patches.reshape(count, side, side, channels)
    odd = side % 2
    grid = functional.pad(grid, (0, 0, 0, odd, 0, odd))
    neighbours = [grid[:, down::2, right::2] for down in (0, 1) for right in (0, 1)]
    blocks = torch.cat(neighbours, dim=-1)
    merged = blocks.transpose(1, 2).reshape(count, -1, 4 * channels)
    normed = functional.layer_norm(merged, merged.shape[-1:], weights["layers.1.weight"], weights["layers.1.bias"])
    hidden = functional.gelu(functional.linear(normed, weights["layers.2.weight"], weights["layers.2.bias"]))
    return functional.linear(hidden, weights["layers.4.weight"], weights["layers.4.bias"])
