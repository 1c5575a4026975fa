"""LLaVA-1.5 by transformers alone: its processor, its chat template, its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor, LlavaForConditionalGeneration

from generator.oracle.common import Image, Oracle, checked_marks, from_checkpoint, open_image, with_pillow


class LlavaOracle(Oracle):
    """Truth of a `LlavaForConditionalGeneration` checkpoint in `folder`, fp16 on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.processor = with_pillow(AutoProcessor, folder)
        self.tokenizer = self.processor.tokenizer
        self.model = from_checkpoint(LlavaForConditionalGeneration, folder)
        self.image_id = int(self.model.config.image_token_id)
        self.end_ids = [int(self.tokenizer.eos_token_id)]
        self.pad_id = int(self.tokenizer.pad_token_id)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        marked = checked_marks(text, images)
        if raw:
            return text
        placed = [] if marked else [{"type": "image"}] * images
        message = {"role": "user", "content": [*placed, {"type": "text", "text": text}]}
        return str(self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False))

    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        ids: list[int] = self._inputs(text, images, raw)["input_ids"][0].tolist()
        return ids

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        opened = [open_image(image) for image in images]
        pixels = self.processor.image_processor(opened, return_tensors="pt")["pixel_values"]
        return pixels.to(torch.float16).numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        with torch.inference_mode():
            config = self.model.config
            features = self.model.get_image_features(
                torch.from_numpy(pixels),
                vision_feature_layer=config.vision_feature_layer,
                vision_feature_select_strategy=config.vision_feature_select_strategy,
            )
        rows: NDArray[np.float16] = torch.stack(list(features.pooler_output)).numpy()
        return rows

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        """As transformers itself does it, from ids and pixels."""
        inputs = self._inputs(text, images, raw)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.float16)
        new = self._generate(max_new_tokens, **inputs)
        return new, self.text(new)

    def _inputs(self, text: str, images: Sequence[Image], raw: bool) -> dict[str, torch.Tensor]:
        opened = [open_image(image) for image in images] or None
        prompt = self.prompt(text, len(images), raw)
        return dict(self.processor(text=prompt, images=opened, return_tensors="pt"))
