"""Limits of a request that its owner sets with --limit: of one image or video as wanted, of the prompt only lower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from generator.findings import Finding, error
from generator.limits import Limits
from generator.options import Options
from generator.spec import ModelSpec

# What engines were built for, which an option cannot raise.
OF_ENGINES: Mapping[str, str] = {"input-len": "max_input_len", "seq-len": "max_seq_len"}


def apply(options: Options, spec: ModelSpec, decided: Limits) -> tuple[Limits, list[Finding]]:
    """`decided` with the limits of --limit, and findings for those that do not apply or go beyond the engines."""
    fields = {_name(field): field for field in spec.media.limits}
    if decided.max_output_len is None:  # else prompt and answer are two sequences, which share no limit
        fields |= OF_ENGINES
    findings = []
    for name, value in options.limits:
        field = fields.get(name)
        if field is None:
            what = f"{spec.title} has no limit {name!r}; it has {', '.join(fields)}"
            findings.append(error("limit", what, "--limit", f"use --limit {next(iter(fields))}=N, or leave it out"))
        elif name in OF_ENGINES and value > getattr(decided, field):
            what = f"--limit {name} asks for {value}, and {field} is {getattr(decided, field)}"
            remedy = f"use at most {getattr(decided, field)}, or give engines that were built for more"
            findings.append(error("limit", what, "--limit", remedy))
        else:
            decided = replace(decided, **{field: value})
    if decided.max_output_len is None and decided.max_input_len >= decided.max_seq_len:
        decided = replace(decided, max_input_len=decided.max_seq_len - 1)  # the answer has at least one token
    lowered = [f"{name}={value}" for name, value in options.limits if name in OF_ENGINES]
    image = decided.max_table_rows // max(decided.max_images, 1)
    if lowered and not findings and image > decided.max_input_len:
        what = f"{decided.max_input_len} tokens are left for a prompt, and one {spec.media.noun} takes {image}"
        findings.append(error("limit", what, f"--limit {' '.join(lowered)}", "give more"))
    return decided, findings


def _name(field: str) -> str:
    return field.removeprefix("max_").replace("_", "-")
