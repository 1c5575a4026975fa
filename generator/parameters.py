"""Parameters of the LLM backend: the release's defaults, what the plan decides, the user's --set, and pairs that fail.

Sources of the refusals: issues and pull requests of NVIDIA/TensorRT-LLM, named in the message, and the backend's own
code (tensorrtllm_backend `model_instance_state.cc`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from generator.contract import Contract
from generator.facts.gather import Facts
from generator.findings import Finding, error, warning
from generator.options import Options
from generator.routes import FEATURES, Route
from generator.spec import ModelSpec

STEP = "tensorrt_llm"
DECIDED = {
    "gpt_model_path": "use --llm-engine-dir",
    "encoder_model_path": "leave it out: the route decides it",
    "exclude_input_in_output": "leave it out: the prompt holds ids that are no words",
    "enable_kv_cache_reuse": "use --kv-cache-reuse",
}
# Settings of the model's queue, which the config states outside its parameters.
QUEUE = {"max_queue_delay_microseconds": "0", "max_queue_size": "0"}
DRAFTING = ("medusa", "redrafter", "eagle")


@dataclass(frozen=True)
class Decided:
    """What the config states: `parameters` by name, `queue` as in QUEUE."""

    parameters: dict[str, str]
    queue: dict[str, str]


def decide(
    options: Options,
    spec: ModelSpec,
    facts: Facts,
    known: Contract,
    own: Mapping[str, str],
    world_size: int,
    route: Route,
) -> tuple[Decided, list[Finding]]:
    """All parameters to write: the release's defaults, `own` over them, the user's --set over both; of a step of our
    own those that it reads."""
    findings: list[Finding] = []
    values = {name: p.emit for name, p in known.parameters.items() if p.emit is not None}
    values.update((k, v) for k, v in own.items() if k in known.parameters)
    queue = dict(QUEUE)
    chosen: dict[str, str] = {}
    for step, name, value in options.set:
        where = f"--set {step}.{name}={value}"
        if step != STEP:
            what = f"no parameters of {step!r} can be set"
            findings.append(error("unknown-set", what, where, f"use {STEP}.NAME=VALUE"))
        elif name in queue:
            if value.isascii() and value.isdigit():
                queue[name] = value
            else:
                what = f"{name} must be a whole number, not {value!r}"
                findings.append(error("bad-set", what, where, "give a number, 0 for none"))
        elif name in DECIDED and name in known.parameters:
            findings.append(error("reserved-set", f"{name} is decided by gen-repo", where, DECIDED[name]))
        elif name not in known.parameters:
            what = f"the backend of release {known.release} has no parameter {name!r}"
            findings.append(error("unknown-set", what, where, "one of " + ", ".join((*known.parameters, *queue))))
        elif route.parameters and name not in route.parameters:
            what = f"the step of route {route.name} does not read {name}"
            findings.append(error("unknown-set", what, where, "one of " + ", ".join(route.parameters)))
        elif problem := known.parameters[name].problem(value):
            findings.append(error("bad-set", f"{name} {problem}, not {value!r}", where, "give a value of that kind"))
        else:
            values[name] = chosen[name] = value
    findings += _bad_pairs(options, spec, facts, known, values, chosen, world_size, route)
    if route.parameters:
        values = {name: value for name, value in values.items() if name in route.parameters}
    return Decided(values, queue), findings


def _bad_pairs(
    options: Options,
    spec: ModelSpec,
    facts: Facts,
    known: Contract,
    values: Mapping[str, str],
    chosen: Mapping[str, str],
    world_size: int,
    route: Route,
) -> Iterator[Finding]:
    """Values that are fine alone and fail together, or with this model, engine or release."""

    def refuse(name: str, what: str, remedy: str) -> Finding:
        return error("bad-pair", what, f"--set {STEP}.{name}={chosen.get(name, values.get(name, ''))}", remedy)

    yield from (refuse(*found) for found in _decoding(values, chosen))
    yield from (refuse(*found) for found in _context(spec, facts, values))
    yield from (refuse(*found) for found in _cache(options, spec, facts, values, chosen))
    yield from (refuse(*found) for found in _engine(facts, values, chosen))
    yield from (refuse(*found) for found in _processes(values, chosen, world_size))
    yield from (refuse(*found) for found in _guided(values))
    if values.get("enable_trt_overlap") == "true" and int(values.get("max_beam_width", "1")) > 1:
        what = "enable_trt_overlap has no effect with beam search (max_beam_width " + values["max_beam_width"] + ")"
        yield warning("no-effect", what, f"--set {STEP}.enable_trt_overlap=true", "leave one of the two out")
    for name in ("multi_block_mode", "enable_context_fmha_fp32_acc"):
        other = {"multi_block_mode": "multiBlockMode"}.get(name, "enableContextFMHAFP32Acc")
        if name in chosen and other in known.parameters and not route.own_code:
            what = f"release {known.release} reads {other} and ignores {name}"
            yield warning("no-effect", what, f"--set {STEP}.{name}", f"use --set {STEP}.{other}={chosen[name]}")


Bad = tuple[str, str, str]


def _decoding(values: Mapping[str, str], chosen: Mapping[str, str]) -> Iterator[Bad]:
    mode, beams = values.get("decoding_mode"), int(values.get("max_beam_width", "1"))
    if mode == "lookahead":
        what = "lookahead decoding fails with a prompt table: NVIDIA/TensorRT-LLM issues 6009 and 3137"
        yield "decoding_mode", what, "leave decoding_mode out"
    elif mode in DRAFTING:
        what = f"decoding_mode {mode} needs an engine with draft heads, which the guide builds for none of its models"
        yield "decoding_mode", what, "leave decoding_mode out"
    elif mode == "beam_search" and beams == 1:
        yield "decoding_mode", "beam_search with max_beam_width 1", f"add --set {STEP}.max_beam_width=N"
    elif mode in ("top_k", "top_p", "top_k_top_p") and beams > 1:
        yield "decoding_mode", f"decoding_mode {mode} with max_beam_width {beams}", "leave one of the two out"
    unread = [n for n in chosen if n.startswith("lookahead_")] if mode != "lookahead" else []
    for name in unread:
        yield name, f"{name} is read with decoding_mode lookahead only", "leave it out"


def _context(spec: ModelSpec, facts: Facts, values: Mapping[str, str]) -> Iterator[Bad]:
    if values.get("enable_chunked_context") != "true":
        return
    name, engine = "enable_chunked_context", facts.llm_engine
    if spec.carries == FEATURES:
        yield name, "chunked context is not for models whose decoder attends to features", "leave it out"
    elif not spec.layout.in_order:
        what = (
            f"{spec.title} picks rows of the prompt table out of order, chunked context fetches them in order: "
            "NVIDIA/TensorRT-LLM pull request 3380, issue 8651"
        )
        yield name, what, "leave it out"
    elif engine and not engine.paged_context_fmha:
        what = "chunked context needs an engine built with paged context attention, and this one has it disabled"
        yield name, what, "build the LLM engine with --use_paged_context_fmha enable"


def _cache(
    options: Options, spec: ModelSpec, facts: Facts, values: Mapping[str, str], chosen: Mapping[str, str]
) -> Iterator[Bad]:
    engine = facts.llm_engine
    if options.kv_cache_reuse and int(values.get("kv_cache_host_memory_bytes", "0")) > 0:
        what = "KV cache reuse with blocks on the host gave tokens of other prompts: NVIDIA/TensorRT-LLM issue 8813"
        yield "kv_cache_host_memory_bytes", what, "leave it out, or leave out --kv-cache-reuse"
    if options.kv_cache_reuse and engine and engine.kv_quantization:
        what = f"KV cache reuse with a cache in {engine.kv_quantization} gave wrong answers: "
        what += "NVIDIA/TensorRT-LLM issue 2699"
        yield "enable_kv_cache_reuse", what, "leave out --kv-cache-reuse, or build without --kv_cache_dtype"
    if "cross_kv_cache_fraction" in chosen and spec.carries != FEATURES:
        what = f"cross_kv_cache_fraction is for models whose decoder attends to features, {spec.title}'s does not"
        yield "cross_kv_cache_fraction", what, "leave it out"


def _engine(facts: Facts, values: Mapping[str, str], chosen: Mapping[str, str]) -> Iterator[Bad]:
    engine = facts.llm_engine
    if engine is None:
        return
    beams = int(values.get("max_beam_width", "1"))
    if beams > engine.max_beam_width:
        what = f"max_beam_width {beams} exceeds the LLM engine's {engine.max_beam_width}"
        remedy = f"use at most {engine.max_beam_width}, or build with --max_beam_width {beams}"
        yield "max_beam_width", what, remedy
    if "lora_prefetch_dir" in chosen and not engine.lora:
        what = "lora_prefetch_dir needs an LLM engine built with --lora_plugin, and this one has none"
        yield "lora_prefetch_dir", what, "leave it out, or build the engine for LoRA"
    if float(values.get("gpu_weights_percent", "1")) < 1 and not engine.weight_streaming:
        what = "gpu_weights_percent below 1 needs an LLM engine built with --weight_streaming, and this one is not"
        yield "gpu_weights_percent", what, "leave it out, or build the engine with --weight_streaming"


def _processes(values: Mapping[str, str], chosen: Mapping[str, str], world_size: int) -> Iterator[Bad]:
    for name in ("gpu_device_ids", "participant_ids"):
        for group in chosen.get(name, "").split(";"):
            count = len(group.split(","))
            if group and count != world_size:
                what = f"{name} names {count} for an instance, the LLM runs on {world_size} (tp x pp)"
                yield name, what, f"name {world_size}"


def _guided(values: Mapping[str, str]) -> Iterator[Bad]:
    if values.get("guided_decoding_backend") and not values.get("xgrammar_tokenizer_info_path"):
        what = f"guided_decoding_backend {values['guided_decoding_backend']} needs xgrammar_tokenizer_info_path"
        yield "guided_decoding_backend", what, f"add --set {STEP}.xgrammar_tokenizer_info_path=FILE"
    path = values.get("xgrammar_tokenizer_info_path")
    if path and not values.get("guided_decoding_backend"):
        what = f"xgrammar_tokenizer_info_path {Path(path).name!r} is read with guided_decoding_backend only"
        yield "xgrammar_tokenizer_info_path", what, f"add --set {STEP}.guided_decoding_backend=xgrammar"
