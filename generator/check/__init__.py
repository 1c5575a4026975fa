"""`gen-repo check`: what a repository says about itself, verified without starting it.

Everything is read back from the files as Triton would read them; nothing is taken from the code that wrote them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from generator import manifest
from generator.check import configs, engine, graph, llm, plan_file, steps
from generator.facts import jsonfile
from generator.findings import Finding, Refused, error, warning

CHANGED = "express the change as an option and generate again, or keep it and know that --force will drop it"
ADDED = "keep it elsewhere: --force replaces no repository that holds files of others"


def check(repository: Path) -> list[Finding]:
    """All findings about a repository, errors first.

    Raises:
        Refused: it is no repository of ours, or the protobuf schema is not installed.
    """
    content = manifest.of(repository)
    with jsonfile.reading(repository / manifest.NAME, manifest.NAME):
        findings = _edited(repository, content)
    findings += agreement(repository, str(content.get("release")))
    return sorted(findings, key=lambda finding: finding.level)


def agreement(repository: Path, release: str) -> list[Finding]:
    """Findings about configs, settings, code and engine files: each for itself, and with one another.

    Raises:
        Refused: the protobuf schema is not installed.
    """
    parsed, findings = configs.read_all(repository)
    parts: tuple[Callable[[], list[Finding]], ...] = (
        lambda: graph.check(repository, parsed),
        lambda: llm.check(repository, parsed, release),
        lambda: steps.check(repository, parsed),
        lambda: engine.check(repository, parsed),
        lambda: plan_file.check(repository, parsed),
    )
    for part in parts:
        try:
            with jsonfile.reading(repository, "a file of the repository"):
                findings += part()
        except Refused as refused:
            findings += refused.findings
    return findings


def _edited(repository: Path, content: dict[str, object]) -> list[Finding]:
    make: dict[str, Callable[[str, Path], Finding]] = {
        "missing": lambda what, where: error("missing-file", what, where, "generate the repository again"),
        "changed": lambda what, where: warning("edited-file", what, where, CHANGED),
        "added": lambda what, where: warning("edited-file", what, where, ADDED),
    }
    found = manifest.edited(repository, content).items()
    return [make[how](f"{path} is {how} since gen-repo wrote the repository", repository / path) for path, how in found]
