"""Fuyu by transformers alone: its processor and its model; it has no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import FuyuForCausalLM

from generator.oracle.common import MARK, Image, open_image
from generator.oracle.processor import ProcessorOracle


class FuyuOracle(ProcessorOracle):
    """Truth of a `FuyuForCausalLM` checkpoint in `folder`, fp16 on the CPU.

    A request has one image or none. Its patches are its pixels, [1, 1, P, 2700], and each is one row. Between them
    stand newline tokens of the vocabulary, one after each line of patches.
    """

    model_class: Any = FuyuForCausalLM

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        _mend(self.processor.image_processor)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        """`text` itself: the processor writes what stands around it."""
        if MARK in text or self.processor.image_token in text or images > 1:
            raise ValueError(f"Fuyu takes at most one image and no mark; here are {images} and {text!r}")
        return text

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """Patches of the one image, [1, 1, P, 2700]; within a patch, channels vary fastest, then columns."""
        patches = self._inputs("", images, raw=True)["pixel_values"]
        return patches[None, None].to(torch.float16).numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        """Rows [1, P, h] of the patches [1, 1, P, 2700]."""
        with torch.inference_mode():
            features = self.model.model.get_image_features(torch.from_numpy(pixels[0, 0]))
        rows: NDArray[np.float16] = features.last_hidden_state[None].numpy()
        return rows

    def _inputs(self, text: str, images: Sequence[Image], raw: bool) -> dict[str, torch.Tensor]:
        prompt = self.prompt(text, len(images), raw)
        if not images:
            return dict(self.processor(text=prompt, return_tensors="pt"))
        opened = [open_image(image) for image in images]
        return dict(self.processor(text=prompt, images=opened, return_legacy_image_output=False))


def _mend(image_processor: Any) -> None:
    """Let the PIL image processor cut torch tensors, which transformers 5.23's own processor hands it in vain.

    It returns what the torchvision one does, with a batch axis: without it, a single patch would lose its only axis.
    """
    cut = image_processor.patchify_image

    def cut_tensor(image: torch.Tensor, patch_size: Any = None) -> torch.Tensor:
        patches = torch.from_numpy(np.ascontiguousarray(cut(image.numpy(), patch_size)))
        return patches.reshape(-1, *patches.shape[-2:])

    image_processor.patchify_image = cut_tensor
