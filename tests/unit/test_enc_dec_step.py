"""The LLM step of encoder-decoders, over the stand-in for TensorRT-LLM, which runs a tiny T5 with transformers.

What this cannot show is left to a run on a GPU: the real package, its streams and memory, several ranks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import llm_words
import numpy as np
import pytest
import torch
import triton_python_backend_utils as pb_utils
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils import dlpack

from tests import checkpoints, engines, photos
from tests.oracle.blip2 import Blip2T5Oracle
from tests.truth.oracle_checks import picture
from tests.unit import serving

VOCAB, HIDDEN, ROWS = 1024, 64, 32
END, TOKENS = 1, 12
FOLDER = serving.ROOT / "templates/trtllm/python_enc_dec/1"


class RowsTensor(pb_utils.Tensor):
    """A tensor of the server that may only be passed on by DLPack, as one in GPU memory or one of bf16."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self._name, self.tensor = name, tensor

    def to_dlpack(self) -> Any:
        return dlpack.to_dlpack(self.tensor)

    def as_numpy(self) -> Any:
        raise AssertionError(f"{self._name} was copied to the host")

    def shape(self) -> list[int]:
        return list(self.tensor.shape)


@pytest.fixture(autouse=True)
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    mpi, runtime = importlib.import_module("tensorrt_llm._utils"), importlib.import_module("tensorrt_llm.runtime")
    monkeypatch.setattr(mpi, "sent", [])
    monkeypatch.setattr(runtime.GenerationSession, "calls", [])
    yield
    for name in ("enc_dec_engine", "enc_dec_calls"):
        sys.modules.pop(name, None)


def calls() -> list[dict[str, Any]]:
    """What the decoder was called with, in order."""
    found: list[dict[str, Any]] = importlib.import_module("tensorrt_llm.runtime").GenerationSession.calls
    return found


@cache
def oracle() -> Blip2T5Oracle:
    return Blip2T5Oracle(checkpoints.cached("blip2-t5"))


def engine(folder: Path, **numbers: Any) -> Path:
    """Engine folders of the tiny checkpoint, with limits like those of the guide's build."""
    content = json.dumps({"checkpoint": str(checkpoints.cached("blip2-t5"))})
    numbers = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "dtype": "bfloat16", "content": content, **numbers}
    return engines.encoder_decoder(folder, **numbers)


def step(folder: Path, where: Path, **changes: Any) -> Any:
    """The loaded step; `changes` replace entries of its settings."""
    settings = {
        "model": "tiny-t5",
        "engine": str(where),
        "release": "0.16.0",
        "dtype": "bfloat16",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "max_seq_len": 1024,
        "carries": "prompt_embedding_table",
        "decoder_start_id": 0,
        "decoupled": False,
        "rows_per_image": ROWS,
        "pad_id": 0,
        "max_batch": 8,
        "max_beam_width": 1,
        "max_input_len": 924,
        "max_table_rows": ROWS,
        "tp": 1,
        "pp": 1,
    }
    return serving.load_step("trtllm/python_enc_dec", folder, {**settings, **changes}, with_tokenizer=False)


@cache
def asked(number: int) -> tuple[list[int], torch.Tensor, list[int]]:
    """Ids as preprocessing makes them, the image's rows [1, 32, hidden], and the oracle's answer of 12 tokens."""
    text, image = photos.PROMPTS[number], picture(number)
    rows = torch.from_numpy(oracle().rows(oracle().pixels([image])))
    ids = oracle().ids(text, [image])
    numbered = [VOCAB + position if token == oracle().image_id else token for position, token in enumerate(ids)]
    return numbered, rows.bfloat16(), oracle().generate(text, [image], TOKENS)[0]


def truth(number: int, tokens: int = TOKENS) -> list[int]:
    """The oracle's answer to a question without its end token."""
    answer = asked(number)[2][:tokens]
    return answer[: answer.index(END)] if END in answer else answer


def request(
    ids: Sequence[int], rows: torch.Tensor | None, name: str = "prompt_embedding_table", **more: Any
) -> pb_utils.InferenceRequest:
    """A request of one row; `more` replaces or adds tensors, None leaves one out."""
    values: dict[str, Any] = {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[TOKENS]], np.int32),
        "end_id": np.array([[END]], np.int32),
        "pad_id": np.array([[0]], np.int32),
        **more,
    }
    tensors = [pb_utils.Tensor(key, value) for key, value in values.items() if value is not None]
    vision = [] if rows is None else [RowsTensor(name, rows)]
    return pb_utils.InferenceRequest("llm", ["output_ids", "sequence_length"], [*tensors, *vision])


