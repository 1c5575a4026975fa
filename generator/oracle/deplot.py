"""Deplot by transformers alone: its processor, which draws the question above the chart, and its model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor, Pix2StructForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.pix2struct import image_processing_pil_pix2struct

from generator.oracle.common import Checkpoint, Image, Oracle, from_checkpoint, open_image, with_pillow


class DeplotOracle(Oracle):
    """Truth of a `Pix2StructForConditionalGeneration` checkpoint in `folder`, fp16 on the CPU.

    A request has one chart. Its pixels are patches, [1, 2048, 770], of which the first ones are valid; `rows` are those
    of the valid patches. No row stands in the prompt, which is the decoder's start token. transformers 5.23 lets no
    caller choose the font and downloads Arial; here it finds `font` where the download would be.
    """

    image_id = -1  # no id stands for an image

    def __init__(self, folder: Path, font: Path) -> None:
        self.processor = with_pillow(AutoProcessor, folder)
        self.tokenizer = self.processor.tokenizer
        self.model = from_checkpoint(Pix2StructForConditionalGeneration, folder)
        self.start_id = int(self.model.config.decoder_start_token_id)
        self.end_ids = [int(self.tokenizer.eos_token_id)]
        self.pad_id = int(self.tokenizer.pad_token_id)
        self.font = font

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> DeplotOracle:
        if checkpoint.font is None:
            raise ValueError("Deplot's question is drawn, which takes a font")
        return cls(checkpoint.folder, checkpoint.font)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        """What is drawn above the chart."""
        if images != 1:
            raise ValueError(f"Deplot reads one chart, not {images}")
        return text

    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        return [self.start_id]

    def pixels(self, images: Sequence[Image], text: str = "") -> NDArray[np.float16]:
        """Patches of the chart below its question, [1, 2048, 770]: line, column, then pixels; zeros where none is."""
        return self._inputs(text, images)["flattened_patches"].numpy()  # type: ignore[no-any-return]

    def seen(self, text: str, images: Sequence[Image]) -> NDArray[np.float16]:
        return self.pixels(images, text)

    def carried(self, text: str, images: Sequence[Image]) -> NDArray[np.float16]:
        return self.rows(self.pixels(images, text))[0]  # type: ignore[no-any-return]

    def mask(self, images: Sequence[Image], text: str = "") -> NDArray[np.float32]:
        """1 at each valid patch, [2048]."""
        return self._inputs(text, images)["attention_mask"][0].numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        """Rows [1, valid, h] of patches [1, 2048, 770]; the encoder sees them all, with the others masked."""
        patches = torch.tensor(pixels)
        valid = (patches != 0).any(dim=-1)
        with torch.inference_mode():
            states = self.model.encoder(flattened_patches=patches, attention_mask=valid.float()).last_hidden_state
        rows: NDArray[np.float16] = states[:, : int(valid.sum())].numpy()
        return rows

    def continuation(self, ids: Sequence[int], rows: NDArray[np.float16] | None, max_new_tokens: int) -> list[int]:
        """Greedy new token ids of the decoder over `rows`, after `ids`."""
        if rows is None:
            raise ValueError("Deplot answers about a chart only")
        states = torch.from_numpy(np.ascontiguousarray(rows))
        given = torch.tensor([list(ids)])
        produced = self._generate(
            max_new_tokens,
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(states.shape[:2]),
            decoder_input_ids=given,
        )
        return produced[given.shape[1] :]

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        """As transformers itself does it, from patches and their mask."""
        new = self._generate(max_new_tokens, **self._inputs(text, images))[1:]
        return new, self.text(new)

    def text(self, ids: Sequence[int]) -> str:
        """The text with its newline tokens as newlines, which the tokenizer spells out."""
        return super().text(ids).replace("<0x0A>", "\n")

    def _inputs(self, text: str, images: Sequence[Image]) -> dict[str, torch.Tensor]:
        header = self.prompt(text, len(images))
        with font_found(self.font):
            made: dict[str, Any] = dict(self.processor(images=open_image(images[0]), text=header, return_tensors="pt"))
        return made | {"flattened_patches": made["flattened_patches"].to(torch.float16)}


@contextlib.contextmanager
def font_found(font: Path) -> Iterator[None]:
    """transformers' download of its font gives `font`."""
    module: Any = image_processing_pil_pix2struct
    api, module.hf_api = module.hf_api, lambda: SimpleNamespace(hf_hub_download=lambda repository, name: str(font))
    try:
        yield
    finally:
        module.hf_api = api
