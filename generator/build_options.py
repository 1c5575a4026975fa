"""--quantization, --tp and --pp against the model, the runtime, the checkpoint and the engine.

Sources: the guide's statements per model, and where its converters contradict them (BuildSpec says which).
"""

from __future__ import annotations

from collections.abc import Iterator

from generator.facts.gather import Facts
from generator.findings import Finding, error, warning
from generator.options import Options
from generator.quantization import NONE, name_of
from generator.spec import ModelSpec, Variant


def check(options: Options, spec: ModelSpec, variant: Variant, facts: Facts) -> Iterator[Finding]:
    """What the options ask for and cannot have, or have untried."""
    yield from _runtime(options)
    yield from _model(options, spec, variant)
    yield from _heads(options, facts)
    yield from _engine(options, facts)


def _runtime(options: Options) -> Iterator[Finding]:
    if options.runtime != "torch":
        return
    asked = {"--quantization": options.quantization, "--tp": options.tp, "--pp": options.pp}
    for option, value in asked.items():
        if value not in (None, NONE, 1):
            what = f"--runtime torch runs the checkpoint as it is on one device, {option} {value} asks for another"
            yield error("torch-runtime", what, option, f"leave {option} out, or use --runtime trtllm")


def _model(options: Options, spec: ModelSpec, variant: Variant) -> Iterator[Finding]:
    build, asked = spec.build, options.quantization or NONE
    if asked != NONE and asked in build.untried:
        what = f"--quantization {asked} of {spec.title} is untried: {build.untried[asked]}"
        yield warning("untried-quantization", what, "--quantization", "compare its answers with the plain engine's")
    elif asked != NONE and asked not in build.quantizations:
        usable = ", ".join((NONE, *build.quantizations, *build.untried))
        what = f"{spec.title} cannot have --quantization {asked}: {build.not_quantized}"
        yield error("quantization", what, "--quantization", f"use one of {usable}")
    if (options.pp or 1) > 1 and build.no_pipeline:
        what = f"{spec.title} cannot have --pp {options.pp}: {build.no_pipeline}"
        remedy = "use --pp 1" if options.tp else f"use --tp {options.pp}"
        yield error("pipeline-parallel", what, "--pp", remedy)
    if (options.tp or 1) * (options.pp or 1) > 1 and build.untried_parallel:
        what = f"{variant.name} over several GPUs is untried: {build.untried_parallel}"
        yield warning("untried-parallel", what, "--tp", "compare its answers with those on one GPU")


def _heads(options: Options, facts: Facts) -> Iterator[Finding]:
    heads = facts.checkpoint.num_heads if facts.checkpoint else None
    if options.tp and heads and heads % options.tp:
        fits = [str(n) for n in range(1, 17) if heads % n == 0]
        what = f"--tp {options.tp} does not divide the LLM's {heads} attention heads"
        yield error("tensor-parallel", what, "--tp", f"use one of {', '.join(fits)}")


def _engine(options: Options, facts: Facts) -> Iterator[Finding]:
    engine = facts.llm_engine
    if engine is None:
        return
    where = engine.config
    for option, asked, built in (("--tp", options.tp, engine.tp), ("--pp", options.pp, engine.pp)):
        if asked is not None and asked != built:
            what = f"the LLM engine was built for {option.removeprefix('--')} {built}, {option} asks for {asked}"
            remedy = f"use {option} {built}, or convert and build again with {option}_size {asked}"
            yield error("engine-mapping", what, where, remedy)
    if options.quantization is not None and options.quantization != name_of(engine.quantization):
        own = engine.quantization or "not quantized"
        what = f"the LLM engine is {own}, --quantization asks for {options.quantization}"
        remedy = "leave --quantization out, or build the engine with build_engines.sh for it"
        yield error("engine-quantization", what, where, remedy)
