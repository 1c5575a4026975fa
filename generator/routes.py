"""How the language model is run under TensorRT-LLM: which step does it, and what that step can do.

A model's spec names its routes, the default first. Sources: the `tensorrtllm` backend never hands position ids to the
executor and never gives a table to an encoder (tensorrtllm_backend 0.12 to 0.19, `utils.cc`), hence the Python steps;
encoder features are read from 0.15.0 on.
"""

from __future__ import annotations

from dataclasses import dataclass

TABLE = "prompt_embedding_table"
FEATURES = "encoder_input_features"
LENGTHS = "encoder_output_lengths"


@dataclass(frozen=True)
class Route:
    """A way to run the language model.

    Attributes:
        step: folder of the step's templates below templates/trtllm/.
        since: the first release that can.
        streams: whether tokens can be sent as they come.
        batches: whether a streaming repository takes several rows in one request.
        paged_kv_cache: whether the engine must have a paged KV cache.
        reuses_kv_cache: whether equal prefixes, images included, may share KV blocks.
        own_code: the step is a Python model of the repository, not the C++ backend.
        experimental: nobody upstream runs these models so.
        parameters: those of the backend's that the step reads, too; () = it is the backend.
    """

    name: str
    step: str = "tensorrt_llm"
    since: str = "0.12.0"
    streams: bool = True
    batches: bool = True
    paged_kv_cache: bool = True
    reuses_kv_cache: bool = False
    own_code: bool = False
    experimental: bool = False
    parameters: tuple[str, ...] = ()


EXECUTOR_PARAMETERS = (
    "max_beam_width",
    "max_tokens_in_paged_kv_cache",
    "max_attention_window_size",
    "sink_token_length",
    "batch_scheduler_policy",
    "kv_cache_free_gpu_mem_fraction",
    "kv_cache_host_memory_bytes",
    "kv_cache_onboard_blocks",
    "exclude_input_in_output",
    "normalize_log_probs",
    "gpu_device_ids",
    "gpu_weights_percent",
    "enable_context_fmha_fp32_acc",
    "multi_block_mode",
    "cuda_graph_mode",
    "cuda_graph_cache_size",
    "cancellation_check_period_ms",
)

ROUTES = {
    route.name: route
    for route in (
        Route("prompt_table", reuses_kv_cache=True),
        # With several rows the backend would cut the features to the length of input_ids.
        Route("encoder_features", since="0.15.0", batches=False, experimental=True),
        Route(
            "python_enc_dec",
            "python_enc_dec",
            streams=False,
            batches=False,
            paged_kv_cache=False,
            own_code=True,
            parameters=("max_beam_width",),
        ),
        # The executor batches prompts with positions of their own from 0.13.0 on.
        Route("python_executor", "python_executor", since="0.13.0", own_code=True, parameters=EXECUTOR_PARAMETERS),
    )
}
