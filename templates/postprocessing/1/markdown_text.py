"""Texts of a page: the model's own, and on request the Markdown that transformers makes of it."""

from __future__ import annotations

from collections.abc import Collection

import plain_text
from page_markdown import page_markdown


class Texts(plain_text.Texts):
    def of(self, ids: list[int], wanted: Collection[str]) -> dict[str, str]:
        """The texts of `ids` by output name: text_output, and `markdown` if it is wanted."""
        texts = super().of(ids, wanted)
        if "markdown" in wanted:
            texts["markdown"] = page_markdown(texts["text_output"])
        return texts
