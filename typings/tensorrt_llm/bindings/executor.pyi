"""Types of the part of the executor's bindings that the serving code uses (0.13 to 1.2)."""

import datetime
import enum
from collections.abc import Sequence
from typing import Any

class ModelType(enum.Enum):
    DECODER_ONLY = ...

class BatchingType(enum.Enum):
    STATIC = ...
    INFLIGHT = ...

class CapacitySchedulerPolicy(enum.Enum):
    MAX_UTILIZATION = ...
    GUARANTEED_NO_EVICT = ...

class SchedulerConfig:
    def __init__(self, capacity_scheduler_policy: CapacitySchedulerPolicy = ...) -> None: ...

class KvCacheConfig:
    def __init__(
        self,
        enable_block_reuse: bool = ...,
        max_tokens: int | None = ...,
        max_attention_window: Sequence[int] | None = ...,
        sink_token_length: int | None = ...,
        free_gpu_memory_fraction: float | None = ...,
        host_cache_size: int | None = ...,
        onboard_blocks: bool = ...,
    ) -> None: ...

class ParallelConfig:
    def __init__(self, *, device_ids: Sequence[int] | None = ...) -> None: ...

class ExtendedRuntimePerfKnobConfig:
    def __init__(
        self,
        multi_block_mode: bool = ...,
        enable_context_fmha_fp32_acc: bool = ...,
        cuda_graph_mode: bool = ...,
        cuda_graph_cache_size: int = ...,
    ) -> None: ...

class ExecutorConfig:
    def __init__(
        self,
        max_beam_width: int = ...,
        *,
        scheduler_config: SchedulerConfig = ...,
        kv_cache_config: KvCacheConfig = ...,
        enable_chunked_context: bool = ...,
        normalize_log_probs: bool = ...,
        batching_type: BatchingType = ...,
        parallel_config: ParallelConfig | None = ...,
        gpu_weights_percent: float = ...,
        extended_runtime_perf_knob_config: ExtendedRuntimePerfKnobConfig = ...,
    ) -> None: ...

class SamplingConfig:
    def __init__(self, beam_width: int = ..., **values: Any) -> None: ...

class OutputConfig:
    def __init__(
        self,
        return_log_probs: bool = ...,
        return_context_logits: bool = ...,
        return_generation_logits: bool = ...,
        exclude_input_from_output: bool = ...,
    ) -> None: ...

class PromptTuningConfig:
    def __init__(self, embedding_table: Any) -> None: ...

class Request:
    def __init__(self, input_token_ids: Sequence[int], **values: Any) -> None: ...

class Result:
    is_final: bool
    output_token_ids: list[list[int]]
    cum_log_probs: list[float] | None
    log_probs: list[list[float]] | None
    context_logits: Any | None
    generation_logits: Any | None

class Response:
    request_id: int
    result: Result
    error_msg: str
    def has_error(self) -> bool: ...

class Executor:
    def __init__(self, model_path: str, model_type: ModelType, executor_config: ExecutorConfig) -> None: ...
    def can_enqueue_requests(self) -> bool: ...
    def enqueue_requests(self, requests: list[Request]) -> list[int]: ...
    def await_responses(self, *, timeout: datetime.timedelta | None = ...) -> list[Response]: ...
    def cancel_request(self, id: int) -> None: ...
    def shutdown(self) -> None: ...
