"""A tokenizer.json, read with the `tokenizers` package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from text_tokenizer import TextTokenizer
from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TokenizersText(TextTokenizer):
    """See there."""

    def __init__(self, tokenizer: Tokenizer, dropped: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._dropped = frozenset(dropped)
        added = tokenizer.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)
        decoder = tokenizer.decoder
        self._byte_fallback = decoder is not None and decoder.decode(["<0x41>"]) == "A"

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special_tokens).ids
        return ids

    def unreplaced(self, ids: Sequence[int]) -> str:
        kept = [id for id in ids if id not in self._dropped]
        return str(self._tokenizer.decode(kept, skip_special_tokens=True))

    def has_text(self, id: int) -> bool:
        token = self._tokenizer.id_to_token(id)
        return token is not None and token not in self._special and id not in self._dropped

    def is_byte(self, id: int) -> bool:
        token = self._tokenizer.id_to_token(id)
        return self._byte_fallback and token is not None and BYTE_TOKEN.fullmatch(token) is not None


def load(file: Path, dropped: Sequence[int]) -> TokenizersText:
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenizersText(tokenizer, dropped)
