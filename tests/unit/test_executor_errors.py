"""What the LLM step over the executor's bindings refuses, and what fails in it, over the stand-in for TensorRT-LLM."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton_python_backend_utils as pb_utils
from tensorrt_llm.bindings import executor as trtllm

from generator.oracle.cogvlm import CogvlmOracle
from tests.unit.executor_requests import (
    FINAL,
    PROMPT,
    ROWS,
    TEXT,
    VOCAB,
    ids,
    request,
    run,
    table,
)
from tests.unit.executor_step import Load, checkpoint, expected, load, oracle, server
from tests.unit.serving import ERROR_ID, INTERNAL_ERROR

__all__ = ["checkpoint", "load", "oracle", "server"]  # fixtures

WRONG_PROMPTS = {
    "a row missing": [1, *range(VOCAB, VOCAB + ROWS - 1), *TEXT],
    "two rows swapped": [1, VOCAB, VOCAB + 2, VOCAB + 1, *range(VOCAB + 3, VOCAB + ROWS), *TEXT],
    "the image in two pieces": [1, VOCAB, 5, *range(VOCAB + 1, VOCAB + ROWS)],
    "two images": [1, *range(VOCAB, VOCAB + ROWS), *range(VOCAB, VOCAB + ROWS)],
}


@pytest.mark.parametrize("what", WRONG_PROMPTS)
def test_prompts_without_one_whole_image_are_refused(load: Load, oracle: CogvlmOracle, what: str) -> None:
    model = load()
    bad, good = request(WRONG_PROMPTS[what]), request()
    run(model, bad, good)
    assert str(ROWS) in bad.message() and "side by side" in bad.message()
    assert [ids(answer) for answer in good.answers()] == [expected(oracle)]


def one(value: Any, dtype: Any) -> np.ndarray[Any, Any]:
    return np.array([[value]], dtype)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "two rows": (lambda: request(PROMPT, PROMPT), "Batch size > 1 requires"),
    "streaming": (lambda: request(streaming=one(True, bool)), "Streaming is only supported"),
    "rows beyond the table": (lambda: request(tables=table(rows=ROWS - 1)), f"which has {ROWS - 1} rows"),
    "another dtype": (lambda: request(tables=table(dtype=torch.float16)), "the weights are torch.bfloat16"),
    "adapter": (lambda: request(lora_task_id=one(1, np.uint64)), "lora_task_id is not supported"),
    "several answers": (lambda: request(num_return_sequences=one(2, np.int32)), "num_return_sequences is not supp"),
    "beams": (lambda: request(beam_width=one(2, np.int32)), "beam_width is 2, the route python_executor takes 1 at"),
    "words": (lambda: request(stop_words_list=np.array([[[5], [2]]], np.int32)), "out-of-bound offsets"),
    "too long": (lambda: request([1, *range(VOCAB, VOCAB + ROWS), *[7] * 250]), "the engine takes 200 at most"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_request_fails_alone(load: Load, oracle: CogvlmOracle, what: str) -> None:
    make, words = REFUSED[what]
    bad, good = make(), request()
    run(load(), bad, good)
    assert words in bad.message() and re.search(rf" {ERROR_ID}$", bad.message())
    assert bad.sender.responses[-1].error().code() == pb_utils.TritonError.INVALID_ARG
    assert [ids(answer) for answer in good.answers()] == [expected(oracle)]


def test_the_beams_that_the_executor_was_made_for_reach_it(load: Load) -> None:
    asked = request(beam_width=one(2, np.int32))
    run(load(parameters={"max_beam_width": "2"}), asked)
    assert asked.sender.done.wait(30)
    assert trtllm.Executor.made[0].requests[0].values["sampling_config"].beam_width == 2


def logged(mark: str) -> str:
    """What the log has under the id of an error."""
    [line] = [line for level, line in pb_utils.Logger.messages if level == "error" and line.startswith(mark)]
    return str(line)


INSIDE = "[TensorRT-LLM][ERROR] Assertion failed: no free block (/src/cpp/batch_manager/kvCacheManager.cpp:123)"


def test_what_the_executor_says_of_a_request_is_for_the_log(load: Load, oracle: CogvlmOracle) -> None:
    model = load()
    executor = trtllm.Executor.made[0]
    bad, good = request(), request()
    run(model, good)
    executor.refused[2] = INSIDE
    run(model, bad)
    assert re.fullmatch(INTERNAL_ERROR, bad.message())
    assert bad.sender.responses[-1].error().code() == pb_utils.TritonError.INTERNAL
    assert INSIDE in logged(bad.message()[-16:]) and "request 2" in logged(bad.message()[-16:])
    assert [ids(answer) for answer in good.answers()] == [expected(oracle)]


def test_a_result_that_cannot_be_sent_is_that_rows_alone(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two rows of a request one has its answer, and one final flag ends both."""
    model = load(streaming=True)
    asked = request(PROMPT, PROMPT)
    made = model.in_flight._answers.tensors

    def tensors(result: Any, index: int, rows: int) -> Any:
        if index == 1:
            raise MemoryError("/dev/shm/region is full")
        return made(result, index, rows)

    monkeypatch.setattr(model.in_flight._answers, "tensors", tensors)
    run(model, asked)
    assert asked.sender.done.wait(30)
    [failure] = [response.error() for response in asked.sender.responses if response.has_error()]
    assert len(asked.sender.responses) == 2 and re.fullmatch(INTERNAL_ERROR, failure.message())
    assert "/dev/shm/region is full" in logged(failure.message()[-16:])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_response_that_does_not_fit_into_shared_memory_is_that_requests_alone(
    load: Load, oracle: CogvlmOracle, streaming: bool
) -> None:
    """It ends, is cancelled and forgotten, and neither its neighbour nor a later request notices."""
    model = load(streaming=streaming, parameters={"cancellation_check_period_ms": "1"})
    flag = {"streaming": one(streaming, bool)}
    lost, beside = request(tokens=300, end_id=one(-1, np.int32), **flag), request(**flag)
    lost.sender.memory = int(streaming)
    run(model, lost, beside)
    assert [token for answer in beside.answers() for token in ids(answer)] == expected(oracle)
    if not streaming:
        model.in_flight._cancel([1])
    assert lost.sender.done.wait(30)
    assert len(lost.sender.responses) == int(streaming)
    later = request(**flag)
    run(model, later)
    assert [token for answer in later.answers() for token in ids(answer)] == expected(oracle)
    assert trtllm.Executor.made[0].cancelled == [1] and not model.in_flight._running
    assert any("shared memory" in message for level, message in pb_utils.Logger.messages if level == "error")


