"""A tokenizer.model in the steps: ids, text, streams and word lists are sentencepiece's own."""

from __future__ import annotations

import itertools

import pytest
from detokenize import Detokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor  # type: ignore[import-untyped]
from sentencepiece_text import SentencePieceText
from tensors import RequestError
from word_lists import word_list

from tests.checkpoints.neva import SYMBOLS
from tests.unit import serving
from tests.vocabularies import SENTENCEPIECE_SIZE, sentencepiece_model

LIBRARY = SentencePieceProcessor(model_proto=sentencepiece_model("<s>", "</s>", SYMBOLS))
STOP = LIBRARY.piece_to_id("<extra_id_1>")
TOKENIZER = SentencePieceText(LIBRARY, [STOP])
ids_of_anything = st.lists(st.integers(0, SENTENCEPIECE_SIZE - 1) | st.integers(0, 40), max_size=30)


@given(st.text(max_size=40))
def test_ids(text: str) -> None:
    assert TOKENIZER.encode(text) == TOKENIZER.encode(text, special_tokens=False) == LIBRARY.encode(text)


@settings(deadline=None)
@given(ids_of_anything)
def test_text_without_stop_words_and_ids_beyond_the_vocabulary(ids: list[int]) -> None:
    expected = LIBRARY.decode([id for id in ids if id != STOP])
    assert TOKENIZER.decode([*ids, STOP, SENTENCEPIECE_SIZE + 5]) == expected


@settings(deadline=None, max_examples=400)
@given(st.lists(ids_of_anything, max_size=12))
def test_streamed_text_joins_to_the_whole(chunks: list[list[int]]) -> None:
    stream = Detokenizer(TOKENIZER).stream()
    pieces = [stream.push(chunk) for chunk in chunks]
    assert "".join([*pieces, stream.finish()]) == TOKENIZER.decode([id for chunk in chunks for id in chunk])


def test_a_stop_word_is_found_alone() -> None:
    """In running text it has no space before it, as it has at the start of a text."""
    ids, ends = word_list(TOKENIZER, ["<extra_id_1>"]).tolist()
    starts = [0, *(end for end in ends if end > 0)]
    assert [STOP] in [ids[a:b] for a, b in itertools.pairwise(starts)]


def test_prompt_of_a_fixed_order() -> None:
    from chat_sequence_prompt import PromptBuilder

    piece = {"special_tokens": False, "strip": False}
    prompt = {"before": [{"text": "A:\n", **piece}], "after": [{"text": "\n{text}\nB:", **piece}]}
    builder = PromptBuilder(serving.settings(prompt=prompt), TOKENIZER)
    assert builder.chunks("why?", 1, True) == [LIBRARY.encode("A:\n"), LIBRARY.encode("\nwhy?\nB:")]
    assert builder.chunks("x <image>y", 1, False) == [LIBRARY.encode("x "), LIBRARY.encode("y")]
    with pytest.raises(RequestError, match="fixed place"):
        builder.chunks("a <image>", 1, True)
    with pytest.raises(RequestError, match=r"1 image\(s\) but 0 <image>"):
        builder.chunks("a", 1, False)
