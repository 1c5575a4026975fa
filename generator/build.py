"""What build_engines.sh needs besides the plan: folder and script names of the release, and options to repeat."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath

from generator.facts.gather import one_engine_folder
from generator.plan import Plan


@dataclass(frozen=True)
class BuildPlan:
    """`one_folder`: the release keeps both engines below one folder and calls the script build_multimodal_engine.py.
    `options`: what the last line of the script must repeat so that the same repository is made again."""

    converted: str
    vision_folder: str
    one_folder: bool
    fused_mlp: str
    vision_batch: int
    options: str


def _fused_mlp(plan: Plan) -> str:
    """The flag where the guide passes it; in 0.12 it has no value."""
    if not plan.spec.build.fused_mlp:
        return ""
    return "--use_fused_mlp" if plan.release == "0.12.0" else "--use_fused_mlp=enable"


def build_plan(plan: Plan) -> BuildPlan:
    precision = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}[plan.llm_dtype]
    options = [
        "--max-images",
        str(plan.limits.max_images),
        "--max-batch-size",
        str(plan.limits.max_batch_size),
    ]
    options += ["--streaming"] * plan.streaming + ["--kv-cache-reuse"] * plan.kv_cache_reuse
    if plan.names["ensemble"] != "ensemble":
        options += ["--name", plan.names["ensemble"]]
    entries = plan.spec.layout.largest(plan.layout)[0] if plan.spec.layout.largest else 1
    return BuildPlan(
        converted=f"tmp/trt_models/{plan.variant.name}/{precision}/1-gpu",
        vision_folder=str(PurePosixPath(plan.paths.vision_engine).parent),
        one_folder=one_engine_folder(plan.release),
        fused_mlp=_fused_mlp(plan),
        vision_batch=plan.limits.max_batch_size * plan.limits.max_images * entries,
        options=" " + shlex.join(options),
    )