def test_the_other_row_of_a_request_goes_on(load: Load, oracle: CogvlmOracle) -> None:
    """The row whose response was lost is told so, since there is room again, and the flag ends both."""
    model = load(streaming=True)
    asked = request(PROMPT, PROMPT)
    sends, kept = [], asked.sender.send

    def send(response: Any = None, flags: int = 0) -> None:
        sends.append(flags)
        if len(sends) == 1:
            raise pb_utils.TritonModelException("Failed to increase the shared memory pool size")
        kept(response, flags)

    asked.sender.send = send  # type: ignore[method-assign]
    run(model, asked)
    assert asked.sender.done.wait(30)
    lost, whole = asked.sender.responses
    assert re.fullmatch(INTERNAL_ERROR, str(lost.error().message())) and not whole.has_error()
    assert "shared memory" in logged(lost.error().message()[-16:])
    assert sends == [0, 0, 0, FINAL]


def test_a_refusal_that_cannot_be_sent_harms_no_other_request(load: Load, oracle: CogvlmOracle) -> None:
    bad, good = request(temperature=one(-1, np.float32)), request()
    bad.sender.memory = 0
    run(load(), bad, good)
    assert bad.sender.done.wait(30) and bad.sender.responses == []
    assert [ids(answer) for answer in good.answers()] == [expected(oracle)]


def test_no_row_is_taken_on_while_a_failed_executor_is_being_answered_for(load: Load) -> None:
    model = load()
    executor = trtllm.Executor.made[0]
    answering, go_on = threading.Event(), threading.Event()
    asked, later = request(tokens=300, end_id=one(-1, np.int32)), request()
    kept = asked.sender.send

    def send(response: Any = None, flags: int = 0) -> None:
        answering.set()
        assert go_on.wait(30)
        kept(response, flags)

    asked.sender.send = send  # type: ignore[method-assign]
    run(model, asked)
    executor.failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert answering.wait(30)
    run(model, later)
    go_on.set()
    assert re.fullmatch(INTERNAL_ERROR, later.message()) and re.fullmatch(INTERNAL_ERROR, asked.message())
    assert not model.in_flight._running
    executor._running.clear()


def test_a_failing_executor_leaves_no_client_waiting(load: Load) -> None:
    model = load()
    executor = trtllm.Executor.made[0]
    asked = request(tokens=300, end_id=np.array([[-1]], np.int32))
    run(model, asked)
    executor.failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert re.fullmatch(INTERNAL_ERROR, asked.message())
    assert "illegal memory access" in logged(asked.message()[-16:])
    executor._running.clear()
    later = request()
    run(model, later)
    assert re.fullmatch(INTERNAL_ERROR, later.message())
    assert "load the model again" in logged(later.message()[-16:])


@pytest.mark.parametrize(
    ("name", "value"), [("max_beam_width", "many"), ("batch_scheduler_policy", "static"), ("multi_block_mode", "maybe")]
)
def test_a_parameter_of_another_kind_is_named(load: Load, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"parameter {name} is '{value}'"):
        load(parameters={name: value})


def test_loading_names_what_is_missing(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="/nowhere' holds no engine: run the repository's build_engines.sh"):
        load(path_map=((str(tmp_path / "engine"), "/nowhere"),))
    monkeypatch.setenv("TRTLLM_ORCHESTRATOR", "1")
    with pytest.raises(ValueError, match="launch.sh"):
        load(force=True)


def test_config_and_settings_must_agree(load: Load) -> None:
    model = load()
    config = {"model_transaction_policy": {"decoupled": True}}
    with pytest.raises(ValueError, match="decoupled: True, settings.json says False"):
        type(model)().initialize({"model_config": json.dumps(config)})
