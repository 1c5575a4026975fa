"""The LLM step over the executor's bindings, as generated, run by the stand-in for TensorRT-LLM.

The stand-in checks every argument, honours the positions that it is given, and computes with the oracle's layers; so
tokens equal the oracle's only if prompt, table, positions and end are right.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from tensorrt_llm.bindings import executor as trtllm

from generator.oracle.cogvlm import CogvlmOracle
from tests.unit.executor_requests import (
    PLACES,
    PROMPT,
    TEXT,
    TOKENS,
    VOCAB,
    ids,
    request,
    run,
    table,
)
from tests.unit.executor_step import Load, checkpoint, expected, load, oracle, server

__all__ = ["checkpoint", "load", "oracle", "server"]  # fixtures

# --- what the executor gets, and what comes back ---


@pytest.mark.parametrize(("version", "old"), [("1.2.1", False), ("0.20.0", False), ("0.19.0", True), ("0.13.0", True)])
def test_arguments_by_the_names_of_the_release(
    load: Load, oracle: CogvlmOracle, version: str, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trtllm, "old_names", old)
    model = load(version=version)
    names = ("random_seed", "min_length") if old else ("seed", "min_tokens")
    asked = request(
        **{names[0]: np.array([[7]], np.uint64), names[1]: np.array([[3]], np.int32)},
        runtime_top_k=np.array([[4]], np.int32),
        runtime_top_p=np.array([[0.0]], np.float32),
        temperature=np.array([[0.5]], np.float32),
        stop_words_list=np.array([[[9, 8, 7], [1, 3, -1]]], np.int32),
        embedding_bias=np.zeros((1, VOCAB), np.float32),
    )
    run(model, asked)
    [answer] = asked.answers()
    assert ids(answer) == expected(oracle)
    [sent] = trtllm.Executor.made[0].requests
    assert sent.input_token_ids == PROMPT
    assert sent.values["position_ids"] == PLACES
    assert torch.equal(sent.values["prompt_tuning_config"].embedding_table, table()[0])
    assert (sent.max_tokens, sent.values["end_id"], sent.values["pad_id"]) == (TOKENS, 2, 0)
    assert sent.values["stop_words"] == [[9], [8, 7]]
    assert sent.values["bad_words"] is None
    assert sent.values["embedding_bias"].shape == (VOCAB,)
    assert sent.values["output_config"].exclude_input_from_output
    sampling = sent.values["sampling_config"]
    assert sampling.beam_width == 1
    assert sampling.values == {
        "top_k": 4,
        "temperature": 0.5,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 3,
        "seed": 7,
    }


def test_a_text_without_image_counts_its_positions(load: Load) -> None:
    asked = request([1, *TEXT])
    run(load(), asked)
    asked.answers()
    assert trtllm.Executor.made[0].requests[0].values["position_ids"] == [0, 1, 2, 3, 4]


def test_right_padding_is_cut(load: Load, oracle: CogvlmOracle) -> None:
    longer = [*TEXT, 5, 6]
    asked = request(PROMPT, [*PROMPT, 5, 6])
    run(load(streaming=True), asked)
    found = {int(answer["batch_index"]): ids(answer) for answer in asked.answers()}
    assert found == {0: expected(oracle), 1: expected(oracle, 1, text=longer)}
    assert [len(sent.values["position_ids"]) for sent in trtllm.Executor.made[0].requests] == [16, 18]


def test_what_config_pbtxt_says_reaches_the_executor(load: Load) -> None:
    load(set=(("tensorrt_llm", "kv_cache_free_gpu_mem_fraction", "0.5"), ("tensorrt_llm", "gpu_device_ids", "1")))
    config = trtllm.Executor.made[0].config
    knobs = config.extended_runtime_perf_knob_config
    assert knobs.enable_context_fmha_fp32_acc and knobs.multi_block_mode and not knobs.cuda_graph_mode
    assert not config.kv_cache_config.enable_block_reuse and not config.enable_chunked_context
    assert config.kv_cache_config.free_gpu_memory_fraction == 0.5
    assert config.parallel_config.device_ids == [1]
    assert config.batching_type is trtllm.BatchingType.INFLIGHT
    assert config.scheduler_config.capacity_scheduler_policy.name == "GUARANTEED_NO_EVICT"
    assert config.max_beam_width == 1 and config.gpu_weights_percent == 1.0 and config.normalize_log_probs


def test_log_probabilities_and_logits(load: Load) -> None:
    flags = ("return_log_probs", "return_context_logits", "return_generation_logits")
    asked = request(**{name: np.array([[True]]) for name in flags})
    run(load(), asked)
    [answer] = asked.answers()
    count = len(ids(answer))
    assert answer["output_log_probs"].shape == (1, 1, count) and (answer["output_log_probs"] < 0).all()
    assert answer["cum_log_probs"].shape == (1, 1)
    assert answer["context_logits"].shape == (1, len(PROMPT), VOCAB)
    assert answer["generation_logits"].shape == (1, 1, count, VOCAB)
    assert answer["generation_logits"].dtype == answer["context_logits"].dtype == np.float32


def test_stop_words_end_an_answer(load: Load, oracle: CogvlmOracle) -> None:
    whole = expected(oracle)
    words = np.array([[[whole[1], whole[2]], [2, -1]]], np.int32)
    asked = request(stop_words_list=words)
    run(load(), asked)
    assert [ids(answer) for answer in asked.answers()] == [whole[:3]]


def test_the_prompt_comes_back_when_asked(load: Load, oracle: CogvlmOracle) -> None:
    asked = request(exclude_input_in_output=np.array([[False]]))
    run(load(), asked)
    assert [ids(answer) for answer in asked.answers()] == [[*PROMPT, *expected(oracle)]]


# --- in flight ---


def test_requests_run_together(load: Load, oracle: CogvlmOracle) -> None:
    """None waits for another, decoupled or not."""
    model = load()
    asked = [request(tables=table(number)) for number in range(4)]
    run(model, *asked[:2])
    run(model, *asked[2:])
    assert [[ids(answer) for answer in own.answers()] for own in asked] == [[expected(oracle, n)] for n in range(4)]
    assert max(trtllm.Executor.made[0].batches) > 1


def test_streamed_tokens_come_one_by_one(load: Load, oracle: CogvlmOracle) -> None:
    asked = request(PROMPT, PROMPT, streaming=np.array([[True], [True]]))
    run(load(streaming=True), asked)
    rows: dict[int, list[list[int]]] = {0: [], 1: []}
    for answer in asked.answers():
        rows[int(answer["batch_index"])].append(ids(answer))
    for row, pieces in rows.items():
        assert len(pieces) >= TOKENS and all(len(piece) <= 1 for piece in pieces)
        assert [token for piece in pieces for token in piece] == expected(oracle, row)


def test_stop_request_cancels_by_its_id(load: Load) -> None:
    model = load(streaming=True)
    long = request(tokens=300, streaming=np.array([[True]]), request_id="mine", end_id=np.array([[-1]], np.int32))
    other = request(request_id="another")
    run(model, long, other)
    stop = request(request_id="mine", stop=np.array([[True]]))
    run(model, stop)
    assert stop.answers() == [{}]
    assert sum(len(ids(answer)) for answer in long.answers()) < 300
    assert len(ids(other.answers()[0])) > 0
    assert trtllm.Executor.made[0].cancelled == [1]
    nameless = request(stop=np.array([[True]]))
    run(model, nameless)
    assert "request ID is not provided" in nameless.message()


def test_a_client_that_leaves_frees_its_place(load: Load) -> None:
    model = load(streaming=True, parameters={"cancellation_check_period_ms": "1"})
    left = request(tokens=300, end_id=np.array([[-1]], np.int32))
    left.sender.cancelled = True
    run(model, left)
    assert left.sender.done.wait(30)
    assert trtllm.Executor.made[0].cancelled == [1]


def test_unloading_ends_what_runs(load: Load) -> None:
    model = load(streaming=True)
    asked = request(tokens=300, end_id=np.array([[-1]], np.int32))
    run(model, asked)
    model.finalize()
    model.in_flight = None
    assert asked.sender.done.is_set() and trtllm.Executor.made[0].closed


def test_further_ranks_wait_and_never_answer(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trtllm, "rank", 1)
    threads = threading.active_count()
    model = load()
    assert trtllm.Executor.made[0].closed and threading.active_count() == threads
    model.finalize()
