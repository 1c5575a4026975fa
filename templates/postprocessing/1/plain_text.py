"""Texts of an answer: the answer."""

from __future__ import annotations

from collections.abc import Collection


def texts(answer: str, wanted: Collection[str]) -> dict[str, str]:
    """The texts by output name."""
    return {"text_output": answer}
