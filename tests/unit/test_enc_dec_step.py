"""Answers of the LLM step of encoder-decoders, over the stand-in for TensorRT-LLM, which runs a tiny T5.

What this cannot show is left to a run on a GPU: the real package, its streams and memory, several ranks.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import llm_words
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import serving
from tests.unit.enc_dec import (
    END,
    FEATURES,
    FOLDER,
    ROWS,
    SAMPLED,
    VOCAB,
    about,
    answer,
    asked,
    attended,
    calls,
    engine,
    importable,
    one,
    request,
    step,
    truth,
)


@pytest.fixture(autouse=True)
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with importable(monkeypatch):
        yield


def test_requests_of_a_batch_share_a_call_and_answer_as_transformers_does(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    responses = model.execute([about(number) for number in range(6)])
    assert [answer(response) for response in responses] == [truth(number) for number in range(6)]
    [call] = calls()
    assert call["batch"] == 6 and call["lengths"] == [len(asked(number)[0]) for number in range(6)]
    assert len({tuple(truth(number)) for number in range(6)}) == 6


def test_a_request_alone_answers_the_same(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    for number in range(3):
        [response] = model.execute([about(number)])
        assert answer(response) == truth(number)


def test_rows_are_those_of_the_requests_own_image(tmp_path: Path) -> None:
    """Two requests with their images exchanged: neither gets its answer."""
    model = step(tmp_path, engine(tmp_path / "llm"))
    (first, rows, _), (second, others, _) = asked(0), asked(1)
    exchanged = model.execute([request(first, others), request(second, rows)])
    assert answer(exchanged[0]) != truth(0) and answer(exchanged[1]) != truth(1)


def test_a_padding_token_inside_a_prompt_is_read(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    ids, rows, _ = asked(0)
    [response] = model.execute([request([*ids[:-1], 0, 0, END], rows)])
    [call] = calls()
    assert call["lengths"] == [len(ids) + 2]
    assert answer(response) != truth(0)


def test_larger_batches_are_split_and_each_answer_is_cut_to_its_own_length(tmp_path: Path) -> None:
    where = engine(tmp_path / "llm", max_batch_size=2, table=2 * ROWS)
    model = step(tmp_path, where, max_batch=2)
    lengths = [3, 12, 5, 1, 7]
    asks = [about(number, request_output_len=one(tokens)) for number, tokens in enumerate(lengths)]
    responses = model.execute(asks)
    assert [answer(r) for r in responses] == [truth(number, tokens) for number, tokens in enumerate(lengths)]
    assert [(call["batch"], call["max_new_tokens"]) for call in calls()] == [(2, 12), (2, 5), (1, 7)]


def test_the_answer_stops_before_its_end_token(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    end = truth(1)[4]
    [response] = model.execute([about(1, end_id=one(end))])
    assert answer(response) == truth(1)[: truth(1).index(end)]
    [response] = model.execute([about(1, end_id=one(truth(1)[0]))])
    assert answer(response) == []  # an empty answer is one


def test_stop_words_end_an_answer_that_they_are_part_of(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    words = np.array([[[9, *truth(1)[3:5]], [1, 3, -1]]], np.int32)
    plain, stopped = model.execute([about(0), about(1, stop_words_list=words)])
    assert answer(plain) == truth(0) and answer(stopped) == truth(1)[:5]
    [call] = calls()
    assert call["stop"].tolist() == [[[0, 0, 0], [-1, -1, -1]], [[9, *truth(1)[3:5]], [1, 3, -1]]]
    assert call["bad"] is None


def test_bad_words_reach_the_decoder(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    model.execute([about(0, bad_words_list=np.array([[[2], [1]]], np.int32)), about(1)])
    [call] = calls()
    assert call["bad"].tolist() == [[[2], [1]], [[0], [-1]]] and call["stop"] is None


WORDS = st.lists(st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4), max_size=4), min_size=1)


@given(WORDS)
def test_word_lists_come_back_from_the_contracts_form(rows: list[list[list[int]]]) -> None:
    sys.path.insert(0, str(FOLDER))
    try:
        made = importlib.import_module("enc_dec_calls")._words(rows)
    finally:
        sys.path.remove(str(FOLDER))
    if made is None:
        assert not any(rows)
    else:
        assert [llm_words.parse(words, "words", VOCAB) for words in made] == rows


def test_requests_whose_tokens_are_chosen_otherwise_get_a_call_of_their_own(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    seeds = {name: one(7, np.uint64) for name in ("random_seed",)}
    greedy = [about(0), about(1, temperature=one(0.3, np.float32), runtime_top_k=one(1), **seeds)]
    sampled = [about(2, **SAMPLED, **seeds), about(3, **SAMPLED, random_seed=one(2**64 - 1, np.uint64))]
    others = [about(4, min_length=one(4)), about(5, repetition_penalty=one(1.5, np.float32))]
    model.execute([*greedy, *sampled, *others])
    made = [call["sampling"] for call in calls()]
    assert [call["batch"] for call in calls()] == [2, 1, 1, 1, 1]
    assert [(s.top_k, s.top_p, s.temperature, s.random_seed) for s in made[:3]] == [
        (1, 0.0, 1.0, None),
        (5, 0.5, 0.25, 7),
        (5, 0.5, 0.25, 2**63 - 1),
    ]
    assert [s.min_length for s in made] == [0, 0, 0, 4, 0] and made[4].repetition_penalty == 1.5
    assert {(s.end_id, s.pad_id, s.num_beams) for s in made} == {(END, 0, 1)}


def test_beams(tmp_path: Path) -> None:
    where = engine(tmp_path / "llm", max_beam_width=3)
    model = step(tmp_path, where, max_beam_width=3)
    wide, plain = model.execute([about(0, beam_width=one(3), len_penalty=one(0.5, np.float32)), about(1)])
    assert answer(plain) == truth(1)
    found = [answer(wide, beam) for beam in range(3)]
    assert len({tuple(ids) for ids in found}) == 3
    assert calls()[0]["sampling"].num_beams == 3 and calls()[0]["sampling"].length_penalty == 0.5
    assert serving.outputs(wide)["output_ids"].shape[:2] == (1, 3)


def test_input_is_given_back_when_asked(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    [response] = model.execute([about(0, exclude_input_in_output=one(False, np.bool_))])
    assert answer(response) == [0, *truth(0)]


def test_a_stop_request_is_answered_with_nothing(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    [response] = model.execute([about(0, stop=one(True, np.bool_))])
    assert response.output_tensors() == [] and not response.has_error() and calls() == []


def test_features_of_an_image_are_what_the_decoder_attends_to(tmp_path: Path) -> None:
    where = engine(tmp_path / "llm")
    for file in (where / "encoder").iterdir():
        file.unlink()
    model = step(tmp_path, where, **FEATURES)
    responses = model.execute([attended(number) for number in range(4)])
    assert [answer(response) for response in responses] == [truth(number) for number in range(4)]
    [call] = calls()
    assert call["lengths"] == [len(asked(number)[0]) for number in range(4)]  # the valid ones alone
    [fewer] = model.execute([attended(0, valid=20)])
    assert answer(fewer) != truth(0)
