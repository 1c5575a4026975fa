"""LLaVA-NeXT by transformers alone: its processor, its chat template, its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

from generator.oracle.common import Image, Oracle, checked_marks, from_checkpoint, open_image, with_pillow


class LlavaNextOracle(Oracle):
    """Truth of a `LlavaNextForConditionalGeneration` checkpoint in `folder`, fp16 on the CPU.

    An image is T tiles (3 to 5, the whole picture first), so `pixels` and `rows` have tiles where other models
    have images. The image positions of `ids` take `packed`: rows chosen and mixed with the newline row.
    """

    def __init__(self, folder: Path) -> None:
        self.processor = with_pillow(AutoProcessor, folder)
        self.tokenizer = self.processor.tokenizer
        self.model = from_checkpoint(LlavaNextForConditionalGeneration, folder)
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
        """Tiles of all images, one image after another, [sum of T, 3, S, S]."""
        each = [self._image_inputs(image)["pixel_values"][0] for image in images]
        return torch.cat(each).to(torch.float16).numpy()  # type: ignore[no-any-return]

    def sizes(self, images: Sequence[Image]) -> list[tuple[int, int]]:
        """Height and width of each image as the processor sees it."""
        return [tuple(self._image_inputs(image)["image_sizes"][0].tolist()) for image in images]

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        """What the engine gives, [tiles, N, h], before any row is chosen."""
        model, config = self.model.model, self.model.config
        if config.vision_feature_select_strategy != "default":
            raise ValueError("the oracle knows vision_feature_select_strategy 'default' only")
        with torch.inference_mode():
            states = model.vision_tower(torch.from_numpy(pixels), output_hidden_states=True).hidden_states
            rows: NDArray[np.float16] = model.multi_modal_projector(states[config.vision_feature_layer][:, 1:]).numpy()
        return rows

    def constants(self) -> NDArray[np.float16]:
        """Rows that no picture changes, [1, h]: the newline."""
        newline: NDArray[np.float16] = self.model.model.image_newline.detach().numpy()[None]
        return newline

    def packed(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """The rows that the image positions of `ids` take, in order, [1, count, h], from transformers' own packing."""
        packed = []
        for image in images:
            inputs = self._image_inputs(image)
            with torch.inference_mode():
                features = self.model.get_image_features(inputs["pixel_values"].half(), inputs["image_sizes"])
            packed += list(features.pooler_output)
        rows: NDArray[np.float16] = torch.cat(packed)[None].numpy()
        return rows

    def selected(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """The packed rows [k, h]."""
        packed = self.packed(images)
        return packed.reshape(-1, packed.shape[-1])

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        """As transformers itself does it, from ids, pixels and image sizes."""
        inputs = self._inputs(text, images, raw)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.float16)
        new = self._generate(max_new_tokens, **inputs)
        return new, self.text(new)

    def _image_inputs(self, image: Image) -> dict[str, torch.Tensor]:
        return dict(self.processor.image_processor([open_image(image)], return_tensors="pt"))

    def _inputs(self, text: str, images: Sequence[Image], raw: bool) -> dict[str, torch.Tensor]:
        opened = [open_image(image) for image in images] or None
        prompt = self.prompt(text, len(images), raw)
        return dict(self.processor(text=prompt, images=opened, return_tensors="pt"))
