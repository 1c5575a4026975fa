"""What the LLM step of encoder-decoders refuses, what fails, and its other ranks, over the stand-in for TensorRT-LLM."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton_python_backend_utils as pb_utils

from tests.unit import serving
from tests.unit.enc_dec import (
    END,
    FEATURES,
    ROWS,
    SAMPLED,
    TOKENS,
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
        with pytest.raises(serving.RequestFailed, match=serving.INTERNAL_ERROR):
            serving.outputs(response)
    assert answer(responses[2]) == truth(2)
    assert any("no memory on the GPU" in text for _, text in pb_utils.Logger.messages)


def test_bad_features_are_refused_alone(tmp_path: Path) -> None:
    ids, rows, _ = asked(0)
    most = len(asked(1)[0])
    model = step(tmp_path, engine(tmp_path / "llm"), **{**FEATURES, "rows_per_image": most})
    refused = {
        "encoder_output_lengths is 500": attended(0, valid=500),
        "encoder_output_lengths is 0": attended(0, valid=0),
        "encoder_input_features is not present": request([0], None, encoder_output_lengths=one(3)),
        "prompt_embedding_table is not supported": request(ids, rows),
        f"encoder_output_lengths is {most + 1}, the engine attends to {most} rows": attended(1, valid=most + 1),
        "input_ids holds 2 ids": attended(0, valid=20, input_ids=np.array([[0, 5]], np.int32), input_lengths=one(2)),
    }
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
