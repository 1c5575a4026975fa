"""Models that transformers does all of: its processor makes ids and pixels, its class generates from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor

from generator.oracle.common import Image, Oracle, from_checkpoint, open_image, with_pillow


class ProcessorOracle(Oracle):
    """Truth of a checkpoint of `model_class` in `folder`, fp16 on the CPU, of which `model` may be but a part."""

    model_class: Any
    """The class of transformers, whose `generate` takes what the processor makes."""

    def __init__(self, folder: Path) -> None:
        self.processor = with_pillow(AutoProcessor, folder)
        self.tokenizer = self.processor.tokenizer
        self.whole = from_checkpoint(self.model_class, folder)
        self.model = self.whole
        self.image_id = self._image_id()
        self.end_ids = [int(self.tokenizer.eos_token_id)]
        self.pad_id = int(self.tokenizer.pad_token_id)

    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        ids: list[int] = self._inputs(text, images, raw)["input_ids"][0].tolist()
        return ids

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        opened = [open_image(image) for image in images]
        pixels = self.processor.image_processor(opened, return_tensors="pt")["pixel_values"]
        return pixels.to(torch.float16).numpy()  # type: ignore[no-any-return]

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        """As transformers itself does it, from what its processor makes."""
        inputs = self._inputs(text, images, raw)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.float16)
        new = self._generate(max_new_tokens, self.whole, **inputs)
        return new, self.text(new)

    def _image_id(self) -> int:
        return int(self.whole.config.image_token_id)

    def _inputs(self, text: str, images: Sequence[Image], raw: bool) -> dict[str, torch.Tensor]:
        opened = [open_image(image) for image in images] or None
        prompt = self.prompt(text, len(images), raw)
        return dict(self.processor(text=prompt, images=opened, return_tensors="pt"))
