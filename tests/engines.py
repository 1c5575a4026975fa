"""Engine folders as TensorRT-LLM writes them, but for the engine itself, which is an empty file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LLAVA_LLM = {"vocab_size": 32064, "hidden_size": 4096}
VILA_LLM = {"vocab_size": 32000, "hidden_size": 2560}


def vision(folder: Path, *, model_type: str = "llava", precision: str = "float16", **more: Any) -> Path:
    """A vision engine folder as release 0.12 to 0.16 writes it; `more` are further fields of builder_config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"builder_config": {"model_type": model_type, "precision": precision, "tensor_parallel": 1, **more}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.engine").touch()
    return folder


def llm(
    folder: Path,
    *,
    version: str = "0.16.0",
    vocab_size: int = 32064,
    hidden_size: int = 4096,
    dtype: str = "float16",
    tp: int = 1,
    pp: int = 1,
    max_batch_size: int = 8,
    max_input_len: int = 2048,
    max_seq_len: int = 2560,
    table: int = 8 * 576,
    quantization: str | None = None,
    kv_cache: str | None = None,
    plugins: dict[str, Any] | None = None,
    **build: Any,
) -> Path:
    """An LLM engine folder; `build` are further fields of build_config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": version,
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "dtype": dtype,
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp},
            "quantization": {"quant_algo": quantization, "kv_cache_quant_algo": kv_cache},
        },
        "build_config": {
            "max_input_len": max_input_len,
            "max_seq_len": max_seq_len,
            "max_batch_size": max_batch_size,
            "max_beam_width": 1,
            "max_num_tokens": 8192,
            "max_prompt_embedding_table_size": table,
            "plugin_config": {"paged_kv_cache": True, "use_paged_context_fmha": False, **(plugins or {})},
            **build,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    for rank in range(tp * pp):
        (folder / f"rank{rank}.engine").touch()
    return folder
