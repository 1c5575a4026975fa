"""A tokenizer.model, read with the `sentencepiece` package, for models that were trained with it itself: what other
libraries make of such a file differs in white space and unusual characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor  # type: ignore[import-untyped]
from text_tokenizer import TextTokenizer


class SentencePieceText(TextTokenizer):
    """See there. Nothing is put around a text; control pieces are its special tokens."""

    def __init__(self, processor: SentencePieceProcessor, dropped: Sequence[int] = ()) -> None:
        self._processor = processor
        self._dropped = frozenset(dropped)
        self._size: int = processor.get_piece_size()

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        ids: list[int] = self._processor.encode(text)
        return ids

    def unreplaced(self, ids: Sequence[int]) -> str:
        # Control pieces have no text of their own.
        return str(self._processor.decode([id for id in ids if id < self._size and id not in self._dropped]))

    def has_text(self, id: int) -> bool:
        return id < self._size and id not in self._dropped and not self._processor.is_control(id)

    def is_byte(self, id: int) -> bool:
        return bool(self._processor.is_byte(id))

    def ends_bytes(self, id: int) -> bool:
        return id < self._size and id not in self._dropped and bool(self._processor.is_control(id))


def load(file: Path, dropped: Sequence[int]) -> SentencePieceText:
    return SentencePieceText(SentencePieceProcessor(model_file=str(file)), dropped)
