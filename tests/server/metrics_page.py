"""Reading the metrics page of a server."""

from __future__ import annotations

import re
import urllib.request
from typing import NamedTuple

LINE = re.compile(r"^gen_repo_(\w+)\{(.*)\} (\S+)$")


class Number(NamedTuple):
    """What one number counts: labels are written name=value."""

    name: str
    labels: frozenset[str]


def numbers(address: str) -> dict[Number, float]:
    """Our own numbers on the page at 'host:port'."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        lines = map(LINE.match, page.read().decode().splitlines())
    return {Number(line[1], frozenset(line[2].replace('"', "").split(","))): float(line[3]) for line in lines if line}


class Page:
    """The page of one server; `changes` are what was added since the last look."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._last = numbers(address)

    def changes(self) -> dict[Number, float]:
        before, self._last = self._last, numbers(self._address)
        found = {number: value - before.get(number, 0) for number, value in self._last.items()}
        return {number: value for number, value in found.items() if value}


def number(name: str, **labels: str) -> Number:
    return Number(name, frozenset(f"{label}={value}" for label, value in labels.items()))
