"""What build_engines.sh runs, decided: scripts and folders of the release, and every number of every command.

The guide's numbers are for batches of its own choice; these are the plan's. A table row belongs to a slot of the
runtime, which gets floor(max_multimodal_len / max_batch_size) rows, so both are always passed, and with them whatever
has another default in another release.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath

from generator import folders, release
from generator.options import Options
from generator.plan import Plan
from generator.quantization import NONE, QUANTIZATIONS
from generator.release import Release
from generator.routes import TABLE
from generator.spec import EngineBuild

MAX_NUM_TOKENS = 8192  # trtllm-build's own default: tokens of all requests in one step


@dataclass(frozen=True)
class EngineCommand:
    """One trtllm-build: `part` is the sub-folder of checkpoint and engine, `arguments` are "--name value" lines."""

    part: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class BuildPlan:
    """Everything that the script's template needs besides the plan.

    Attributes:
        converted: folder of the converted checkpoint.
        tokenizer: its folder; "" = in the checkpoint.
        vision_folder: of the vision engine.
        convert_script: below examples/; `convert_arguments`: "--name value" lines of it.
        engines: the LLM's trtllm-build commands.
        vision_script: below examples/; "" = the release has none for this model and gen-repo builds it.
        vision_batch: its --max_batch_size. vision_precision: of its input. table_precision: of the LLM's table.
        options: what the last step must repeat so that the same repository is made again, quoted.
    """

    release: Release
    converted: str
    tokenizer: str
    vision_folder: str
    convert_script: str
    convert_arguments: tuple[str, ...]
    engines: tuple[EngineCommand, ...]
    vision_script: str
    vision_batch: int
    vision_precision: str
    table_precision: str
    options: str


def numbers(plan: Plan) -> dict[str, tuple[str, int]]:
    """Every limit that an engine can be built with: what a spec calls it -> (trtllm-build's argument, value)."""
    limits = plan.limits
    batch, rows = limits.max_batch_size, limits.max_table_rows
    encoder = limits.max_input_len if plan.spec.carries == TABLE else rows
    decoder = limits.max_seq_len if limits.max_output_len is None else 1 + limits.max_output_len
    return {
        "max_beam_width": ("max_beam_width", int(plan.llm_parameters["max_beam_width"])),
        "max_batch_size": ("max_batch_size", batch),
        "max_input_len": ("max_input_len", limits.max_input_len),
        "max_seq_len": ("max_seq_len", limits.max_seq_len),
        # Without chunked context a prompt is one step, whatever its length.
        "max_num_tokens": ("max_num_tokens", max(MAX_NUM_TOKENS, limits.max_input_len)),
        "max_multimodal_len": ("max_multimodal_len", batch * rows),
        "decoder_seq_len": ("max_seq_len", decoder),  # its start token and the answer
        "decoder_input_len": ("max_input_len", 1),
        "max_encoder_input_len": ("max_encoder_input_len", encoder),
        "encoder_num_tokens": ("max_num_tokens", max(MAX_NUM_TOKENS, batch * limits.max_input_len)),
    }


def _line(name: str, value: object = "") -> str:
    return f"{name} {value}".strip()


def _convert(plan: Plan) -> tuple[str, ...]:
    """Arguments of the conversion but for the two paths."""
    build, quantization = plan.spec.build, QUANTIZATIONS.get(plan.quantization)
    lines = [_line("--dtype", plan.llm_dtype)]
    if _quantizes(plan):
        lines += [_line("--batch_size", 64)] if plan.spec.checkpoint.archive else []
        extra = quantization.quantize_arguments if quantization else (("--qformat", "full_prec"),)
    else:
        lines += [build.convert_arguments] if build.convert_arguments else []
        extra = quantization.convert_arguments if quantization else ()
    lines += [_line(*pair) for pair in extra]
    lines += [_line("--tp_size", plan.tp)] if plan.tp > 1 else []
    lines += [_line("--pp_size", plan.pp)] if plan.pp > 1 else []
    return tuple(lines)


def _quantizes(plan: Plan) -> bool:
    """Whether quantize.py makes the checkpoint, not the converter."""
    quantization = QUANTIZATIONS.get(plan.quantization)
    return plan.spec.build.quantize or bool(quantization and not quantization.convert_arguments)


def _engine(plan: Plan, facts: Release, engine: EngineBuild) -> EngineCommand:
    build = plan.spec.build
    values = {"DTYPE": plan.llm_dtype, "ROUTE": "enable" if plan.route.paged_kv_cache else "disable"}
    flags = [(name, values.get(value, value)) for name, value in engine.flags]
    if not facts.enable_xqa:
        flags = [pair for pair in flags if pair[0] != "--enable_xqa"]
    if build.quantize and plan.quantization != NONE:
        flags = [pair for pair in flags if pair[0] != "--gemm_plugin"]  # as the Nemotron example leaves it out
    lines = [_line(*pair) for pair in flags]
    if build.fused_mlp and plan.quantization == NONE and plan.world_size == 1:
        lines += facts.fused_mlp
    if plan.kv_cache_reuse or plan.llm_parameters.get("enable_chunked_context") == "true":
        lines.append("--use_paged_context_fmha enable")
    known = numbers(plan)
    return EngineCommand(engine.part, (*lines, *(_line(f"--{known[n][0]}", known[n][1]) for n in engine.limits)))


def build_plan(plan: Plan) -> BuildPlan:
    """The commands of one repository's build_engines.sh."""
    facts, build, limits = release.of(plan.release), plan.spec.build, plan.limits
    converted = folders.fill(build.converted_folder, plan.llm_dtype, plan.quantization, plan.tp, plan.pp)
    upstream = facts.builds_vision(build.vision_type) and plan.pixel_form == "float" and not plan.tensorrt_vision
    images = limits.max_batch_size * limits.max_images
    own_tokenizer = PurePosixPath(plan.paths.checkpoint) / plan.spec.llm_folder
    options = [
        *plan.repeated_options,
        *("--max-images", limits.max_images),
        *("--max-batch-size", limits.max_batch_size),
        *(("--max-tokens", limits.default_max_tokens) if limits.default_max_tokens != Options.max_tokens else ()),
        *(("--header-font", plan.paths.font) if plan.paths.font else ()),
    ]
    return BuildPlan(
        release=facts,
        converted=str(PurePosixPath("tmp/trt_models") / plan.variant.name / converted),
        tokenizer="" if plan.paths.tokenizer == str(own_tokenizer) else plan.paths.tokenizer,
        vision_folder=str(PurePosixPath(plan.paths.vision_engine).parent),
        convert_script="quantization/quantize.py" if _quantizes(plan) else facts.converter(build.converter),
        convert_arguments=_convert(plan),
        engines=tuple(_engine(plan, facts, engine) for engine in build.engines),
        vision_script=f"{facts.guide}/{facts.vision_script}" if upstream else "",
        vision_batch=images if upstream and build.vision_counts_images else images * plan.entries_per_image,
        table_precision=folders.SHORT[plan.llm_dtype],
        vision_precision=folders.SHORT[plan.vision_dtype],
        options=shlex.join(map(str, options)),
    )
