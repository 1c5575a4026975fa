"""Spec + facts + options -> one Plan, and findings.

Precedence of a number: the engine that will run it, then the checkpoint, then the spec. Contradictions between them
are findings with both values.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from generator import (
    contract,
    crosscheck,
    deploy,
    gpu_fit,
    launch,
    limits,
    memory,
    parameters,
    prompting,
    quantization,
    release,
    request_limits,
    routes,
    vision_backend,
)
from generator.facts.gather import Facts
from generator.findings import Finding, error, warning
from generator.options import Options
from generator.plan import FRONT, LLM_RESPONSES, ROLES, TRITON_TYPE, Paths, Plan
from generator.routes import ROUTES, Route
from generator.spec import ModelSpec, PixelSpec, Variant


def route_of(options: Options, spec: ModelSpec, release: str) -> tuple[Route, list[Finding]]:
    """The route to take: the option, else the model's default; findings where it cannot do what is asked."""
    name = options.route or spec.routes[0]
    if name not in spec.routes:
        what = f"{spec.title} has no route {name!r}; it has {', '.join(spec.routes)}"
        return ROUTES[spec.routes[0]], [error("unknown-route", what, "--route", f"use --route {spec.routes[0]}")]
    route = ROUTES[name]
    known, findings = contract.releases(), []
    if options.runtime == "trtllm" and known.index(release) < known.index(route.since):
        what = f"route {name} needs TensorRT-LLM {route.since} or later, the release is {release}"
        findings.append(error("route-release", what, "--route", f"use --release {known[-1]}, or leave out --route"))
    if options.streaming and not route.streams:
        others = [other for other in spec.routes if ROUTES[other].streams]
        what = f"route {name} of {spec.title} gives whole answers and cannot stream"
        remedy = f"use --route {others[0]}" if others else "leave out --streaming"
        findings.append(error("no-streaming", what, "--streaming", remedy))
    if route.experimental:
        what = f"route {name} is experimental: nobody upstream serves {spec.title} this way"
        findings.append(warning("experimental", what, "--route", f"compare answers with --route {spec.routes[0]}"))
    return route, findings


def names_of(prefix: str | None) -> dict[str, str]:
    """The Triton models by role, with --name or without."""
    if prefix is None:
        return {role: role for role in ("ensemble", *ROLES, FRONT, LLM_RESPONSES)}
    return {"ensemble": prefix} | {role: f"{prefix}_{role}" for role in (*ROLES, FRONT, LLM_RESPONSES)}


def map_path(path: Path, mapping: tuple[tuple[str, str], ...]) -> str:
    """`path` as the server sees it: the longest HOST prefix of --path-map replaced by its CONTAINER path."""
    text = path.as_posix()
    for host, container in sorted(mapping, key=lambda pair: -len(pair[0])):
        host_path = PurePosixPath(host)
        if PurePosixPath(text) == host_path or host_path in PurePosixPath(text).parents:
            return str(PurePosixPath(container) / PurePosixPath(text).relative_to(host_path))
    return text


def _mapping(options: Options, facts: Facts) -> tuple[tuple[tuple[str, str], ...], list[Finding]]:
    """--path-map, each HOST also as the folder that it leads to, as the paths here do; findings of those in no path."""
    places = [path for path in vars(facts.places).values() if isinstance(path, Path)]
    places += [facts.font.path] if facts.font else []
    mapping: list[tuple[str, str]] = []
    findings = []
    for host, container in options.path_map:
        both = (host, container), ((options.working_dir / host).resolve().as_posix(), container)
        mapping += both
        if all(map_path(path, both) == path.as_posix() for path in places):
            what = f"{host} is the beginning of no path here: {', '.join(sorted({path.as_posix() for path in places}))}"
            findings.append(warning("path-map", what, "--path-map", "correct it, or leave it out"))
    return tuple(mapping), findings


def release_of(options: Options, spec: ModelSpec, facts: Facts) -> tuple[str, list[Finding]]:
    """The release to write for: the option, else the engine's own version, else the spec's default."""
    engine = facts.llm_engine
    asked = release.resolve(options.release) if options.release else None
    if engine is None or engine.version is None:
        return asked or spec.default_release, []
    parts = re.match(r"\d+\.\d+(\.\d+)?", engine.version)
    same = [r for r in contract.releases() if parts and r.split(".")[:2] == parts.group().split(".")[:2]]
    exact = parts.group() if parts and parts.group() in same else (same[-1] if same else None)
    where = engine.config
    if exact is None:
        what = f"the LLM engine was built by TensorRT-LLM {engine.version}, which is not a known release"
        remedy = "build the engine with one of " + ", ".join(contract.releases())
        return asked or spec.default_release, [error("engine-release", what, where, remedy)]
    findings = []
    if asked and asked != exact:
        what = f"the LLM engine was built by TensorRT-LLM {engine.version}, --release asks for {asked}"
        findings.append(
            error("engine-release", what, where, f"use --release {exact}, or build the engine with {asked}")
        )
    elif exact != engine.version:
        what = f"the LLM engine was built by TensorRT-LLM {engine.version}; the contract of {exact} is used"
        findings.append(warning("engine-release", what, where, "serve it in a container with that same build"))
    return asked or exact, findings


