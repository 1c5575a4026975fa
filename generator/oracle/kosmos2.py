"""Kosmos-2 by transformers alone: its processor and its model; it has no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor, Kosmos2ForConditionalGeneration

from generator.oracle.common import MARK, Image, Oracle, from_checkpoint, open_image, with_pillow

IMAGE_POSITION = -1
"""Marks an image's positions in `ids`, where transformers writes the ids 4, 5, 6, ... of ordinary words."""


class Kosmos2Oracle(Oracle):
    """Truth of a `Kosmos2ForConditionalGeneration` checkpoint in `folder`, fp16 on the CPU; one image a request."""

    def __init__(self, folder: Path) -> None:
        self.processor = with_pillow(AutoProcessor, folder)
        self.tokenizer = self.processor.tokenizer
        self.kosmos = from_checkpoint(Kosmos2ForConditionalGeneration, folder)
        self.model = self.kosmos.text_model
        self.image_id = IMAGE_POSITION
        self.end_ids = [int(self.model.config.eos_token_id)]
        self.pad_id = int(self.tokenizer.pad_token_id)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        """`text` itself: the processor writes what stands before it."""
        if MARK in text or images != 1:
            raise ValueError(f"Kosmos-2 takes one image and no {MARK} mark; here are {images} and {text!r}")
        return text

    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        inputs = self._inputs(text, images, raw)
        is_image = inputs["image_embeds_position_mask"].bool()
        ids: list[int] = inputs["input_ids"].masked_fill(is_image, IMAGE_POSITION)[0].tolist()
        return ids

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        opened = [open_image(image) for image in images]
        pixels = self.processor.image_processor(opened, return_tensors="pt")["pixel_values"]
        return pixels.to(torch.float16).numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        """The sequence of layers is that of transformers' `generate`, which offers no method for it alone."""
        tower = self.kosmos.vision_model
        with torch.inference_mode():
            states = tower.model.post_layernorm(tower(torch.from_numpy(pixels))[0])
            rows, _ = self.kosmos.image_to_text_projection(torch.nn.functional.normalize(states, dim=-1))
        return rows.numpy()  # type: ignore[no-any-return]

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        """As transformers itself does it, from ids, pixels and the mask of image positions."""
        inputs = self._inputs(text, images, raw)
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.float16)
        new = self._generate(max_new_tokens, self.kosmos, **inputs)
        return new, self.text(new)

    def _inputs(self, text: str, images: Sequence[Image], raw: bool) -> dict[str, torch.Tensor]:
        prompt = self.prompt(text, len(images), raw)
        opened = [open_image(image) for image in images]
        return dict(self.processor(text=prompt, images=opened[0], return_tensors="pt"))
