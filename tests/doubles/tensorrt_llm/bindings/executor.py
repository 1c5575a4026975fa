"""The executor of a decoder with visual experts. Its engine is JSON, {"checkpoint": folder}, which the oracle runs; with
"record": file, that gets the size of every batch.

Every argument is asserted by name, type and range, as the release in force takes them. Requests are batched in flight:
each time responses are awaited, every running request gets one token more. Positions are those that the request gives.
"""

from __future__ import annotations

import datetime
import enum
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from generator.oracle.cogvlm import CogvlmOracle, experts

RENAMED = {"max_new_tokens": "max_tokens", "random_seed": "seed", "min_length": "min_tokens"}
REQUEST = {
    "streaming": bool,
    "sampling_config": object,
    "output_config": object,
    "end_id": int,
    "pad_id": int,
    "position_ids": list,
    "bad_words": list,
    "stop_words": list,
    "embedding_bias": torch.Tensor,
    "prompt_tuning_config": object,
    "max_tokens": int,
}
SAMPLING = {
    "top_k": int,
    "top_p": float,
    "temperature": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "length_penalty": float,
    "early_stopping": int,
    "min_tokens": int,
    "seed": int,
}

old_names = False  # as releases up to 0.19 take them; both kinds are in force at times, but one is enough for each
rank = 0


def checked(values: dict[str, Any], known: dict[str, type], what: str) -> dict[str, Any]:
    """The values under their new names; a name of the other era, an unknown one or a wrong type is a TypeError."""
    found = {}
    for name, value in values.items():
        if name in (RENAMED.values() if old_names else RENAMED):
            raise TypeError(f"{what}: incompatible constructor arguments: {name}")
        new = RENAMED.get(name, name)
        kind = known.get(new)
        if kind is None or not (value is None or isinstance(value, kind)) or (kind is int and isinstance(value, bool)):
            raise TypeError(f"{what}: incompatible constructor arguments: {name}={value!r}")
        found[new] = value
    return found


class ModelType(enum.Enum):
    DECODER_ONLY, ENCODER_ONLY, ENCODER_DECODER = range(3)


class BatchingType(enum.Enum):
    STATIC, INFLIGHT = range(2)


class CapacitySchedulerPolicy(enum.Enum):
    MAX_UTILIZATION, GUARANTEED_NO_EVICT = range(2)


@dataclass
class SchedulerConfig:
    capacity_scheduler_policy: CapacitySchedulerPolicy = CapacitySchedulerPolicy.GUARANTEED_NO_EVICT


@dataclass
class KvCacheConfig:
    enable_block_reuse: bool = False
    max_tokens: int | None = None
    max_attention_window: list[int] | None = None
    sink_token_length: int | None = None
    free_gpu_memory_fraction: float | None = None
    host_cache_size: int | None = None
    onboard_blocks: bool = True


@dataclass
class ParallelConfig:
    device_ids: list[int] | None = None


@dataclass
class ExtendedRuntimePerfKnobConfig:
    multi_block_mode: bool = True
    enable_context_fmha_fp32_acc: bool = False
    cuda_graph_mode: bool = False
    cuda_graph_cache_size: int = 0


@dataclass
class ExecutorConfig:
    max_beam_width: int = 1
    scheduler_config: SchedulerConfig = field(default_factory=SchedulerConfig)
    kv_cache_config: KvCacheConfig = field(default_factory=KvCacheConfig)
    enable_chunked_context: bool = False
    normalize_log_probs: bool = True
    batching_type: BatchingType = BatchingType.INFLIGHT
    parallel_config: ParallelConfig | None = None
    gpu_weights_percent: float = 1.0
    extended_runtime_perf_knob_config: ExtendedRuntimePerfKnobConfig = field(
        default_factory=ExtendedRuntimePerfKnobConfig
    )


class SamplingConfig:
    def __init__(self, beam_width: int = 1, **values: Any) -> None:
        self.beam_width = beam_width
        self.values = checked(values, SAMPLING, "SamplingConfig")
        if self.values.get("top_p") is not None and not 0 < self.values["top_p"] <= 1:
            raise RuntimeError("topP should be in (0, 1]")
        if self.values.get("min_tokens", 1) < 1:
            raise RuntimeError("minTokens should be positive")


@dataclass
class OutputConfig:
    return_log_probs: bool = False
    return_context_logits: bool = False
    return_generation_logits: bool = False
    exclude_input_from_output: bool = False


@dataclass
class PromptTuningConfig:
    embedding_table: torch.Tensor

    def __post_init__(self) -> None:
        if self.embedding_table.ndim != 2:
            raise RuntimeError("Expected prompt embedding table to have shape [vocabSize, hiddenSize]")


class Request:
    def __init__(self, input_token_ids: list[int], **values: Any) -> None:
        if not all(type(token) is int for token in input_token_ids) or not input_token_ids:
            raise TypeError(f"Request: input_token_ids {input_token_ids!r}")
        self.input_token_ids = list(input_token_ids)
        self.values = checked(values, REQUEST, "Request")
        self.max_tokens: int = self.values["max_tokens"]
        places = self.values.get("position_ids")
        if places is not None and not all(type(place) is int for place in places):
            raise TypeError(f"Request: position_ids {places!r}")


@dataclass
class Result:
    is_final: bool
    output_token_ids: list[list[int]]
    cum_log_probs: list[float] | None = None
    log_probs: list[list[float]] | None = None
    context_logits: torch.Tensor | None = None
    generation_logits: torch.Tensor | None = None


@dataclass
class Response:
    request_id: int
    result: Any = None
    error_msg: str = ""

    def has_error(self) -> bool:
        return bool(self.error_msg)


