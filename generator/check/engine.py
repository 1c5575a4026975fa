"""The repository against the LLM engine it names, where that engine can be read from here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generator.check.configs import ModelConfig
from generator.facts import engines
from generator.findings import Finding, Refused, error, warning


def check(repository: Path, configs: Mapping[str, ModelConfig]) -> list[Finding]:
    """Findings about tables, lengths and batches that the engine cannot take."""
    findings: list[Finding] = []
    for name, config in configs.items():
        folder = _engine_of(repository / name, config)
        if folder is None:
            continue
        if not folder.is_dir():
            what = f"not servable here: the LLM engine {str(folder)!r} does not exist on this machine"
            where = repository / name / "config.pbtxt"
            findings.append(warning("not-servable-yet", what, where, "build it, or check inside the container"))
            continue
        try:
            facts = engines.llm_engine(folder)
        except Refused as refused:
            findings += refused.findings
            continue
        settings_file = repository / name.replace("tensorrt_llm", "preprocessing") / "1" / "settings.json"
        if settings_file.is_file():
            findings += _compare(json.loads(settings_file.read_text("utf-8")), config, facts, settings_file)
    return findings


def _engine_of(step: Path, config: ModelConfig) -> Path | None:
    """The LLM engine that a step runs, None for any other step."""
    if config.backend == "tensorrtllm":
        return Path(config.parameters["gpt_model_path"].string_value)
    settings = step / "1" / "settings.json"
    if not step.name.endswith("tensorrt_llm") or not settings.is_file():
        return None
    engine = json.loads(settings.read_text("utf-8")).get("engine")
    return Path(engine) if engine and Path(engine).is_dir() else None  # its absence is found with the step's settings


def _compare(values: dict[str, Any], config: ModelConfig, facts: engines.LlmEngineFacts, where: Path) -> list[Finding]:
    limits, again = values["limits"], "generate the repository again from this engine"
    rows, capacity = facts.max_table_rows // facts.max_batch_size, "rows per request (table / max_batch_size)"
    if facts.max_encoder_input_len is not None and facts.encoder is None:  # the image is what it attends to
        rows, capacity = facts.max_encoder_input_len, "max_encoder_input_len"
    pairs = (
        ("max_table_rows", limits["max_table_rows"], rows, capacity),
        ("max_input_len", limits["max_input_len"], facts.max_input_len, "max_input_len"),
        ("max_seq_len", limits["max_seq_len"], facts.max_seq_len, "max_seq_len"),
        ("max_batch_size", config.max_batch_size, facts.max_batch_size, "max_batch_size"),
    )
    findings = [
        error("engine-limit", f"{name} is {ours}, the engine's {what} is {theirs}", where, again)
        for name, ours, theirs, what in pairs
        if ours > theirs
    ]
    if values["tokenizer"]["vocab_size"] != facts.vocab_size:
        what = f"image ids start at {values['tokenizer']['vocab_size']}, the engine's vocabulary is {facts.vocab_size}"
        findings.append(error("engine-vocabulary", what, where, again))
    return findings
