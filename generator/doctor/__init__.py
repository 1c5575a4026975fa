"""`gen-repo doctor`: whether the machine it runs on can serve a repository, before a server is started.

Run it where the server will run: in the container, with its GPUs and mounts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from generator.doctor import files, hardware, software
from generator.doctor.machine import Machine, probe
from generator.doctor.needs import Needs, read
from generator.findings import Finding

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
CHECKS: tuple[Callable[[Needs, Machine], list[Finding]], ...] = (hardware.check, software.check, files.check)


def doctor(repository: Path, machine: Machine | None = None) -> list[Finding]:
    """All findings about serving `repository` on a machine, errors first.

    Args:
        machine: None = this one.

    Raises:
        Refused: it is no repository of ours, or one of a version that did not write down its needs.
    """
    needs = read(repository, PORTS)
    on = machine or probe(needs.asked_modules, needs.ports.values())
    findings: Sequence[Finding] = [finding for check in CHECKS for finding in check(needs, on)]
    return sorted(findings, key=lambda finding: finding.level)