class Running:
    """One request: what it has so far, and its next token."""

    def __init__(self, number: int, request: Request, oracle: CogvlmOracle) -> None:
        self.number, self.request, self.oracle = number, request, oracle
        self.cancelled = False
        self.new: list[int] = []
        self.log_probs: list[float] = []
        self.kept: list[torch.Tensor] = []
        ids = torch.tensor(request.input_token_ids)
        embedding = oracle.weights["model.embed_tokens.weight"]
        visual = ids >= len(embedding)
        self.states = embedding[ids.masked_fill(visual, 0)]
        config = request.values.get("prompt_tuning_config")
        if visual.any():
            self.states[visual] = config.embedding_table[ids[visual] - len(embedding)]
        places = request.values.get("position_ids")
        self.places = torch.arange(len(ids)) if places is None else torch.tensor(places)
        self.seen = experts(visual)
        self.context: torch.Tensor | None = None
        self.past: Any = {}

    def step(self) -> Response | None:
        """One token; a response if the request streams or this was its last."""
        request, output = self.request, self.request.values["output_config"]
        embedding = self.oracle.weights["model.embed_tokens.weight"]
        begin = len(self.new)
        if not self.cancelled:
            with torch.inference_mode():
                logits = self.oracle.scores(self.states, self.places, self.seen, self.past)
            self.context = logits if self.context is None else self.context
            bias = request.values.get("embedding_bias")
            token = int((logits[-1] if bias is None else logits[-1] + bias).argmax())
            if token != request.values["end_id"]:
                self.new.append(token)
            self.log_probs.append(float(logits[-1].log_softmax(-1)[token]))
            self.kept.append(logits[-1])
            self.states, self.places, self.seen = embedding[[token]], self.places[-1:] + 1, self.seen.new_zeros(1)
        words = request.values.get("stop_words") or []
        stopped = any(self.new[-len(word) :] == word for word in words)
        final = self.cancelled or stopped or len(self.log_probs) == request.max_tokens or len(self.new) == begin
        if not final and not request.values["streaming"]:
            return None
        whole = [] if output.exclude_input_from_output else request.input_token_ids
        ids = self.new[begin:] if request.values["streaming"] else [*whole, *self.new]
        result = Result(final, [ids])
        if output.return_log_probs:
            result.cum_log_probs, result.log_probs = [sum(self.log_probs)], [self.log_probs[: len(self.new)]]
        if output.return_context_logits:
            result.context_logits = self.context
        if output.return_generation_logits:
            result.generation_logits = torch.stack(self.kept)[None].half()
        return Response(self.number, result)


class Executor:
    made: ClassVar[list[Executor]] = []
    """Every executor, oldest first."""

    def __init__(self, model_path: str, model_type: ModelType, executor_config: ExecutorConfig) -> None:
        assert model_type is ModelType.DECODER_ONLY
        engine = json.loads(Path(model_path, "rank0.engine").read_text())
        self.build = json.loads(Path(model_path, "config.json").read_text())["build_config"]
        self.config = executor_config
        self.oracle = CogvlmOracle(Path(engine["checkpoint"]))
        self.record = Path(engine["record"]) if "record" in engine else None
        self.requests: list[Request] = []
        self.cancelled: list[int] = []
        self.batches: list[int] = []
        """How many requests ran together, step by step."""
        self.failure: Exception | None = None
        self.refused: dict[int, str] = {}
        """What the executor says of a request, by its number, instead of an answer."""
        self.closed = False
        self._running: dict[int, Running] = {}
        self._ready: list[Response] = []
        self._lock = threading.Condition()
        self.made.append(self)

    def can_enqueue_requests(self) -> bool:
        return rank == 0 and not self.closed

    def enqueue_requests(self, requests: list[Request]) -> list[int]:
        assert self.can_enqueue_requests()
        with self._lock:
            numbers = []
            for request in requests:
                self.requests.append(request)
                number = len(self.requests)
                numbers.append(number)
                places = request.values.get("position_ids")
                if number in self.refused:
                    self._ready.append(Response(number, error_msg=self.refused[number]))
                elif len(request.input_token_ids) > self.build["max_input_len"]:
                    limit = self.build["max_input_len"]
                    what = f"Prompt length ({len(request.input_token_ids)}) exceeds maximum input length ({limit})."
                    self._ready.append(Response(number, error_msg=what))
                elif places is not None and len(places) != len(request.input_token_ids):
                    self._ready.append(Response(number, error_msg="positionIds length must equal the prompt's"))
                else:
                    self._running[number] = Running(number, request, self.oracle)
            self._lock.notify_all()
        return numbers

    def await_responses(self, timeout: datetime.timedelta | None = None) -> list[Response]:
        assert timeout is None or isinstance(timeout, datetime.timedelta)
        if self.failure:
            raise self.failure
        with self._lock:
            if not self._running and not self._ready:
                self._lock.wait(timeout and timeout.total_seconds())
            responses, self._ready = self._ready, []
            running = list(self._running.values())
        if running:
            self.batches.append(len(running))
            if self.record:
                self.record.write_text(json.dumps(self.batches))
        for request in running:
            response = request.step()
            if response is not None:
                responses.append(response)
                if response.result.is_final:
                    with self._lock:
                        del self._running[request.number]
        return responses

    def cancel_request(self, id: int) -> None:
        with self._lock:
            self.cancelled.append(id)
            if id in self._running:
                self._running[id].cancelled = True

    def shutdown(self) -> None:
        assert not self._running, "shut down while requests run"
        self.closed = True
