"""Token ids to text while they arrive: the pieces, joined, are exactly the text of all ids decoded at once.

Decoding each chunk alone loses spaces and breaks characters that span tokens; decoding everything again for each
token costs more and more. Here a short window of the latest tokens is decoded, and what it adds is the new piece.
What the tokenizer replaces in every text is replaced afterwards, in the pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stop_text import Stopping, beginning_at_end
from text_tokenizer import TextTokenizer

# An unfinished UTF-8 character has at most 3 bytes, so it lies within the last 4 tokens.
KEPT_TOKENS = 4
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """What all streams of one tokenizer share; safe to use from several threads."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens, nothing replaced; ids outside the vocabulary have no text."""
        return self.tokenizer.unreplaced(ids)

    def stream(self, stop_words: Sequence[str] = ()) -> TextStream:
        """A new stream, for one answer, which ends before the first of `stop_words`."""
        return TextStream(self, stop_words)


class TextStream:
    """The text of one answer: `push` each time ids arrive, `finish` once.

    The cost of a push does not depend on how much came before it: at most 2 * KEPT_TOKENS earlier ids are decoded
    again, and each id of a run of byte tokens once, when the run ends.

    Attributes:
        tokens: how many ids have been taken: all, or those up to the one that made a stop string complete.
    """

    def __init__(self, shared: Detokenizer, stop_words: Sequence[str] = ()) -> None:
        self._shared = shared
        self._window: list[int] = []  # the latest ids that matter to the text
        self._sent = 0  # characters of the window's text that have been returned
        self._in_byte_run = False
        self._replacing = [Replacing(old, new) for old, new in shared.tokenizer.replacements]
        self._stopping = Stopping(stop_words)
        self.tokens = 0

    @property
    def ended(self) -> bool:
        """Whether a stop string has ended the text, to which nothing is added then."""
        return self._stopping.ended

    def push(self, ids: Sequence[int]) -> str:
        """The text that is certain now and was not before; empty while a character is unfinished, or what may turn
        out to be a stop string."""
        pieces = []
        for chunk in ([id] for id in ids) if self._stopping.words else [ids]:
            if not self.ended:
                self.tokens += len(chunk)
                pieces.append(self._settled(self._push(chunk), final=False))
        return "".join(pieces)

    def finish(self) -> str:
        """The rest of the text, with unfinished characters as decoding everything at once renders them."""
        return self._settled(self._piece(final=True), final=True)

    def _push(self, ids: Iterable[int]) -> str:
        tokenizer = self._shared.tokenizer
        for id in ids:
            if tokenizer.has_text(id) or (self._in_byte_run and tokenizer.ends_bytes(id)):
                self._window.append(id)
                self._in_byte_run = tokenizer.is_byte(id)
        if self._in_byte_run:  # one invalid byte later on turns the text of the whole run into replacement characters
            return ""
        piece = self._piece(final=False)
        if len(self._window) > 2 * KEPT_TOKENS:
            self._shorten()
        return piece

    def _piece(self, *, final: bool) -> str:
        text = self._shared.decode(self._window)
        end = len(text) if final else _certain(text)
        piece = text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def _settled(self, piece: str, *, final: bool) -> str:
        for stage in (*self._replacing, self._stopping):
            piece = stage.push(piece, final=final)
        return piece

    def _shorten(self) -> None:
        text = self._shared.decode(self._window[-KEPT_TOKENS:])
        if text:  # else a decoder that strips the start of the text would strip the next token too
            del self._window[:-KEPT_TOKENS]
            self._sent = _certain(text)


class Replacing:
    """`str.replace` of a text that comes in pieces."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._held = ""  # the text's end, as far as `old` may begin there

    def push(self, piece: str, *, final: bool) -> str:
        *done, rest = (self._held + piece).split(self._old)
        self._held = "" if final else self._old[: beginning_at_end(rest, self._old)]
        return self._new.join([*done, rest.removesuffix(self._held)])


def _certain(text: str) -> int:
    """Length of `text` without a last character that coming bytes may still turn into another."""
    return len(text) - text.endswith(REPLACEMENT)
