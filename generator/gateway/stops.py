"""Stop words as clients of the OpenAI API expect them: the answer ends before the word, wherever its pieces break."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Cuts a text that arrives in pieces before the first of `words` that becomes complete.

    What may be the beginning of a word is held back until more arrives; so the pieces, joined, do not depend on where
    the text was broken. `hit` tells that a word came; then nothing more follows.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._held = ""
        self.hit = False

    def push(self, piece: str) -> str:
        """What can be given out now."""
        if self.hit:
            return ""
        held = self._held + piece
        # The word that is complete first; of several that are so at the same place, the longest.
        ends = [(start + len(word), start) for word in self._words if (start := held.find(word)) >= 0]
        if ends:
            self.hit = True
            self._held = ""
            return held[: min(ends)[1]]
        begun = (size for word in self._words for size in range(1, len(word)) if held.endswith(word[:size]))
        given = len(held) - max(begun, default=0)
        self._held = held[given:]
        return held[:given]

    def finish(self) -> str:
        """What was held back and is not a word after all."""
        rest, self._held = self._held, ""
        return rest
