"""Stop strings in text. The LLM looks for the token ids of stop words, and misses a word that the answer spells with
other tokens or inside one; so texts are cut here, too.

An answer ends where the first stop string to become complete begins (of several complete at once, the longest): what a
reader of a stream can decide at that character, and the same however the text is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cut(text: str, words: Iterable[str]) -> str | None:
    """`text` as far as it belongs to the answer; None where it holds none of `words`. An empty string is no word."""
    found = ((text.find(word), word) for word in words if word)
    ends = [(start + len(word), start) for start, word in found if start >= 0]
    return text[: min(ends)[1]] if ends else None


class Stopping:
    """`cut` of a text that comes in pieces; `ended` once a stop string was complete."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [word for word in words if word]
        self._held = ""  # the text's end, as far as a stop string may begin there
        self.ended = False

    def push(self, piece: str, *, final: bool) -> str:
        """What certainly belongs to the answer now; with `final` no more can come."""
        if self.ended:
            return ""
        text = self._held + piece
        kept = cut(text, self.words)
        if kept is not None:
            self.ended, self._held = True, ""
            return kept
        held = 0 if final else max((beginning_at_end(text, word) for word in self.words), default=0)
        self._held = text[len(text) - held :]
        return text.removesuffix(self._held)


def beginning_at_end(text: str, word: str) -> int:
    """Length of the longest beginning of `word`, not all of it, that `text` ends with."""
    lengths = range(min(len(word) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(word[:length])), 0)
