"""BLIP-2 by transformers alone, over OPT or T5: its processor and its model; it has no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Blip2ForConditionalGeneration

from generator.oracle.common import MARK, Image, Oracle
from generator.oracle.processor import ProcessorOracle


class Blip2Oracle(ProcessorOracle):
    """Truth of a `Blip2ForConditionalGeneration` checkpoint on the CPU; its vision side in fp16, the Q-Former in fp32.

    Each request has exactly one image, whose rows stand before the text and what the tokenizer puts around it.
    """

    model_class: Any = Blip2ForConditionalGeneration

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        if MARK in text or images != 1:
            raise ValueError(f"BLIP-2 takes one image and no {MARK} mark; here are {images} and {text!r}")
        return text

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        with torch.inference_mode():
            rows: NDArray[np.float16] = self.whole.get_image_features(torch.from_numpy(pixels)).pooler_output.numpy()
        return rows


class Blip2OptOracle(Blip2Oracle):
    """OPT in fp16, too: transformers does all of a request."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = self.whole.language_model
        self.end_ids = [int(self.model.config.eos_token_id)]  # a newline, not the tokenizer's end of text


class Blip2T5Oracle(Blip2Oracle):
    """T5 in `dtype`, whose encoder reads the rows and the text, and whose decoder begins with its start token.

    The rows come from the fp16 vision side, as from an engine; with `dtype` fp16 this is what transformers does.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__(folder)
        self.model = self.model_class.from_pretrained(folder, dtype=dtype).eval().language_model
        self.start_id = int(self.model.config.decoder_start_token_id)

    generate = Oracle.generate  # from rows: transformers has no two dtypes for one model

    def continuation(self, ids: Sequence[int], rows: NDArray[np.float16] | None, max_new_tokens: int) -> list[int]:
        """New token ids without the start token, after the encoder's `ids`."""
        sequence = torch.tensor([list(ids)])
        is_image = sequence == self.image_id
        embedded = self.model.get_input_embeddings()(sequence.masked_fill(is_image, 0))
        flat = torch.from_numpy(np.ascontiguousarray(rows if rows is not None else np.zeros((0, 1, 1), np.float16)))
        flat = flat.flatten(0, 1)
        if len(flat) != int(is_image.sum()):
            raise ValueError(f"{int(is_image.sum())} image positions but {len(flat)} vision rows")
        embedded[is_image] = flat.to(embedded)
        new = self._generate(max_new_tokens, inputs_embeds=embedded, attention_mask=torch.ones_like(sequence))
        if new[:1] != [self.start_id]:
            raise ValueError(f"the decoder began with {new[:1]}, not with its start token {self.start_id}")
        return new[1:]

    def selected(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """As the language model gets them, rounded to its dtype."""
        rows = torch.from_numpy(super().selected(images))
        return rows.to(self.model.dtype).float().numpy()  # type: ignore[no-any-return]