def _decode_edge(options: Options, spec: ModelSpec, pixels: PixelSpec) -> tuple[int | None, list[Finding]]:
    """The side of the square that every image is scaled to or around, if --decode-scale asks for it: a JPEG need not be
    decoded larger. Where entries and prompt depend on an image's size, it must be known exactly."""
    if not options.decode_scale:
        return None, []
    sides = [int(side) for name, *sides in pixels.steps if name in ("resize", "resize_shortest") for side in sides]
    if sides and spec.layout.module == "fixed_rows" and spec.media.module == "images":
        return max(sides), []
    what = f"{spec.title} does not scale every image to one size, so that none can be decoded smaller"
    return None, [error("decode-scale", what, "--decode-scale", "leave out --decode-scale")]


def _missing(options: Options, spec: ModelSpec, facts: Facts) -> list[str]:
    missing = []
    if spec.media.font and facts.font is None:
        what = f"the font that questions are drawn with ({spec.media.font})"
        missing.append(f"{what}: give it with --header-font, or put its file into the checkpoint's folder")
    if facts.tokenizer is None:
        own = spec.build.tokenizer_source
        missing.append(
            f"the tokenizer ({own}, {facts.places.tokenizer})"
            if own
            else f"the tokenizer (checkpoint {facts.places.checkpoint})"
        )
    if options.runtime == "torch":
        if facts.checkpoint is None or not facts.checkpoint.has_weights:
            missing.append(f"the checkpoint's weights ({facts.places.checkpoint})")
        if facts.places.projector and facts.projector is None:
            missing.append(f"the archive with the vision side ({facts.places.projector})")
    else:
        if facts.vision_engine is None:
            missing.append(f"the vision engine ({facts.places.vision_engine})")
        if facts.llm_engine is None:
            missing.append(f"the LLM engine ({facts.places.llm_engine})")
    return missing


def _with_kv_fraction(plan: Plan, options: Options) -> Plan:
    """The KV cache's share of the GPU of --gpu-memory, unless --set says one."""
    name, total = "kv_cache_free_gpu_mem_fraction", options.gpu_memory
    said = any(chosen == name for _, chosen, _ in options.set)
    if total is None or said or name not in plan.llm_parameters or not plan.route.paged_kv_cache:
        return plan
    beside = plan.launch.vision_beside_llm
    fraction = f"{gpu_fit.kv_fraction(memory.make(plan), total, vision_beside_llm=beside):g}"
    return replace(plan, llm_parameters=plan.llm_parameters | {name: fraction})


