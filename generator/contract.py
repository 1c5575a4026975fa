"""The `tensorrtllm` backend's contract per release: tensors and parameters, looked up in data/contract.json.

Source of the data: the backend's own template config of each release, parsed (0.12.0 to 0.19.0 from the tags of
triton-inference-server/tensorrtllm_backend, later releases from NVIDIA/TensorRT-LLM's triton_backend folder).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from generator.findings import EXIT_USAGE, Refused, error

DATA = Path(__file__).with_name("data")


NUMBERS = {"int": r"-?[0-9]+", "float": r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}


@dataclass(frozen=True)
class Tensor:
    """One input or output of a Triton model: `type` without the TYPE_ prefix, `dims` without the batch axis."""

    name: str
    type: str
    dims: tuple[int, ...]
    optional: bool = False
    reshape: tuple[int, ...] | None = None
    ragged: bool = False


@dataclass(frozen=True)
class Parameter:
    """A backend parameter: `emit` is the value written when nobody decides otherwise, None = left out.

    `groups` is False where the release takes one list, not one per instance.
    """

    name: str
    type: str
    emit: str | None = None
    choices: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    groups: bool = True

    def problem(self, value: str) -> str | None:
        """Why `value` is not acceptable, in words, or None."""
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(repr(c) for c in self.choices)}"
        if self.type == "bool" and value not in ("true", "false"):
            return "must be true or false"
        if self.type == "int_list" and not re.fullmatch(r"\d+(,\d+)*", value):
            return "must be a comma list of integers"
        if self.type == "gpu_groups" and not re.fullmatch(r"\d+(,\d+)*(;\d+(,\d+)*)*", value):
            return "must be a comma list of integers, with a semicolon between instances"
        if self.type == "gpu_groups" and not self.groups and ";" in value:
            return "must be one comma list of integers in this release"
        if self.type in ("int", "float"):
            # As C++ reads them: Python takes 1_000 and " 1" as well, of which the backend would read the beginning.
            if not re.fullmatch(NUMBERS[self.type], value):
                return f"must be {'a number' if self.type == 'float' else 'an integer'}"
            number = float(value)
            if self.min is not None and number < self.min:
                return f"must be at least {self.min}"
            if self.max is not None and number > self.max:
                return f"must be at most {self.max}"
        return None


@dataclass(frozen=True)
class Contract:
    """What the LLM backend and the official multimodal ensemble declare in one release."""

    release: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    parameters: Mapping[str, Parameter]
    public_inputs: Mapping[str, Tensor]
    public_outputs: Mapping[str, Tensor]

    @property
    def min_tokens(self) -> str:
        """Name of the input that forbids the end token for a while; renamed in 0.20.0."""
        return "min_tokens" if "min_tokens" in self.inputs else "min_length"

    @property
    def seed(self) -> str:
        """Name of the random seed input; renamed in 0.20.0."""
        return "seed" if "seed" in self.inputs else "random_seed"


@functools.cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((DATA / "contract.json").read_text("utf-8"))
    return data


def releases() -> tuple[str, ...]:
    """Known TensorRT-LLM releases, oldest first."""
    return tuple(_data()["releases"])


def resolve(text: str) -> str:
    """The known release that `text` means (`0.16`, `v0.16.0`, `0.16.0.post1`).

    Raises:
        Refused: unknown release; the error lists the known ones and the closest.
    """
    known = releases()
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text.strip())
    if match:
        major, minor, patch = match.group(1), match.group(2), match.group(3)
        if patch is not None and f"{major}.{minor}.{patch}" in known:
            return f"{major}.{minor}.{patch}"
        same = [r for r in known if r.split(".")[:2] == [major, minor]]
        if same and (patch is None or len(same) == 1):
            return same[-1]
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    close = next((r for r in known if [int(part) for part in r.split(".")] >= numbers), known[-1])
    raise Refused(
        error(
            "unknown-release",
            f"TensorRT-LLM release {text!r} is not known; known are {', '.join(known)}",
            "--release",
            f"choose a known release, for example --release {close}",
        ),
        exit_code=EXIT_USAGE,
    )


def _tensor(name: str, entry: Mapping[str, Any]) -> Tensor:
    return Tensor(
        name=name,
        type=entry["type"],
        dims=tuple(entry["dims"]),
        optional=entry.get("optional", False),
        reshape=tuple(entry["reshape"]) if "reshape" in entry else None,
        ragged=entry.get("ragged", False),
    )


def _current(intervals: list[dict[str, Any]], at: int) -> dict[str, Any] | None:
    known = releases()
    for entry in intervals:
        last = known.index(entry["until"]) if "until" in entry else len(known)
        if known.index(entry["since"]) <= at <= last:
            return entry
    return None


def _nearest(intervals: list[dict[str, Any]], at: int) -> dict[str, Any]:
    """The entry in force, or the one whose interval is closest: old clients keep working on new releases."""
    known = releases()
    if found := _current(intervals, at):
        return found
    return intervals[0] if at < known.index(intervals[0]["since"]) else intervals[-1]


def _parameter(name: str, entry: Mapping[str, Any], at: int) -> Parameter:
    """What the entry allows in the release: not `choices` of others, nor a list where it takes one number."""
    others = {choice for choice, since in entry.get("choices_since", {}).items() if releases().index(since) > at}
    others |= {choice for choice, until in entry.get("choices_until", {}).items() if releases().index(until) < at}
    one = "list_since" in entry and releases().index(entry["list_since"]) > at
    return Parameter(
        name,
        "int" if one else entry["type"],
        entry.get("emit"),
        tuple(choice for choice in entry.get("choices", ()) if choice not in others),
        entry.get("min"),
        entry.get("max"),
        "groups_since" not in entry or releases().index(entry["groups_since"]) <= at,
    )


@functools.cache
def contract(release: str) -> Contract:
    """The contract of a known release. Types that the official template leaves open keep their `${...}` name."""
    data, at = _data(), releases().index(release)

    def in_force(section: dict[str, Any]) -> dict[str, Tensor]:
        found = ((name, _current(intervals, at)) for name, intervals in section.items())
        return {name: _tensor(name, entry) for name, entry in found if entry}

    parameters = {
        name: _parameter(name, entry, at) for name, entry in data["parameters"].items() if _current([entry], at)
    }
    public = data["public"]
    return Contract(
        release=release,
        inputs=in_force(data["inputs"]),
        outputs=in_force(data["outputs"]),
        parameters=parameters,
        public_inputs={n: _tensor(n, _nearest(v, at)) for n, v in public["inputs"].items()},
        public_outputs={n: _tensor(n, _nearest(v, at)) for n, v in public["outputs"].items()},
    )


def with_types(tensors: Mapping[str, Tensor], types: Mapping[str, str]) -> tuple[Tensor, ...]:
    """`tensors` with the types that the release leaves to the user filled in.

    Args:
        tensors: of a contract; a type may be `${variable}`.
        types: Triton type per variable, and per tensor name where the model decides it.
    """
    filled = []
    for tensor in tensors.values():
        variable = re.fullmatch(r"\$\{(\w+)\}", tensor.type)
        wanted = types.get(tensor.name) or (types[variable.group(1)] if variable else tensor.type)
        filled.append(replace(tensor, type=wanted))
    return tuple(filled)
