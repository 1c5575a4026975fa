"""Stop strings in text. The LLM looks for the token ids of stop words, and misses a word that the answer spells with
other tokens or inside one; so texts are cut here, too.

An answer ends where the first stop string to become complete begins (of several complete at once, the longest): what a
reader of a stream can decide at that character, and the same however the text is cut into pieces.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence


def cut(text: str, words: Iterable[str]) -> str | None:
    """`text` as far as it belongs to the answer; None where it holds none of `words`. An empty string is no word."""
    found = ((text.find(word), word) for word in words if word)
    ends = [(start + len(word), start) for start, word in found if start >= 0]
    return text[: min(ends)[1]] if ends else None


class Stopping:
    """`cut` of a text that comes in pieces; `ended` once a stop string was complete.

    A character costs little whatever the words are: one look-up for each length of a word that may end there, and, as
    what is held only ever loses its beginning, on average two in the sorted words.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [word for word in words if word]
        self._known = frozenset(self.words)
        self._sorted = sorted(self._known)
        self._lengths = sorted({len(word) for word in self._known})
        self._held = ""  # the text's end, as far as a stop string may begin there
        self.ended = False

    def push(self, piece: str, *, final: bool) -> str:
        """What certainly belongs to the answer now; with `final` no more can come."""
        if self.ended:
            return ""
        if not self.words:
            return piece
        text, start = self._held + piece, 0  # what is held begins at `start`
        for end in range(len(self._held) + 1, len(text) + 1):
            length = self._complete(text, start, end)
            if length:
                self.ended, self._held = True, ""
                return text[: end - length]
            while start < end and not self._begins(text[start:end]):
                start += 1
        self._held = "" if final else text[start:]
        return text.removesuffix(self._held)

    def _complete(self, text: str, start: int, end: int) -> int:
        """Length of the longest word that ends at `end` and does not begin before `start`; 0 where there is none."""
        lengths = self._lengths[: bisect_right(self._lengths, end - start)]
        return next((length for length in reversed(lengths) if text[end - length : end] in self._known), 0)

    def _begins(self, text: str) -> bool:
        """Whether a word begins with `text`."""
        place = bisect_left(self._sorted, text)
        return place < len(self._sorted) and self._sorted[place].startswith(text)


def beginning_at_end(text: str, word: str) -> int:
    """Length of the longest beginning of `word`, not all of it, that `text` ends with."""
    lengths = range(min(len(word) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(word[:length])), 0)
