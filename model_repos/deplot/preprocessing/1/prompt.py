"""From a text and its placed images to token ids, within the limits.

A row of the prompt table is addressed by a fake id, `vocab_size + row`. The table holds the model's constant rows
first, if it has any, then the rows of the images in order.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from placement import TOKEN, Placed
from preprocessing_settings import Settings
from tensors import RequestError
from text_tokenizer import TextTokenizer

CHARACTERS_PER_TOKEN = 256  # more than tokenizers pack into one: a longer text is refused unread


class Prompt(NamedTuple):
    """ids: int32 [L]. owners: int32 [L], the image that a position belongs to, -1 at text."""

    ids: NDArray[np.int32]
    owners: NDArray[np.int32]


class Prompts(ABC):
    """Builds the prompts of one model. A subclass, in a module of its own, says what stands around the images."""

    def __init__(self, settings: Settings, tokenizer: TextTokenizer) -> None:
        self.settings = settings["prompt"]
        self.bos_id = settings["tokenizer"]["bos_id"]
        self._model = settings["model"]
        self.media = settings["media"]
        self._limits = settings["limits"]
        self._constant_rows = settings["constant_rows"]
        self._vocab_size = settings["tokenizer"]["vocab_size"]
        self._tokenizer = tokenizer
        self._key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()

    @abstractmethod
    def chunks(self, text: str, images: int, apply_chat_template: bool) -> list[list[int]]:
        """The ids before the first image, between the images, and after the last: images + 1 lists.

        Raises RequestError when the text does not fit the number of images.
        """

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        """Token ids of a text; `special_tokens` adds those that the tokenizer puts around every text."""
        return self._tokenizer.encode(text, special_tokens)

    def build(self, text: str, images: Sequence[Placed], apply_chat_template: bool = True) -> Prompt:
        """The prompt: the text in the model's template, fake ids where images go.

        Raises RequestError when text and images do not match, an image is missing, or a limit is exceeded.
        """
        self._check_images(images)
        chunks = self.chunks(text, len(images), apply_chat_template)
        if any(token >= self._vocab_size for chunk in chunks for token in chunk):
            # such an id would be taken for a visual row
            raise RequestError(f"the text holds a token that the language model of {self._model} lacks: reword it")
        if len(chunks) != len(images) + 1:
            raise ValueError(f"settings.json: {len(images)} images gave {len(chunks) - 1} gaps in the text's tokens")
        pieces = [np.array(chunks[0], dtype=np.int64)]
        owners = [np.full(len(chunks[0]), -1)]
        first_row = self._constant_rows
        for number, (image, chunk) in enumerate(zip(images, chunks[1:], strict=True)):
            pieces += [self._numbered(image.sequence, first_row), np.array(chunk, dtype=np.int64)]
            owners += [np.where(image.sequence >= TOKEN, -1, number), np.full(len(chunk), -1)]
            first_row += image.rows
        prompt = Prompt(np.concatenate(pieces).astype(np.int32), np.concatenate(owners).astype(np.int32))
        self._check_length(prompt, len(images))
        return prompt

    def table_rows(self, images: Sequence[Placed]) -> int:
        """Rows of the table that holds these images; 0 without any."""
        return self._constant_rows + sum(image.rows for image in images) if images else 0

    def output_len(self, input_len: int, max_tokens: int | None) -> int:
        """The number of tokens to generate after a prompt of `input_len` tokens.

        `max_tokens` None means the default, cut to what fits. Raises RequestError when it is not positive or
        does not fit.
        """
        room = self._limits["max_output_len"] or self._limits["max_seq_len"] - input_len
        if max_tokens is None:
            max_tokens = max(1, min(self._limits["default_max_tokens"], room))
        if max_tokens <= 0:
            raise RequestError(f"max_tokens is {max_tokens}: ask for at least 1")
        if max_tokens > room and self._limits["max_output_len"]:
            raise RequestError(
                f"max_tokens is {max_tokens}: an answer has at most {room}, whatever the prompt", "limit"
            )
        if max_tokens > room:
            raise RequestError(
                f"{input_len} prompt tokens and max_tokens {max_tokens} exceed max_seq_len "
                f"{self._limits['max_seq_len']}: ask for at most {max(room, 0)} tokens or shorten the prompt",
                "limit",
            )
        return max_tokens

    def extra_ids(self, prompt: Prompt, pixels: Sequence[NDArray[Any]], salt: bytes = b"") -> NDArray[np.uint64]:
        """What tells the key-value cache one image from another: uint64 [L], 0 at text.

        At the rows of an image stands a hash of its pixels, the settings and `salt`: a salt can keep clients apart,
        but never make two images look alike.
        """
        hashes = np.array([self._image_hash(image, salt) for image in pixels], dtype=np.uint64)
        extra = np.zeros(len(prompt.ids), dtype=np.uint64)
        visual = prompt.owners >= 0
        extra[visual] = hashes[prompt.owners[visual]]
        return extra

    def check_count(self, images: int) -> None:
        """Raise RequestError for more images than a prompt may have; asked before any is decoded."""
        most = self._limits["max_images"]
        if images > most:
            raise RequestError(f"{images} {self.media['noun']}s, allowed are {most}: send fewer", "limit")

    def check_characters(self, prompt: str) -> None:
        """Raise RequestError for a text that is too long to be worth tokenizing."""
        most = self._limits["max_input_len"]
        if len(prompt) > CHARACTERS_PER_TOKEN * most:
            raise RequestError(
                f"the prompt has {len(prompt)} characters, allowed are {CHARACTERS_PER_TOKEN * most}, more than "
                f"max_input_len {most} tokens hold: shorten the text",
                "limit",
            )

    def _numbered(self, sequence: NDArray[np.int64], first_row: int) -> NDArray[np.int64]:
        """Ids of a placed image whose own rows begin at `first_row` of the table."""
        rows = np.where(sequence < 0, -1 - sequence, first_row + sequence)
        return np.where(sequence >= TOKEN, sequence - TOKEN, self._vocab_size + rows)

    def _image_hash(self, pixels: NDArray[Any], salt: bytes) -> int:
        """64 bits, never 0, which stands for text."""
        digest = hashlib.sha256(self._key + hashlib.sha256(salt).digest() + repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        return int.from_bytes(digest.digest()[:8], "little") or 1

    def _check_images(self, images: Sequence[Placed]) -> None:
        if not images and self.settings["image_required"]:
            raise RequestError(
                f"{self._model} needs {self.media['needed']}: send one, for example in {self.media['input']}"
            )
        noun = self.media["noun"]
        self.check_count(len(images))
        rows, table = self.table_rows(images), self._limits["max_table_rows"]
        if rows > table:
            raise RequestError(
                f"{len(images)} {noun}(s) of {rows} rows exceed the prompt table of {table}: send fewer", "limit"
            )

    def _check_length(self, prompt: Prompt, images: int) -> None:
        length, noun = len(prompt.ids), self.media["noun"]
        if length > self._limits["max_input_len"]:
            visual = int((prompt.owners >= 0).sum())
            raise RequestError(
                f"the prompt has {length} tokens ({visual} of them for {images} {noun}(s)), "
                f"more than max_input_len {self._limits['max_input_len']}: "
                f"shorten the text or send fewer {noun}s",
                "limit",
            )
        if length == 0:
            raise RequestError("the prompt is empty: send text")
