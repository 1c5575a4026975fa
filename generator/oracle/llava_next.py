"""LLaVA-NeXT by transformers alone: LLaVA with tiles, of which the model packs some rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaNextForConditionalGeneration

from generator.oracle.common import Image, open_image
from generator.oracle.llava import LlavaOracle


class LlavaNextOracle(LlavaOracle):
    """Truth of a `LlavaNextForConditionalGeneration` checkpoint in `folder`, fp16 on the CPU.

    An image is T tiles (3 to 5, the whole picture first), so `pixels` and `rows` have tiles where other models
    have images. The image positions of `ids` take `packed`: rows chosen and mixed with the newline row.
    """

    model_class: Any = LlavaNextForConditionalGeneration

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

    def _image_inputs(self, image: Image) -> dict[str, torch.Tensor]:
        return dict(self.processor.image_processor([open_image(image)], return_tensors="pt"))
