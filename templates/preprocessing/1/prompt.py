"""From a text and a number of images to token ids.

A visual row is addressed by a fake id, `vocab_size + row`: image k of a prompt owns rows k*N to (k+1)*N-1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from preprocessing_settings import Settings
from tensors import RequestError
from tokenizers import Tokenizer

CHARACTERS_PER_TOKEN = 256  # more than tokenizers pack into one: a longer text is refused unread


class PromptBuilder:
    """Builds the ids of prompts for one model, within its limits."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        self._model = settings["model"]
        self._prompt = settings["prompt"]
        self._limits = settings["limits"]
        self._rows = settings["rows_per_image"]
        self._bos_id = settings["tokenizer"]["bos_id"]
        self._vocab_size = settings["tokenizer"]["vocab_size"]
        self._tokenizer = tokenizer
        self._key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()

    def ids(self, text: str, images: int, apply_chat_template: bool = True) -> NDArray[np.int32]:
        """The prompt as int32 ids [L]: the text in the model's template, fake ids where images go.

        Raises RequestError when marks and images do not match, an image is missing, or a limit is exceeded.
        """
        self._check_images(images)
        prompt = self._text(text, images, apply_chat_template)
        if len(prompt) > CHARACTERS_PER_TOKEN * self._limits["max_input_len"]:
            raise RequestError(
                f"the prompt has {len(prompt)} characters, too many for max_input_len "
                f"{self._limits['max_input_len']} tokens: shorten the text"
            )
        chunks = self._chunks(prompt)
        if any(token >= self._vocab_size for chunk in chunks for token in chunk):
            # such an id would be taken for a visual row
            raise RequestError(f"the text holds a token that the language model of {self._model} lacks: reword it")
        if len(chunks) != images + 1:
            raise ValueError(f"settings.json: {images} marks gave {len(chunks) - 1} gaps between the text's tokens")
        pieces: list[Sequence[int]] = [chunks[0]]
        for image, chunk in enumerate(chunks[1:]):
            first = self._vocab_size + image * self._rows
            pieces += [range(first, first + self._rows), chunk]
        ids = np.array([token for piece in pieces for token in piece], dtype=np.int32)
        self._check_length(len(ids), images)
        return ids

    def output_len(self, input_len: int, max_tokens: int | None) -> int:
        """The number of tokens to generate after a prompt of `input_len` tokens.

        `max_tokens` None means the default, cut to what fits. Raises RequestError when it is not positive or
        does not fit.
        """
        room = self._limits["max_seq_len"] - input_len
        if max_tokens is None:
            max_tokens = max(1, min(self._limits["default_max_tokens"], room))
        if max_tokens <= 0:
            raise RequestError(f"max_tokens is {max_tokens}: ask for at least 1")
        if max_tokens > room:
            raise RequestError(
                f"{input_len} prompt tokens and max_tokens {max_tokens} exceed max_seq_len "
                f"{self._limits['max_seq_len']}: ask for at most {max(room, 0)} tokens or shorten the prompt"
            )
        return max_tokens

    def extra_ids(
        self, ids: NDArray[np.int32], pixels: Sequence[NDArray[Any]], client_id: int = 0
    ) -> NDArray[np.uint64]:
        """What tells the key-value cache one image from another: uint64 [L], 0 at text.

        At the rows of an image stands a hash of its pixels, the settings and `client_id`: a client id can
        separate clients, but never make two images look alike.
        """
        hashes = np.array([self._image_hash(image, client_id) for image in pixels], dtype=np.uint64)
        extra = np.zeros(len(ids), dtype=np.uint64)
        visual = ids >= self._vocab_size
        extra[visual] = hashes[(ids[visual] - self._vocab_size) // self._rows]
        return extra

    def _image_hash(self, pixels: NDArray[Any], client_id: int) -> int:
        digest = hashlib.sha256(self._key + client_id.to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(pixels).data)
        return int.from_bytes(digest.digest()[:8], "little") or 1

    def _check_images(self, images: int) -> None:
        if images == 0 and self._prompt["image_required"]:
            raise RequestError(f"{self._model} needs an image: send one, for example in image_encoded_input")
        if images > self._limits["max_images"]:
            raise RequestError(f"{images} images, allowed are {self._limits['max_images']}: send fewer")
        table = self._limits["max_table_rows"]
        if images * self._rows > table:
            raise RequestError(
                f"{images} images of {self._rows} rows exceed the prompt table of {table}: "
                f"send at most {table // self._rows} images"
            )

    def _text(self, text: str, images: int, apply_chat_template: bool) -> str:
        mark = self._prompt["image_mark"]
        marks = text.count(mark)
        if marks == 0 and images:
            if not apply_chat_template:
                raise RequestError(
                    f"{images} image(s) but no {mark} in the text: write {mark} where each image goes, "
                    "or leave out apply_chat_template"
                )
            text = self._prompt["image_prefix"] * images + text
        elif marks != images:
            raise RequestError(f"{marks} {mark} in the text but {images} image(s): send one image per {mark}")
        if not apply_chat_template:
            return text
        before, _, after = self._prompt["template"].partition("{text}")
        return before + text + after

    def _chunks(self, prompt: str) -> list[list[int]]:
        """The ids before, between and after the images, begin tokens as the model saw them in training."""
        image_id, mark = self._prompt["image_token_id"], self._prompt["image_mark"]
        if image_id is None:
            return self._split_at_marks(prompt.split(mark))
        chunks: list[list[int]] = [[]]
        for token in self._tokenizer.encode(prompt).ids:
            if token == image_id:
                chunks.append([])
            else:
                chunks[-1].append(token)
        return chunks

    def _split_at_marks(self, parts: list[str]) -> list[list[int]]:
        """Each part tokenized on its own; the begin token that the tokenizer adds stays in the first only."""
        chunks: list[list[int]] = [self._tokenizer.encode(part).ids for part in parts]
        added = 1 if chunks[0][:1] == [self._bos_id] else 0
        return [chunks[0], *(chunk[added:] for chunk in chunks[1:])]

    def _check_length(self, length: int, images: int) -> None:
        if length > self._limits["max_input_len"]:
            raise RequestError(
                f"the prompt has {length} tokens ({images * self._rows} of them for {images} image(s)), "
                f"more than max_input_len {self._limits['max_input_len']}: "
                "shorten the text or send fewer images"
            )
        if length == 0:
            raise RequestError("the prompt is empty: send text")
