"""Engine folders as TensorRT-LLM writes them, but for the engine itself, which is an empty file."""

from __future__ import annotations

import json
import os
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


def vision_of_requests(
    folder: Path,
    *,
    max_entries: int = 1,
    rows: int = 576,
    constant_rows: int = 0,
    table_dtype: str = "float16",
    max_batch_size: int = 8,
    **more: Any,
) -> Path:
    """A vision engine folder as `gen-repo build-vision --vision-backend tensorrt` writes it."""
    vision(folder, max_batch_size=max_batch_size, **more)
    form = {"max_entries": max_entries, "rows": rows, "constant_rows": constant_rows, "table_dtype": table_dtype}
    config = json.loads((folder / "config.json").read_text())
    config["gen_repo"] = {"digest": "", "pixels": "float", "versions": {}, "requests": form}
    (folder / "config.json").write_text(json.dumps(config))
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
    architecture: str = "LlamaForCausalLM",
    max_batch_size: int = 8,
    max_input_len: int = 2048,
    max_seq_len: int | None = 2560,
    table: int = 8 * 576,
    quantization: str | None = None,
    kv_cache: str | None = None,
    plugins: dict[str, Any] | None = None,
    content: str = "",
    pretrained: dict[str, Any] | None = None,
    rank_bytes: int = 0,
    **build: Any,
) -> Path:
    """An LLM engine folder; `pretrained` and `build` are further fields of their sections.

    Engine files have `content`, or else `rank_bytes` bytes, which take no space on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": version,
        "pretrained_config": {
            "architecture": architecture,
            "dtype": dtype,
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp},
            "quantization": {"quant_algo": quantization, "kv_cache_quant_algo": kv_cache},
            **(pretrained or {}),
        },
        "build_config": {
            "max_input_len": max_input_len,
            "max_seq_len": max_seq_len,
            "max_batch_size": max_batch_size,
            "max_beam_width": 1,
            "max_num_tokens": 8192,
            "max_prompt_embedding_table_size": table,
            "max_encoder_input_len": 1024,  # whether or not there is an encoder
            "plugin_config": {
                "paged_kv_cache": True,
                "remove_input_padding": True,
                "use_paged_context_fmha": False,
                **(plugins or {}),
            },
            **build,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    for rank in range(tp * pp):
        file = folder / f"rank{rank}.engine"
        file.write_text(content)
        if rank_bytes:
            os.truncate(file, rank_bytes)
    return folder


def attending(
    folder: Path, *, max_seq_len: int = 1024, max_encoder_input_len: int = 924, paged: bool = False, **numbers: Any
) -> Path:
    """A folder with `decoder/`, as the guide builds one that attends to an encoder: without paged KV cache.

    `numbers` are what llm() takes.
    """
    plugins = {"paged_kv_cache": paged, **numbers.pop("plugins", {})}
    numbers.pop("max_input_len", None)  # nothing but the start token stands before the answer
    limits = {"max_input_len": 1, "max_seq_len": max_seq_len, "max_encoder_input_len": max_encoder_input_len}
    llm(folder / "decoder", architecture="DecoderModel", plugins=plugins, **limits, **(numbers | {"table": 0}))
    return folder


def encoder_decoder(
    folder: Path,
    *,
    max_input_len: int = 924,
    table: int = 8 * 32,
    encoder: dict[str, Any] | None = None,
    **numbers: Any,
) -> Path:
    """The same with `encoder/`, which reads the prompt and its table; `encoder` changes numbers of it alone."""
    attending(folder, **numbers)
    for name in ("max_seq_len", "max_encoder_input_len", "paged"):
        numbers.pop(name, None)
    own = {"max_input_len": max_input_len, "max_seq_len": None, "table": table, **numbers, **(encoder or {})}
    plugins = {"paged_kv_cache": False, **own.pop("plugins", {})}
    llm(folder / "encoder", architecture="EncoderModel", plugins=plugins, **own)
    return folder
