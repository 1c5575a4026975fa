"""The LLM step over the executor's bindings, as generated, run by the stand-in for TensorRT-LLM.

The stand-in checks every argument, honours the positions that it is given, and computes with the oracle's layers; so
tokens equal the oracle's only if prompt, table, positions and end are right.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton_python_backend_utils as pb_utils
from google.protobuf import json_format, text_format
from tensorrt_llm.bindings import executor as trtllm
from tritonclient.grpc import model_config_pb2

from generator.generate import generate
from generator.options import Options
from generator.oracle.cogvlm import CogvlmOracle
from tests import engines
from tests.checkpoints import cogvlm
from tests.unit.executor_requests import (
    HIDDEN,
    PLACES,
    PROMPT,
    ROWS,
    SIDE,
    TEXT,
    TOKENS,
    VOCAB,
    ids,
    request,
    run,
    table,
)
from tests.unit.serving import ERROR_ID, INTERNAL_ERROR

MODULES = ("executor_calls", "executor_loading", "in_flight")


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16}
    monkeypatch.setattr(pb_utils, "triton_string_to_numpy", kinds.get, raising=False)
    decoupled = lambda config: config.get("model_transaction_policy", {}).get("decoupled", False)  # noqa: E731
    monkeypatch.setattr(pb_utils, "using_decoupled_model_transaction_policy", decoupled, raising=False)
    monkeypatch.setattr(trtllm, "old_names", False)
    monkeypatch.setattr(trtllm, "rank", 0)
    monkeypatch.setattr(trtllm.Executor, "made", [])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    cogvlm.make(folder, SIDE)
    return folder / cogvlm.FOLDER


@pytest.fixture(scope="module")
def oracle(checkpoint: Path) -> CogvlmOracle:
    return CogvlmOracle(checkpoint)


Load = Callable[..., Any]


@pytest.fixture
def load(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Generates a repository for an engine of the stand-in, and loads its LLM step."""
    loaded = []

    def generated(
        *, streaming: bool = False, version: str = "1.2.1", parameters: dict[str, str] | None = None, **options: Any
    ) -> Any:
        engine = engines.llm(
            tmp_path / "engine",
            version=version,
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            dtype="bfloat16",
            max_input_len=200,
            max_seq_len=400,
            table=8 * ROWS,
        )
        (engine / "rank0.engine").write_text(json.dumps({"checkpoint": str(checkpoint)}))
        outcome = generate(
            Options(
                model="cogvlm",
                hf_model_dir=checkpoint,
                llm_engine_dir=engine,
                output=tmp_path / "repository",
                streaming=streaming,
                **options,
            )
        )
        assert not outcome.failed, "\n".join(map(str, outcome.findings))
        step = outcome.output / "tensorrt_llm"
        config = text_format.Parse((step / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        values = json_format.MessageToDict(config, preserving_proto_field_name=True)
        for name, value in (parameters or {}).items():
            values["parameters"][name] = {"string_value": value}
        monkeypatch.syspath_prepend(str(step / "1"))
        for name in MODULES:
            sys.modules.pop(name, None)
        spec = importlib.util.spec_from_file_location("executor_step", step / "1/model.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize({"model_config": json.dumps(values)})
        loaded.append(model)
        return model

    yield generated
    for model in loaded:
        model.finalize()
    for name in MODULES:
        sys.modules.pop(name, None)


def expected(oracle: CogvlmOracle, row: int = 0, tokens: int = TOKENS, text: Sequence[int] = TEXT) -> list[int]:
    """The oracle's new ids, without the end token."""
    ids = [1, *[oracle.image_id] * ROWS, *text]
    return [token for token in oracle.continuation(ids, table(row).float().numpy(), tokens) if token != 2]


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


# --- errors ---

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
