"""Texts of a page: the model's own, and on request the Markdown that transformers makes of it."""

from __future__ import annotations

from collections.abc import Collection

from page_markdown import page_markdown


def texts(answer: str, wanted: Collection[str]) -> dict[str, str]:
    """The texts by output name: text_output, and `markdown` if it is wanted."""
    return {"text_output": answer, **({"markdown": page_markdown(answer)} if "markdown" in wanted else {})}
