"""BLIP-2 with an OPT language model by transformers alone: its processor and its model; it has no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor, Blip2ForConditionalGeneration

from tests.oracle.common import MARK, Image, Oracle, from_checkpoint, open_image, with_pillow


class Blip2OptOracle(Oracle):
    """Truth of a `Blip2ForConditionalGeneration` checkpoint in `folder`, fp16 on the CPU (Q-Former fp32, as there).

    Each request has exactly one image, whose rows stand before the text and its BOS.
    """

    def __init__(self, folder: Path) -> None:
        self.processor = with_pillow(AutoProcessor, folder)
        self.tokenizer = self.processor.tokenizer
        self.blip = from_checkpoint(Blip2ForConditionalGeneration, folder)
        self.model = self.blip.language_model
        self.image_id = int(self.blip.config.image_token_id)
        self.end_ids = [int(self.model.config.eos_token_id)]  # a newline, not the tokenizer's end of text
        self.pad_id = int(self.tokenizer.pad_token_id)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        if MARK in text or images != 1:
            raise ValueError(f"BLIP-2 takes one image and no {MARK} mark; here are {images} and {text!r}")
        return text

    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        ids: list[int] = self._inputs(text, images, raw)["input_ids"][0].tolist()
        return ids

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        opened = [open_image(image) for image in images]
        pixels = self.processor.image_processor(opened, return_tensors="pt")["pixel_values"]
        return pixels.to(torch.float16).numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        with torch.inference_mode():
            rows: NDArray[np.float16] = self.blip.get_image_features(torch.from_numpy(pixels)).pooler_output.numpy()
        return rows

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        """As transformers itself does it, from ids and pixels."""
        inputs = self._inputs(text, images, raw)
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.float16)
        new = self._generate(max_new_tokens, self.blip, **inputs)
        return new, self.text(new)

    def _inputs(self, text: str, images: Sequence[Image], raw: bool) -> dict[str, torch.Tensor]:
        prompt = self.prompt(text, len(images), raw)
        opened = [open_image(image) for image in images]
        return dict(self.processor(text=prompt, images=opened, return_tensors="pt"))
