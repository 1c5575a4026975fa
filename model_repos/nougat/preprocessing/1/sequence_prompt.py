"""Prompts of a fixed order: what stands before the image, the image, and what follows it, the user's text in one of
them. Their models have no mark that the user could place."""

from __future__ import annotations

from typing import TypedDict

from prompt import Prompts
from tensors import RequestError


class Piece(TypedDict, total=False):
    """Either ready ids, or a text, which may hold {text} (stripped on request), with or without special tokens."""

    ids: list[int]
    text: str
    special_tokens: bool
    strip: bool


class PromptBuilder(Prompts):
    def chunks(self, text: str, images: int, apply_chat_template: bool) -> list[list[int]]:
        """The ids before and after the image; with no image all in one.

        Raises RequestError for a mark in the text, or more than one image.
        """
        mark, noun = self.settings["image_mark"], self.media["noun"]
        if mark and mark in text:
            raise RequestError(f"{mark} in the text: this model's {noun} has its fixed place, leave the mark out")
        if images > 1:
            raise RequestError(f"{images} {noun}s: this model takes one per prompt, send one request per {noun}")
        before, after = (self._ids(self.settings[part], text) for part in ("before", "after"))
        return [before, after] if images else [before + after]

    def _ids(self, pieces: list[Piece], text: str) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            if "ids" in piece:
                ids += piece["ids"]
            else:
                start, place, end = piece["text"].partition("{text}")
                if place:
                    self.check_characters(text)
                filled = (text.strip() if piece["strip"] else text) if place else ""
                ids += self.encode(start + filled + end, piece["special_tokens"])
        return ids
