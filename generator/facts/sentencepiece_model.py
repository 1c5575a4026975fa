"""A tokenizer.model as it is, for models that were trained with sentencepiece itself."""

from __future__ import annotations

import functools
from typing import Any

from generator.facts.tokenizer import TokenizerFacts
from generator.findings import EXIT_ENVIRONMENT, Refused, error


class SentencePieceFacts(TokenizerFacts):
    """`content` is a tokenizer.model, which is served with the `sentencepiece` package."""

    def encode(self, text: str) -> list[int]:
        ids: list[int] = _processor(self.content, self.source).encode(text)
        return ids

    def find(self, token: str) -> int | None:
        processor = _processor(self.content, self.source)
        found: int = processor.piece_to_id(token)
        return found if processor.id_to_piece(found) == token else None  # unknown pieces get the unknown id


def facts(content: bytes, source: str) -> SentencePieceFacts:
    """The facts of a model file.

    Args:
        source: where it is from, in words, for messages.

    Raises:
        Refused: it is no such file, states no end token, or sentencepiece is not installed.
    """
    processor = _processor(content, source)
    end, pad, begin = processor.eos_id(), processor.pad_id(), processor.bos_id()
    if end < 0:
        raise Refused(error("tokenizer-no-eos", "the tokenizer has no end-of-sequence piece", source, _REMEDY))
    return SentencePieceFacts(
        content=content,
        bos=begin if begin >= 0 else None,
        end=end,
        pad=pad if pad >= 0 else end,
        image=None,
        vocabulary=processor.get_piece_size(),
        source=source,
    )


_REMEDY = "give the tokenizer.model of this checkpoint with --tokenizer-dir"


@functools.lru_cache(maxsize=4)
def _processor(content: bytes, source: str) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor  # type: ignore[import-untyped]
    except ImportError:
        what = "sentencepiece is not installed, and this model's text is tokenized by it"
        remedy = "pip install 'gen-repo[hf]'"
        raise Refused(error("sentencepiece-missing", what, source, remedy), exit_code=EXIT_ENVIRONMENT) from None
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)  # the constructor takes no content for none, and crashes later
        return processor
    except (RuntimeError, ValueError):  # the latter where its pieces are no text
        raise Refused(error("tokenizer-unreadable", "no sentencepiece model", source, _REMEDY)) from None