def about(number: int, **more: Any) -> pb_utils.InferenceRequest:
    ids, rows, _ = asked(number)
    return request(ids, rows, **more)


def answer(response: pb_utils.InferenceResponse, beam: int = 0) -> list[int]:
    made = serving.outputs(response)
    assert made["output_ids"].dtype == made["sequence_length"].dtype == np.int32
    assert made["output_ids"].shape[:2] == made["sequence_length"].shape
    ids: list[int] = made["output_ids"][0, beam, : made["sequence_length"][0, beam]].tolist()
    return ids


def one(value: Any, dtype: Any = np.int32) -> NDArray[Any]:
    return np.array([[value]], dtype)


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


SAMPLED = {"runtime_top_k": one(5), "runtime_top_p": one(0.5, np.float32), "temperature": one(0.25, np.float32)}


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"embedding_bias": np.ones((1, VOCAB), np.float32)}, "embedding_bias is not supported on the route"),
        ({"return_log_probs": one(True, np.bool_)}, "return_log_probs is not supported on the route"),
        ({"return_context_logits": one(True, np.bool_)}, "return_context_logits is not supported"),
        ({"return_generation_logits": one(True, np.bool_)}, "return_generation_logits is not supported"),
        ({"lora_task_id": one(1, np.uint64)}, "lora_task_id is not supported by the route python_enc_dec: leave it"),
        ({"streaming": one(True, np.bool_)}, "decoupled"),
        ({"end_id": one(-1)}, "end_id is not present"),
        ({"beam_width": one(2)}, "beam_width is 2, the engine was built for 1"),
        ({"request_output_len": None}, "request_output_len is not present"),
        ({"temperature": one(-1.0, np.float32)}, "temperature is -1.0"),
        ({"input_lengths": one(900)}, "input_lengths is 900"),
    ],
)
def test_what_it_cannot_do_is_refused_alone(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    good, bad, last = model.execute([about(0), about(1, **changes), about(2)])
    assert (answer(good), answer(last)) == (truth(0), truth(2))
    with pytest.raises(serving.RequestFailed, match=says) as failure:
        serving.outputs(bad)
    assert failure.value.code == pb_utils.TritonError.INVALID_ARG


def test_what_the_engines_cannot_hold_is_refused_alone(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"), max_input_len=60)
    ids, rows, _ = asked(0)
    refused = {
        "61 input_lengths, the encoder engine takes 60": request([*ids[:-1], *[5] * (61 - len(ids)), END], rows),
        "64 rows of prompt_embedding_table, the encoder engine takes 32": request(ids, torch.cat([rows, rows], 1)),
        "prompt_embedding_table is not present": request(ids[ROWS:], None),
        "asks for row 32": request([*ids, VOCAB + 32], rows),
        "prompt_embedding_table is torch.float16": request(ids, rows.half()),
        r"prompt_embedding_table has shape \[1, 32, 32\]": request(ids, rows[..., :32].contiguous()),
    }
    responses = model.execute([*refused.values(), about(0)])
    for says, response in zip(refused, responses, strict=False):
        with pytest.raises(serving.RequestFailed, match=says):
            serving.outputs(response)
    assert answer(responses[-1]) == truth(0)


def test_a_failed_call_fails_those_that_shared_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    monkeypatch.setitem(model.settings, "max_batch", 2)
    decode = model.engine.runner.decoder_session.decode

    def broken(*given: Any, **more: Any) -> Any:
        if not calls():
            calls().append({})
            raise RuntimeError("no memory on the GPU")
        return decode(*given, **more)

    monkeypatch.setattr(model.engine.runner.decoder_session, "decode", broken)
    responses = model.execute([about(number) for number in range(3)])
    for response in responses[:2]:
        with pytest.raises(serving.RequestFailed, match=r"^internal error [0-9a-f]{8}$"):
            serving.outputs(response)
    assert answer(responses[2]) == truth(2)
    assert any("no memory on the GPU" in text for _, text in pb_utils.Logger.messages)


def test_a_stop_request_is_answered_with_nothing(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"))
    [response] = model.execute([about(0, stop=one(True, np.bool_))])
    assert response.output_tensors() == [] and not response.has_error() and calls() == []


def attended(number: int, valid: int | None = None, **more: Any) -> pb_utils.InferenceRequest:
    """A request whose features are the T5 encoder's own output, then rows that are not valid."""
    ids, rows, _ = asked(number)
    runner = importlib.import_module("tensorrt_llm.runtime")
    model = runner.language_model(str(checkpoints.cached("blip2-t5")))
    tokens = torch.tensor(ids)
    embeds = model.get_input_embeddings()(tokens.masked_fill(tokens >= VOCAB, 0))
    embeds[: len(rows[0])] = rows[0]
    with torch.inference_mode():
        features = model.get_encoder()(inputs_embeds=embeds[None]).last_hidden_state
    padded = torch.cat([features, torch.full((1, 3, HIDDEN), 9.0, dtype=torch.bfloat16)], dim=1)
    lengths = one(features.shape[1] if valid is None else valid)
    return request([0], padded.clone(), "encoder_input_features", encoder_output_lengths=lengths, **more)


FEATURES = {"carries": "encoder_input_features", "decoder_start_id": None, "rows_per_image": 100, "max_input_len": 1}


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


def test_bad_features_are_refused_alone(tmp_path: Path) -> None:
    model = step(tmp_path, engine(tmp_path / "llm"), **{**FEATURES, "rows_per_image": 50})
    ids, rows, _ = asked(0)
    refused = {
        "encoder_output_lengths is 500": attended(0, valid=500),
        "encoder_output_lengths is 0": attended(0, valid=0),
        "encoder_input_features is not present": request([0], None, encoder_output_lengths=one(3)),
        "prompt_embedding_table is not supported": request(ids, rows),
        "encoder_output_lengths is 51, the engine attends to 50 rows": attended(1, valid=51),
        "input_ids holds 2 ids": attended(0, valid=20, input_ids=np.array([[0, 5]], np.int32), input_lengths=one(2)),
    }
    assert len(asked(1)[0]) + 3 >= 51
    responses = model.execute([*refused.values(), attended(0, valid=20)])
    for says, response in zip(refused, responses, strict=False):
        with pytest.raises(serving.RequestFailed, match=says):
            serving.outputs(response)
    assert len(answer(responses[-1])) == TOKENS


def test_the_other_ranks_run_what_rank_0_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpi = importlib.import_module("tensorrt_llm._utils")
    where = engine(tmp_path / "llm", tp=2)
    monkeypatch.setattr(mpi, "size", 2)
    model = step(tmp_path, where, tp=2)
    responses = model.execute([about(0), about(1, **SAMPLED), about(2)])
    assert (answer(responses[0]), answer(responses[2])) == (truth(0), truth(2))
    model.finalize()
    assert len(mpi.sent) == 3 and mpi.sent[-1] is None
    led = list(calls())
    calls().clear()

    monkeypatch.setattr(mpi, "rank", 1)
    monkeypatch.setattr(mpi, "heard", [mpi.sent[0], object(), *mpi.sent[1:]])  # one that fails on every rank alike
    follower = step(tmp_path, where, tp=2)  # returns when rank 0 has closed
    assert mpi.heard == []
    assert [call["lengths"] for call in calls()] == [call["lengths"] for call in led]
    assert [call["sampling"] for call in calls()] == [call["sampling"] for call in led]
    sent = len(mpi.sent)
    follower.finalize()
    assert len(mpi.sent) == sent


def rank_missing(folder: Path) -> None:
    (folder / "decoder" / "rank0.engine").unlink()


def padded(folder: Path) -> None:
    engine(folder, encoder={"plugins": {"remove_input_padding": False}})


def other_vocabulary(folder: Path) -> None:
    engine(folder, vocab_size=1000)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (rank_missing, FileNotFoundError, r"decoder/rank0\.engine does not exist: build it with build_engines\.sh"),
        (padded, ValueError, "the encoder engine of .* takes padded sequences"),
        (other_vocabulary, ValueError, "vocab_size 1000, this repository was generated for 1024"),
    ],
)
def test_engines_that_do_not_fit_do_not_load(
    tmp_path: Path, change: Callable[[Path], None], error: type[Exception], says: str
) -> None:
    where = engine(tmp_path / "llm")
    change(where)
    with pytest.raises(error, match=says):
        step(tmp_path, where)


def test_what_is_missing_on_the_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = engine(tmp_path / "llm")
    with pytest.raises(RuntimeError, match=r"are for 2 GPU\(s\), this server has 1 rank\(s\): .*launch\.sh"):
        step(tmp_path, where, tp=2)
    with monkeypatch.context() as blind:
        blind.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(RuntimeError, match=r"no GPU is visible.*--runtime torch"):
            step(tmp_path, where)
    sys.modules.pop("enc_dec_engine", None)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.runtime", None)
    with pytest.raises(ImportError, match=r"package tensorrt_llm cannot be imported.*trtllm-python-py3"):
        importlib.import_module("enc_dec_engine")
