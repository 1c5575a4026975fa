"""An option that shapes a repository is in its manifest, and build_engines.sh repeats it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from generator.options import Options

# Said by the script through the plan's paths and limits, or not part of what is generated.
ELSEWHERE = {"model", "hf_model_dir", "visual_engine_dir", "llm_engine_dir", "tokenizer_dir", "projector", "output"}
ELSEWHERE |= {"header_font", "max_batch_size", "max_images", "max_tokens", "path_map", "force", "working_dir"}
TRTLLM_ONLY = {"runtime"}  # the script exists for one runtime
VALUES: dict[str, Any] = {
    "streaming": True,
    "kv_cache_reuse": True,
    "client_cache_ids": True,
    "vision_cache": 64 << 20,
    "decode_scale": True,
    "tp": 2,
    "pp": 2,
    "tokenizer": "checkpoint",
    "image_hosts": ("a.b",),
    "limits": (("image-pixels", 9),),
    "nodes": 2,
    "vision_gpus": (1,),
    "gpu_memory": 80 << 30,
    "set": (("tensorrt_llm", "max_beam_width", "2"),),
}


def test_every_other_option_is_repeated() -> None:
    for field in fields(Options):
        if field.name in ELSEWHERE | TRTLLM_ONLY:
            continue
        plain = Options(model="llava", working_dir=Path("/"))
        asked = Options(**{"model": "llava", "working_dir": Path("/"), field.name: VALUES.get(field.name, "x")})
        assert asked.words() != plain.words(), f"--{field.name} is lost when build_engines.sh generates again"


def test_every_option_that_shapes_the_files_is_in_the_manifest() -> None:
    for field in fields(Options):
        if field.name in {
            "hf_model_dir",
            "visual_engine_dir",
            "llm_engine_dir",
            "tokenizer_dir",
            "projector",
            "header_font",
            "output",
        }:
            continue  # facts of the run, named by the manifest's paths
        if field.name in {"force", "working_dir", "model", "runtime", "max_tokens"}:
            continue
        asked = Options(**{"model": "llava", field.name: VALUES.get(field.name, "x")})
        assert asked.as_manifest() != Options(model="llava").as_manifest(), field.name
