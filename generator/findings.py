"""Findings: what is wrong or noteworthy, where, and what to do about it.

Steps of the program return findings; they never print. An error stops the run before anything is written, a
warning does not. `Refused` carries findings that make going on pointless, with the exit code of their class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

EXIT_OK = 0
EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_TRUST = 4

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One finding: `code` is stable for scripts, `what` states both values, `remedy` says what to do."""

    level: Level
    code: str
    what: str
    where: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}[{self.code}]: {self.what}\n  where:  {self.where}\n  remedy: {self.remedy}"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def error(code: str, what: str, where: object, remedy: str) -> Finding:
    """A finding that forbids writing."""
    return Finding("error", code, what, str(where), remedy)


def warning(code: str, what: str, where: object, remedy: str) -> Finding:
    """A finding that the user should know of; the repository is written all the same."""
    return Finding("warning", code, what, str(where), remedy)


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.level == "error" for finding in findings)


class Refused(Exception):
    """The run cannot go on; `findings` say why and `exit_code` tells scripts which class of reason it is."""

    def __init__(self, *findings: Finding, exit_code: int = EXIT_FINDINGS) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings
        self.exit_code = exit_code
