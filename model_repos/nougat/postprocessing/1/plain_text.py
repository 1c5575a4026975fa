"""Texts of an answer: what the tokenizer makes of its ids."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from text_tokenizer import TextTokenizer


class Texts:
    def __init__(self, settings: dict[str, Any], tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens: bool = settings["skip_special_tokens"]

    def of(self, ids: list[int], wanted: Collection[str]) -> dict[str, str]:
        """The texts of `ids` by output name; ids that the tokenizer does not have are skipped."""
        return {"text_output": self._tokenizer.decode(ids, self._skip_special_tokens)}
