"""A tokenizer as the steps use it, whichever library reads its file."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import triton_python_backend_utils as pb_utils


class _Always(TypedDict):
    module: str  # which reads the file
    file: str
    dropped_ids: list[int]  # of stop words, which are no part of an answer's text


class FileSettings(_Always, total=False):
    """What every step's settings say of the tokenizer."""

    replacements: list[list[str]]  # see TextTokenizer; absent where there are none


class TextTokenizer(ABC):
    """Safe to use from several threads.

    replacements: pairs (old, new): where every decoded text has `old` it gets `new`, one pair after the other. Some
        tokenizers so take out spaces before punctuation.
    """

    replacements: Sequence[Sequence[str]] = ()

    @abstractmethod
    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        """Ids of a text; `special_tokens` adds those that the tokenizer puts around every text."""

    @abstractmethod
    def unreplaced(self, ids: Sequence[int]) -> str:
        """What `decode` replaces parts of."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, which are not negative; special tokens, dropped ids and ids outside the vocabulary have none."""
        text = self.unreplaced(ids)
        for old, new in self.replacements:
            text = text.replace(old, new)
        return text

    @abstractmethod
    def has_text(self, id: int) -> bool:
        """Whether `decode` sees this id: not outside the vocabulary, not special, not dropped."""

    @abstractmethod
    def is_byte(self, id: int) -> bool:
        """Whether the id stands for a single byte, whose text depends on the bytes around it."""

    def ends_bytes(self, id: int) -> bool:
        """Whether the id, which has no text, parts the bytes before it from those after it in what `decode` makes."""
        return False


def load(folder: Path, settings: FileSettings, model: str) -> TextTokenizer:
    """The tokenizer in `folder`.

    Raises TritonModelException, with the remedy, when its file is not there.
    """
    file = folder / settings["file"]
    if not file.is_file():
        raise pb_utils.TritonModelException(
            f"{file.name} is missing beside the step's code: run "
            f"`gen-repo --model {model} --hf-model-dir DIR` again (DIR: the checkpoint)"
        )
    tokenizer: TextTokenizer = importlib.import_module(settings["module"]).load(file, settings["dropped_ids"])
    tokenizer.replacements = settings.get("replacements", ())
    return tokenizer
