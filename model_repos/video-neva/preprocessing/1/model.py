"""Preprocessing: from texts and images to token ids and pixels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import freed_memory
import numpy as np
import text_tokenizer
import triton_python_backend_utils as pb_utils
from counts import Counts
from media import Reader, Source
from numpy.typing import NDArray
from placement import ImageLayout, Placed
from preprocessing_settings import load
from prompt import Prompts
from tensors import RequestError, answer_each, column, optional, row_strings, row_values, strings
from word_lists import check_words, embedding_bias, stacked, word_list
from workers import WORKERS

PIXELS = "image_input"  # made by the client, as the engine takes them


class TritonPythonModel:
    """Answers each request with the inputs of the vision and the language model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load settings and tokenizer.

        Raises TritonModelException, with the remedy, when there is no tokenizer.
        """
        freed_memory.keep()
        folder = Path(__file__).parent
        self.settings = load(folder / "settings.json")
        self.tokenizer = text_tokenizer.load(folder, self.settings["tokenizer"], self.settings["model"])
        prompt_module = importlib.import_module(self.settings["prompt"]["module"])
        layout_module = importlib.import_module(self.settings["layout"]["module"])
        self.prompts: Prompts = prompt_module.PromptBuilder(self.settings, self.tokenizer)
        self.layout: ImageLayout = layout_module.ImageLayout(self.settings)
        self.numbers: Any = importlib.import_module(self.settings["pixels"]["module"])
        media = importlib.import_module(self.settings["media"]["module"])
        self.sources: Callable[..., list[list[Source]]] = media.sources
        self.read: Reader = media.reader(self.settings)
        self.counts = Counts(args.get("model_name", self.settings["model"]))

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response per request; a bad request fails alone."""
        with self.read.fetching(requests):
            responses = answer_each(requests, self.answer, self.counts.refused)
        self.counts.flush()
        return responses

    def answer(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        """The outputs for one request of B rows; shapes and types are those of config.pbtxt.

        Raises RequestError when the request cannot be served as it is.
        """
        texts = self._texts(request)
        batch = len(texts)
        sources = self.sources(request, self.settings["model"], batch)
        for row in sources:
            self.prompts.check_count(len(row))
        pictures = iter(WORKERS.each(self._picture, [source for row in sources for source in row]))
        images = [[next(pictures) for _ in row] for row in sources]
        use_template = column(request, "apply_chat_template", batch, True)
        with self.counts.timed("tokenize_us_total"):
            prompts = [
                self.prompts.build(text, [placed for _, placed in row], flag)
                for text, row, flag in zip(texts, images, use_template, strict=True)
            ]
        lengths = [len(prompt.ids) for prompt in prompts]
        max_tokens = column(request, "max_tokens", batch, None)
        output_lens = [self.prompts.output_len(*pair) for pair in zip(lengths, max_tokens, strict=True)]
        pixel_values, pixels_of = self._pixel_values(images)
        pad_ids = _given(column(request, "pad_id", batch, -1), self.settings["tokenizer"]["pad_id"])
        end_ids = self._end_ids(request, batch)
        release, prompt = self.settings["release"], self.settings["prompt"]
        num_rows = [self.prompts.table_rows([placed for _, placed in row]) for row in images]
        outputs = {
            "num_images": _column([sum(placed.shape[0] for _, placed in row) for row in images]),
            "num_rows": _column(num_rows),
            "input_ids": _padded([prompt.ids for prompt in prompts], pad_ids, np.int32),
            "input_lengths": _column(lengths),
            "request_output_len": _column(output_lens),
            "end_id": _column(end_ids),
            "pad_id": _column(pad_ids),
            "stop_words_list": self._word_lists(request, "stop_words", batch, always=prompt["stop_words"]),
            "bad_words_list": self._word_lists(request, "bad_words", batch, tokens=prompt["banned_ids"]),
            "embedding_bias": self._embedding_bias(request, batch),
            # 0 is what the backend itself takes when it is not told
            release["min_tokens"]: _column(_one_of_two(request, "min_tokens", "min_length", batch)),
            release["seed"]: _column(_one_of_two(request, "seed", "random_seed", batch), np.uint64),
        }
        if release["extra_ids"]:
            extra = [
                self.prompts.extra_ids(prompt, pixels, salt)
                for prompt, pixels, salt in zip(prompts, pixels_of, self._salts(request, batch), strict=True)
            ]
            outputs["prompt_table_extra_ids"] = _padded(extra, [0] * batch, np.uint64)
        self.counts.add("prompts_total", batch)
        self.counts.add("prompt_tokens_total", sum(lengths))
        self.counts.add("image_rows_total", sum(num_rows))
        pixel_tensor = self.numbers.tensor("pixel_values", pixel_values)
        return [pixel_tensor, *(pb_utils.Tensor(name, array) for name, array in outputs.items())]

    def _texts(self, request: pb_utils.InferenceRequest) -> list[str]:
        """One text per row; empty ones for a model without a prompt, to which they may be absent."""
        array = optional(request, "text_input")
        if array is None or array.size == 0:
            if self.settings["prompt"]["text_required"]:
                raise RequestError("text_input is missing: send shape [1,1]")
            array = np.full((request.inputs()[0].shape()[0], 1), b"", dtype=np.object_)
        most = self.settings["limits"]["max_batch"]
        if len(array) > most:
            remedy = (
                f"at most {most} rows"
                if most > 1
                else (f"{len(array)} requests of one row each, which the server runs together")
            )
            raise RequestError(f"the request has {len(array)} rows: send {remedy}", "limit")
        if array.size != len(array):
            raise RequestError(f"text_input has shape {list(array.shape)}: send one text per row, shape [B,1]")
        texts = strings(array, "text_input")
        return texts if self.settings["prompt"]["text_required"] else [""] * len(texts)

    def _picture(self, source: Source) -> tuple[Any, Placed]:
        """The decoded image or clip, or the pixels that the client made, and its place in the prompt."""
        if source.tensor != PIXELS:
            with self.counts.timed("image_decode_us_total", input=source.tensor):
                image = self.read(source)
            self.counts.add("images_decoded_total", input=source.tensor)
            return image, self.layout.place(*image.size)
        if not self.layout.takes_pixels:
            raise RequestError(f"{source.label}: {self.settings['model']} makes its pixels itself, send image files")
        placed = self.layout.place(0, 0)
        if source.value.shape != placed.shape[1:]:
            raise RequestError(
                f"{source.label} has shape {list(source.value.shape)}: "
                f"send {list(placed.shape[1:])} as the engine takes it"
            )
        return source.value, placed

    def _pixel_values(self, images: list[list[tuple[Any, Placed]]]) -> tuple[NDArray[Any], list[list[NDArray[Any]]]]:
        """[B,n,...], the entries of each row's images, zeros where a row has fewer or an entry is smaller, which no id
        refers to; and the part of it that each image has."""
        shapes = [placed.shape[1:] for row in images for _, placed in row] or [self.layout.entry]
        most = max(
            self.settings["pixels"]["least_entries"], *(sum(placed.shape[0] for _, placed in row) for row in images)
        )
        values = np.zeros((len(images), most, *np.max(shapes, axis=0)), dtype=self.layout.dtype)
        parts: list[list[NDArray[Any]]] = []
        for out, row in zip(values, images, strict=True):
            parts.append([])
            start = 0
            for image, placed in row:
                part = out[start : start + placed.shape[0]][tuple(slice(size) for size in placed.shape)]
                if isinstance(image, np.ndarray):
                    part[0] = self.numbers.rounded(image, self.layout.dtype)
                else:
                    self.layout.draw(image, part)
                parts[-1].append(part)
                start += placed.shape[0]
        return values, parts

    def _salts(self, request: pb_utils.InferenceRequest, batch: int) -> list[bytes]:
        """What keeps the images of each row apart from those of other clients in the key-value cache."""
        if not self.settings["release"]["client_cache_ids"]:
            return [b""] * batch
        client_ids: list[int] = column(request, "prompt_table_extra_id", batch, 0)
        salts: list[str] = column(request, "cache_salt", batch, "")
        return [
            client_id.to_bytes(8, "little") + salt.encode() for client_id, salt in zip(client_ids, salts, strict=True)
        ]

    def _end_ids(self, request: pb_utils.InferenceRequest, batch: int) -> list[int]:
        """Checked here: the C++ backend writes to the logits at this index as it is."""
        tokenizer = self.settings["tokenizer"]
        end_ids: list[int] = column(request, "end_id", batch, -1)
        if max(end_ids) >= tokenizer["vocab_size"]:
            raise RequestError(
                f"end_id is {max(end_ids)}, the vocabulary has {tokenizer['vocab_size']} tokens: "
                "send one of them, or leave it out for the model's own"
            )
        return _given(end_ids, tokenizer["end_id"])

    def _word_lists(
        self,
        request: pb_utils.InferenceRequest,
        name: str,
        batch: int,
        always: Sequence[str] = (),
        tokens: Sequence[int] = (),
    ) -> NDArray[np.int32]:
        rows = _words(request, name, batch)
        return stacked([word_list(self.tokenizer, [*always, *words], tokens) for words in rows])

    def _embedding_bias(self, request: pb_utils.InferenceRequest, batch: int) -> NDArray[np.float32]:
        """[B,V], or [B,0] when no row has a bias."""
        words = _words(request, "embedding_bias_words", batch)
        weights = row_values(request, "embedding_bias_weights", batch)
        vocab_size = self.settings["tokenizer"]["vocab_size"]
        rows = [
            embedding_bias(self.tokenizer, row_words, row_weights.tolist(), vocab_size)
            for row_words, row_weights in zip(words, weights, strict=True)
        ]
        return _padded(rows, [0] * batch, np.float32)


def _words(request: pb_utils.InferenceRequest, name: str, batch: int) -> list[list[str]]:
    rows = row_strings(request, name, batch)
    for row in rows:
        check_words(name, row)
    return rows


def _one_of_two(request: pb_utils.InferenceRequest, name: str, other: str, batch: int) -> list[int]:
    """One value per row of an input that goes by two names; 0 where neither is given."""
    values, others = column(request, name, batch, None), column(request, other, batch, None)
    for value, other_value in zip(values, others, strict=True):
        if None not in (value, other_value) and value != other_value:
            raise RequestError(f"{name} is {value} but {other} is {other_value}: they mean the same, send one")
    return [
        value if value is not None else (other_value or 0) for value, other_value in zip(values, others, strict=True)
    ]


def _given(values: list[int], default: int) -> list[int]:
    return [value if value >= 0 else default for value in values]


def _column(values: list[int], dtype: type = np.int32) -> NDArray[Any]:
    """[B] values as a tensor [B,1]."""
    return np.array(values, dtype=dtype)[:, None]


def _padded(rows: list[Any], fill: list[int], dtype: Any) -> NDArray[Any]:
    """Rows of unequal length as one [B, longest], filled on the right with each row's own value."""
    padded = np.empty((len(rows), max(len(row) for row in rows)), dtype=dtype)
    for out, row, value in zip(padded, rows, fill, strict=True):
        out[: len(row)] = row
        out[len(row) :] = value
    return padded
