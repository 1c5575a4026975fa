"""The plan for people and for scripts: every number with where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from generator import release
from generator.facts.gather import Facts
from generator.memory import Term, human, make
from generator.plan import Plan

Row = tuple[str, object, str]  # name, value, source


def explain(plan: Plan, facts: Facts) -> str:
    """A table of the plan's decisions, one per line: name, value, source; and the memory plan."""
    rows = _decisions(plan, facts)
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name.ljust(width)}  {value}   [{source}]" for name, value, source in rows]
    return "\n".join([*lines, "", *_tables(_memory(plan))])


def as_dict(plan: Plan, facts: Facts) -> dict[str, Any]:
    """The same as JSON: "plan" lists name, value and source; "memory" the terms in bytes of each place."""
    return {
        "plan": [
            {"name": name, "value": value if isinstance(value, int) else str(value), "source": source}
            for name, value, source in _decisions(plan, facts)
        ],
        "memory": {title: [asdict(term) for term in terms] for title, terms in _memory(plan).items()},
    }


def _decisions(plan: Plan, facts: Facts) -> list[Row]:
    built = release.of(plan.release)
    engine, checkpoint = facts.llm_engine, facts.checkpoint
    numbers = "LLM engine" if engine else "checkpoint" if checkpoint else "spec"
    limits = "LLM engine and options" if engine else "spec, checkpoint and options; build engines with these"
    per_request, noun = plan.limits.max_table_rows, plan.spec.media.noun
    return [
        ("variant", plan.variant.name, "--model"),
        ("release", plan.release, "engine" if engine and engine.version else "option or spec"),
        ("runtime", plan.runtime, "--runtime"),
        ("route", plan.route.name, "--route or spec"),
        ("conversation", plan.conversation.name, "spec"),
        ("tokenizer", plan.tokenizer.source if plan.tokenizer else "absent", str(facts.places.tokenizer)),
        *(
            [("header font", facts.font.path if facts.font else "absent", plan.spec.media.font)]
            * bool(plan.spec.media.font)
        ),
        ("vocabulary", f"{plan.vocab_size}; first image id {plan.vocab_size}", numbers),
        ("hidden size", plan.hidden_size, numbers),
        ("LLM dtype", plan.llm_dtype, "LLM engine" if engine else "spec"),
        ("vision dtype", plan.vision_dtype, "vision engine" if facts.vision_engine else "spec"),
        ("vision backend", "tensorrt" if plan.tensorrt_vision else "python", "--vision-backend"),
        ("pixels", plan.pixel_form, "--pixels or vision engine"),
        *([("decoded JPEGs", f"sides of {plan.decode_edge} or more", "--decode-scale")] * bool(plan.decode_edge)),
        ("rows per engine entry", plan.rows_per_image, "vision engine, checkpoint or spec"),
        ("max batch size", plan.limits.max_batch_size, limits),
        (f"{noun}s per prompt", plan.limits.max_images, limits),
        *((_words(name), getattr(plan.limits, name), f"of one {noun}") for name in plan.spec.media.limits),
        (
            "table rows per request",
            _sum(plan),
            limits,
        ),
        (
            "max_multimodal_len",
            f"{plan.limits.max_batch_size} x {per_request} = {plan.limits.max_batch_size * per_request}",
            "build size of the table",
        ),
        ("max input length", plan.limits.max_input_len, limits),
        ("max sequence length", plan.limits.max_seq_len, limits),
        *([("max answer length", plan.limits.max_output_len, limits)] if plan.limits.max_output_len else []),
        ("ranks", f"tp {plan.tp} x pp {plan.pp}", "LLM engine" if engine else "option or default"),
        ("launch", _launch(plan), "--launch-mode, --nodes, --vision-gpus"),
        ("quantization", plan.quantization, "LLM engine" if engine else "option or default"),
        ("TensorRT", built.tensorrt, "of the release"),
        ("containers", ", ".join(built.containers) or "none", "of the release"),
        ("checkpoint path", plan.paths.checkpoint, "after --path-map"),
        ("vision engine path", plan.paths.vision_engine, "after --path-map"),
        ("LLM engine path", plan.paths.llm_engine, "after --path-map"),
        *(
            (f"parameter {name}", value or "(empty)", "release default, plan or --set")
            for name, value in plan.llm_parameters.items()
        ),
    ]


def _launch(plan: Plan) -> str:
    launch = plan.launch
    llm, vision = (", ".join(map(str, gpus)) for gpus in (launch.llm_gpus, launch.vision_gpus))
    return (
        f"{launch.mode}, {launch.nodes} node(s) of {launch.gpus} GPU(s), LLM on GPU {llm}, vision step on GPU {vision}"
    )


def _memory(plan: Plan) -> dict[str, tuple[Term, ...]]:
    """What each place holds: place -> terms. One that holds nothing is left out."""
    memory = make(plan)
    kv = Term("KV cache of a full batch", memory.kv_bytes, f"{memory.kv_tokens} tokens x {memory.kv_token_bytes} bytes")
    tables = {
        "memory of a GPU with the LLM": (*memory.llm, kv) if memory.llm else (),
        "memory of a GPU with the vision step, besides": memory.vision,
        "/dev/shm": memory.shm,
        "memory of a node, without GPUs": memory.host,
    }
    return {title: terms for title, terms in tables.items() if terms}


def _tables(memory: Mapping[str, Sequence[Term]]) -> list[str]:
    """A line per term: name, bytes, the same for people, the arithmetic."""
    width = max(len(term.name) for terms in memory.values() for term in terms)
    lines = []
    for title, terms in memory.items():
        total = sum(term.bytes for term in terms)
        lines.append(title)
        for term in (*terms, Term("total", total, "")):
            line = f"  {term.name.ljust(width)}  {term.bytes:>15,}  {human(term.bytes):>10}  {term.how}"
            lines.append(line.rstrip())
    return lines


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sum(plan: Plan) -> str:
    """How the table rows of one request add up; an engine's smaller table is said as it is."""
    layout, total = plan.spec.layout, plan.limits.max_table_rows
    entries = layout.largest(plan.layout)[0] if layout.largest else 1
    shared = plan.spec.constant_rows
    if shared + plan.limits.max_images * entries * plan.rows_per_image != total:
        return f"{total} (the engine's table)"
    terms = f"{plan.limits.max_images} x {entries} x {plan.rows_per_image}"
    return f"{shared} + {terms} = {total}" if shared else f"{terms} = {total}"