def make(options: Options, spec: ModelSpec, variant: Variant, facts: Facts) -> tuple[Plan, list[Finding]]:
    """Decides everything.

    Returns:
        The plan, complete even when findings contain errors (so that `--explain` can show it), and the findings.
    """
    chosen, findings = release_of(options, spec, facts)
    mapping, more = _mapping(options, facts)
    findings += more
    known = contract.contract(chosen)
    route, more = route_of(options, spec, chosen)
    findings += more
    llm, vision, checkpoint = facts.llm_engine, facts.vision_engine, facts.checkpoint
    rows = (vision and vision.rows) or (checkpoint and checkpoint.rows_per_image) or variant.rows_per_image
    vocab_size = llm.vocab_size if llm else checkpoint.vocab_size if checkpoint else variant.vocab_size
    hidden_size = llm.hidden_size if llm else checkpoint.hidden_size if checkpoint else variant.hidden_size
    llm_dtype = llm.dtype if llm else spec.dtype  # not the checkpoint's: the guide converts to its own choice
    llm_dtype = llm_dtype if llm_dtype in TRITON_TYPE else spec.dtype
    tp = llm.tp if llm else options.tp or 1
    pp = llm.pp if llm else options.pp or 1
    started, more = launch.decide(options, tp, pp, cpp_backend=not route.own_code)
    findings += more
    deployed, more = deploy.decide(options, next(iter(release.of(chosen).images), None))
    findings += more
    layout = prompting.layout(options, spec, facts)
    vision_dtype = spec.misstated_precision.get(vision.dtype, vision.dtype) if vision else spec.vision_dtype
    decided, more = limits.decide(options, spec, variant, facts, rows, layout)
    findings += more
    decided, more = request_limits.apply(options, spec, decided)
    findings += more
    entries = spec.layout.largest(layout)[0] if spec.layout.largest else 1
    if options.vision_backend == "python":
        findings += crosscheck.vision_batch(spec, facts, entries * decided.max_images)
    findings += crosscheck.check(options, spec, variant, facts, chosen, rows, route)
    quantized = quantization.name_of(llm.quantization) if llm else options.quantization or quantization.NONE
    backend, more = parameters.decide(
        options,
        spec,
        facts,
        known,
        {
            "gpt_model_path": map_path(
                facts.places.llm_engine / "decoder" if spec.separate_decoder else facts.places.llm_engine,
                mapping,
            ),
            "max_beam_width": str(llm.max_beam_width if llm else 1),
            "enable_kv_cache_reuse": "true" if options.kv_cache_reuse else "false",
            **spec.llm_parameters,
            **({"num_nodes": str(started.nodes)} if started.nodes > 1 else {}),
            # half of the cache for what the decoder attends to, and its prompt is too short to chunk
            **(
                {"cross_kv_cache_fraction": "0.5", "enable_chunked_context": "false"}
                if spec.carries == routes.FEATURES
                else {}
            ),
        },
        tp * pp,
        route,
    )
    findings += more
    missing = _missing(options, spec, facts)
    if missing:
        remedy = "generate again with --hf-model-dir (and engine folders) once they exist"
        if options.runtime == "trtllm":
            remedy = "run the repository's build_engines.sh: it builds what is missing and generates again"
        findings.append(
            warning("not-servable-yet", "not servable yet, missing: " + "; ".join(missing), "output", remedy)
        )
    tokens = prompting.tokens(spec, variant, facts)
    pixels = (checkpoint and checkpoint.pixels) or variant.pixels
    decode_edge, more = _decode_edge(options, spec, pixels)
    findings += more
    vision_dtype = vision_dtype if vision_dtype in TRITON_TYPE else spec.vision_dtype
    engine_path = map_path(vision.file if vision else facts.places.vision_engine / "model.engine", mapping)
    tensorrt_vision, more = vision_backend.decide(
        options,
        spec,
        variant,
        facts,
        vision_backend.Wanted(entries * decided.max_images, decided, vision_dtype, llm_dtype),
        release_name=chosen,
        open_axes=-1 in pixels.shape,
        engine_path=engine_path,
    )
    findings += more
    plan = Plan(
        spec=spec,
        variant=variant,
        contract=known,
        runtime=options.runtime,
        route=route,
        streaming=options.streaming,
        kv_cache_reuse=options.kv_cache_reuse,
        client_cache_ids=options.client_cache_ids,
        tensorrt_vision=tensorrt_vision,
        vision_cache=options.vision_cache or 0,
        names=names_of(options.name),
        limits=decided,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        rows_per_image=rows,
        llm_dtype=llm_dtype,
        vision_dtype=vision_dtype,
        pixel_form=options.pixels or (vision.pixels if vision else "float"),
        decode_edge=decode_edge,
        pixels=pixels,
        conversation=variant.conversation,
        prompt=prompting.prompt(spec, variant, facts, tokens),
        layout=layout,
        tokens=tokens,
        tokenizer=facts.tokenizer,
        font=facts.font,
        dropped_ids=prompting.dropped_ids(variant, facts),
        paths=Paths(
            checkpoint=map_path(facts.places.checkpoint, mapping),
            tokenizer=map_path(facts.places.tokenizer, mapping),
            projector=map_path(facts.places.projector, mapping) if facts.places.projector else "",
            vision_engine=engine_path,
            llm_engine=map_path(facts.places.llm_engine, mapping),
            font=map_path(facts.font.path, mapping) if facts.font else "",
        ),
        vision_batch=vision.most_entries if vision else None,
        tp=tp,
        pp=pp,
        quantization=quantized,
        launch=started,
        sizes=memory.sizes(facts, variant, llm_dtype, quantized),
        deploy=deployed,
        image_hosts=options.image_hosts,
        llm_parameters=backend.parameters,
        llm_queue=backend.queue,
        repeated_options=("--model", options.model, *options.words()),
        missing=tuple(missing),
    )
    findings += gpu_fit.check(plan, memory.make(plan)) + gpu_fit.vision_cache(plan) + deploy.check(plan)
    return _with_kv_fraction(plan, options), findings
