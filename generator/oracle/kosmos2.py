"""Kosmos-2 by transformers alone: its processor and its model; it has no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Kosmos2ForConditionalGeneration

from generator.oracle.common import MARK, Image, open_image
from generator.oracle.processor import ProcessorOracle

IMAGE_POSITION = -1
"""Marks an image's positions in `ids`, where transformers writes the ids 4, 5, 6, ... of ordinary words."""


class Kosmos2Oracle(ProcessorOracle):
    """Truth of a `Kosmos2ForConditionalGeneration` checkpoint in `folder`, fp16 on the CPU; one image a request."""

    model_class: Any = Kosmos2ForConditionalGeneration

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = self.whole.text_model
        self.end_ids = [int(self.model.config.eos_token_id)]

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

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        """The sequence of layers is that of transformers' `generate`, which offers no method for it alone."""
        tower = self.whole.vision_model
        with torch.inference_mode():
            states = tower.model.post_layernorm(tower(torch.from_numpy(pixels))[0])
            rows, _ = self.whole.image_to_text_projection(torch.nn.functional.normalize(states, dim=-1))
        return rows.numpy()  # type: ignore[no-any-return]

    def _image_id(self) -> int:
        return IMAGE_POSITION

    def _inputs(self, text: str, images: Sequence[Image], raw: bool) -> dict[str, torch.Tensor]:
        prompt = self.prompt(text, len(images), raw)
        return dict(self.processor(text=prompt, images=open_image(images[0]), return_tensors="pt"))
