"""The executor of TensorRT-LLM, configured by the parameters of config.pbtxt as the backend would configure it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tensorrt_llm.bindings import executor as trtllm

T = TypeVar("T")
TRUE, FALSE = ("True", "true", "TRUE", "1"), ("False", "false", "FALSE", "0")


class Parameters:
    """Values of config.pbtxt by name; what is absent or empty is left to the executor's default."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._values = {name: entry.get("string_value", "") for name, entry in config.get("parameters", {}).items()}

    def get(self, name: str, kind: Callable[[str], T]) -> T | None:
        """The value of parameter `name`, None when there is none. Raises ValueError when it is of another kind."""
        value = self._values.get(name, "")
        try:
            return kind(value) if value else None
        except (KeyError, ValueError):
            raise ValueError(f"config.pbtxt: parameter {name} is {value!r}, which the executor does not take") from None

    def given(self, **kinds: tuple[str, Callable[[str], Any]]) -> dict[str, Any]:
        """Keyword arguments: their name = (parameter's name, kind), those left out that have no value."""
        found = {argument: self.get(name, kind) for argument, (name, kind) in kinds.items()}
        return {argument: value for argument, value in found.items() if value is not None}


def boolean(value: str) -> bool:
    if value not in TRUE + FALSE:
        raise ValueError(value)
    return value in TRUE


def integers(value: str) -> list[int]:
    return [int(part) for part in value.split(",")]


def policy(value: str) -> Any:
    return {
        "guaranteed_no_evict": trtllm.CapacitySchedulerPolicy.GUARANTEED_NO_EVICT,
        "max_utilization": trtllm.CapacitySchedulerPolicy.MAX_UTILIZATION,
    }[value]


def load(engine: str, parameters: Parameters) -> trtllm.Executor:
    """The executor of the engine in the folder `engine`, on every rank that it was built for.

    Blocks of the key-value cache are not shared and a prompt is read whole: neither knows of positions other than those
    that count tokens. Raises ValueError for a parameter that is not understood, an engine that is not there, and for
    the orchestrator mode.
    """
    if os.environ.get("TRTLLM_ORCHESTRATOR", "0") == "1":
        raise ValueError("TRTLLM_ORCHESTRATOR is 1: this step runs one process per rank, start it with launch.sh")
    if not Path(engine, "config.json").is_file():
        raise ValueError(
            f"{engine!r} holds no engine: run the repository's build_engines.sh, or generate it again with "
            "--llm-engine-dir (and --path-map, if the server sees it elsewhere)"
        )
    cache = parameters.given(
        max_tokens=("max_tokens_in_paged_kv_cache", int),
        max_attention_window=("max_attention_window_size", integers),
        sink_token_length=("sink_token_length", int),
        free_gpu_memory_fraction=("kv_cache_free_gpu_mem_fraction", float),
        host_cache_size=("kv_cache_host_memory_bytes", int),
        onboard_blocks=("kv_cache_onboard_blocks", boolean),
    )
    knobs = parameters.given(
        multi_block_mode=("multi_block_mode", boolean),
        enable_context_fmha_fp32_acc=("enable_context_fmha_fp32_acc", boolean),
        cuda_graph_mode=("cuda_graph_mode", boolean),
        cuda_graph_cache_size=("cuda_graph_cache_size", int),
    )
    more = parameters.given(
        max_beam_width=("max_beam_width", int),
        normalize_log_probs=("normalize_log_probs", boolean),
        gpu_weights_percent=("gpu_weights_percent", float),
    )
    devices = parameters.get("gpu_device_ids", integers)
    if devices:
        more["parallel_config"] = trtllm.ParallelConfig(device_ids=devices)
    chosen = parameters.get("batch_scheduler_policy", policy)
    config = trtllm.ExecutorConfig(
        scheduler_config=trtllm.SchedulerConfig() if chosen is None else trtllm.SchedulerConfig(chosen),
        kv_cache_config=trtllm.KvCacheConfig(enable_block_reuse=False, **cache),
        enable_chunked_context=False,
        batching_type=trtllm.BatchingType.INFLIGHT,
        extended_runtime_perf_knob_config=trtllm.ExtendedRuntimePerfKnobConfig(**knobs),
        **more,
    )
    return trtllm.Executor(engine, trtllm.ModelType.DECODER_ONLY, config)
