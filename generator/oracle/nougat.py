"""Nougat by transformers alone: its processor, and its encoder and decoder in the guide's two precisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoProcessor, VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput

from generator.oracle.common import Image, Oracle, open_image, with_pillow


class NougatOracle(Oracle):
    """Truth of a `VisionEncoderDecoderModel` checkpoint in `folder`: encoder fp16, decoder bf16, on the CPU.

    A request has one page and no text. `rows` are the features that the decoder attends to; none of them stands in the
    prompt, which is the decoder's start token. The unknown token is banned, as transformers' guide to the model does.
    """

    image_id = -1  # no id stands for an image

    def __init__(self, folder: Path) -> None:
        self.processor = with_pillow(AutoProcessor, folder)
        self.tokenizer = self.processor.tokenizer
        self.encoder = VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float16).eval().encoder
        self.model = VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.start_id = int(self.tokenizer.bos_token_id)
        self.end_ids = [int(self.tokenizer.eos_token_id)]
        self.pad_id = int(self.tokenizer.pad_token_id)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        """Nothing: `text` is not looked at."""
        if images != 1:
            raise ValueError(f"Nougat reads one page, not {images}")
        return ""

    def ids(self, text: str, images: Sequence[Image] = (), raw: bool = False) -> list[int]:
        return [self.start_id]

    def pixels(self, images: Sequence[Image]) -> NDArray[np.float16]:
        opened = [open_image(image) for image in images]
        pixels = self.processor(images=opened, return_tensors="pt")["pixel_values"]
        return pixels.to(torch.float16).numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: NDArray[np.float16]) -> NDArray[np.float16]:
        with torch.inference_mode():
            return self.encoder(torch.from_numpy(pixels)).last_hidden_state.numpy()  # type: ignore[no-any-return]

    def features(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """The rows as the decoder gets them, in bf16, whose values float32 holds: [n, 588, h]."""
        rounded = torch.from_numpy(self.rows(self.pixels(images))).bfloat16()
        return rounded.float().numpy()  # type: ignore[no-any-return]

    def carried(self, text: str, images: Sequence[Image]) -> NDArray[np.float32]:
        return self.features(images)[0]  # type: ignore[no-any-return]

    def continuation(self, ids: Sequence[int], rows: NDArray[Any] | None, max_new_tokens: int) -> list[int]:
        """Greedy new token ids after `ids` of the decoder that attends to `rows`."""
        return self.decoded(ids, rows, max_new_tokens)[0]

    def decoded(
        self, ids: Sequence[int], rows: NDArray[Any] | None, max_new_tokens: int, **how: Any
    ) -> list[list[int]]:
        """New token ids of each sequence that is returned; `how` is further generation options."""
        if rows is None:
            raise ValueError("Nougat answers about a page only")
        states = torch.from_numpy(np.ascontiguousarray(rows)).bfloat16()
        configuration: Any = transformers.GenerationConfig
        options = configuration(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=self.pad_id,
            decoder_start_token_id=self.start_id,
            return_dict_in_generate=True,
            output_logits=True,
            bad_words_ids=[[int(self.tokenizer.unk_token_id)]],
            **how,
        )
        self.model.generation_config = options  # so that nothing of the checkpoint's own file is merged in
        with torch.inference_mode():
            produced = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                decoder_input_ids=torch.tensor([list(ids)]),
                generation_config=options,
            )
        self.logits = torch.stack([step[0] for step in produced.logits]).float().numpy()
        return [sequence[len(ids) :].tolist() for sequence in produced.sequences]

    def generate(
        self, text: str, images: Sequence[Image] = (), max_new_tokens: int = 32, raw: bool = False
    ) -> tuple[list[int], str]:
        self.prompt(text, len(images), raw)
        new = self.continuation([self.start_id], self.rows(self.pixels(images)), max_new_tokens)
        return new, self.text(new)

    def markdown(self, text: str) -> str:
        """The answer's text as transformers repairs it."""
        return str(self.processor.post_process_generation(text, fix_markdown=True))
