"""Token ids to text while they arrive: the pieces, joined, are exactly the text of all ids decoded at once.

Decoding each chunk alone loses spaces and breaks characters that span tokens; decoding everything again for each
token costs more and more. Here a short window of the latest tokens is decoded, and what it adds is the new piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Tokenizer

# An unfinished UTF-8 character has at most 3 bytes, so it lies within the last 4 tokens.
KEPT_TOKENS = 4
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Detokenizer:
    """What all streams of one tokenizer share; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        self.special = frozenset(token.content for token in added if token.special)
        decoder = tokenizer.decoder
        self.byte_fallback = decoder is not None and decoder.decode(["<0x41>"]) == "A"

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens; ids outside the vocabulary have no text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A new stream, for one answer."""
        return TextStream(self)


class TextStream:
    """The text of one answer: `push` each time ids arrive, `finish` once.

    The cost of a push does not depend on how much came before it: at most 2 * KEPT_TOKENS earlier ids are decoded
    again, and each id of a run of byte tokens once, when the run ends.
    """

    def __init__(self, shared: Detokenizer) -> None:
        self._shared = shared
        self._window: list[int] = []  # the latest ids that have a token and are not special
        self._sent = 0  # characters of the window's text that have been returned
        self._in_byte_run = False

    def push(self, ids: Iterable[int]) -> str:
        """The text that is certain now and was not before; empty while a character is unfinished."""
        for id in ids:
            token = self._shared.tokenizer.id_to_token(id)
            if token is not None and token not in self._shared.special:
                self._window.append(id)
                self._in_byte_run = self._shared.byte_fallback and BYTE_TOKEN.fullmatch(token) is not None
        if self._in_byte_run:  # one invalid byte later on turns the text of the whole run into replacement characters
            return ""
        piece = self._piece(final=False)
        if len(self._window) > 2 * KEPT_TOKENS:
            self._shorten()
        return piece

    def finish(self) -> str:
        """The rest of the text, with unfinished characters as decoding everything at once renders them."""
        return self._piece(final=True)

    def _piece(self, *, final: bool) -> str:
        text = self._shared.decode(self._window)
        end = len(text) if final else _certain(text)
        piece = text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def _shorten(self) -> None:
        text = self._shared.decode(self._window[-KEPT_TOKENS:])
        if text:  # else a decoder that strips the start of the text would strip the next token too
            del self._window[:-KEPT_TOKENS]
            self._sent = _certain(text)


def _certain(text: str) -> int:
    """Length of `text` without a last character that coming bytes may still turn into another."""
    return len(text) - text.endswith(REPLACEMENT)
