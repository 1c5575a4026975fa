"""The whole run as one function: read facts, decide, check, render, check the rendered files, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from generator import manifest, models, planning, render
from generator.facts.gather import Facts, gather
from generator.findings import Finding, Refused, has_errors
from generator.options import Options
from generator.plan import Plan
from generator.write import write

DEFAULT_OUTPUT = Path("model_repos")


@dataclass(frozen=True)
class Outcome:
    """What a run came to; `written` is False when errors forbade it or nothing changed."""

    plan: Plan
    facts: Facts
    findings: tuple[Finding, ...]
    output: Path
    written: bool

    @property
    def failed(self) -> bool:
        return has_errors(self.findings)


def decide(options: Options) -> tuple[Plan, Facts, list[Finding]]:
    """Everything up to the decision; reads files, writes nothing.

    Raises:
        Refused: the model is unknown or refused, or a file cannot be used at all.
    """
    spec, variant = models.find(options.model)
    facts, findings = gather(options, spec, variant)
    if has_errors(findings):  # a plan over half-read facts would only add noise
        raise Refused(*findings)
    decided, more = planning.make(options, spec, variant, facts)
    return decided, facts, [*findings, *more]


def files(decided: Plan, options: Options) -> dict[str, bytes]:
    """All files of the repository, the manifest included."""
    rendered = render.render(decided)
    return rendered | {manifest.NAME: manifest.make(decided, options, rendered, render.links(decided))}


def output_of(options: Options) -> Path:
    return options.working_dir / (options.output or DEFAULT_OUTPUT / (options.name or options.model))


def generate(options: Options) -> Outcome:
    """Generates one repository.

    Returns:
        The outcome; nothing is written when a finding is an error.

    Raises:
        Refused: as `decide`, or the output cannot be written.
    """
    decided, facts, findings = decide(options)
    target = output_of(options)
    written = False
    if not has_errors(findings):
        written = write(target, files(decided, options), links=render.links(decided), force=options.force)
    return Outcome(decided, facts, tuple(findings), target, written)
