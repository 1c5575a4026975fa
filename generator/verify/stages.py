"""The stages of an answer, compared in the order in which they arise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from generator.evidence import Tolerance
from generator.verify.answers import IMAGE, Answer

STAGES = ("ids", "pixels", "vision rows", "first token", "greedy text")
TIE = 3.0  # errors of one logit, in root mean squares, within which two of them may change places

Verdict = Literal["equal", "close", "tie", "differs", "not compared"]


@dataclass(frozen=True)
class Stage:
    """How one stage compares. `off` is its relative error where it has one; `note` says what was found."""

    name: str
    verdict: Verdict
    note: str
    off: float | None = None


def compare(ours: Answer, truth: Answer, tolerance: Tolerance, *, quantized: bool, as_levels: bool) -> list[Stage]:
    """All stages of one question. `as_levels`: pixels cross as 8-bit levels, which the encoder normalises."""
    logits = tolerance.quantized_logits if quantized else tolerance.logits
    return [
        _ids(ours.ids, truth.ids),
        Stage("pixels", "not compared", "they cross as 8-bit levels: the vision rows show whether they are right")
        if as_levels and ours.pixels is not None
        else _values("pixels", ours.pixels, truth.pixels, tolerance.pixels),
        _values("vision rows", ours.rows, truth.rows, tolerance.rows),
        _first_token(ours.logits, truth.logits, logits),
        _text(ours, truth, logits),
    ]


def _ids(ours: NDArray[np.int64], truth: NDArray[np.int64]) -> Stage:
    if np.array_equal(ours, truth):
        rows = int((truth == IMAGE).sum())
        return Stage("ids", "equal", f"{len(truth)} ids, {rows} of them image positions")
    shared = min(len(ours), len(truth))
    place = next((at for at in range(shared) if ours[at] != truth[at]), shared)
    found, wanted = (_shown(ids, place) for ids in (ours, truth))
    lengths = f"{len(ours)} ids, not {len(truth)}; " if len(ours) != len(truth) else ""
    return Stage("ids", "differs", f"{lengths}the first difference is at {place}: {found}, not {wanted}")


def _shown(ids: NDArray[np.int64], place: int) -> str:
    """Some ids from `place` on, image positions as words."""
    few = ["image" if token == IMAGE else str(token) for token in ids[place : place + 4].tolist()]
    return f"[{', '.join(few)}, ...]" if few else "the end"


def _values(name: str, ours: NDArray[Any] | None, truth: NDArray[Any] | None, most: float) -> Stage:
    if ours is None and truth is None:
        return Stage(name, "equal", "no picture")
    if ours is None or truth is None:
        return Stage(name, "differs", "only one side has any")
    if ours.shape != truth.shape:
        return Stage(name, "differs", f"of shape {list(ours.shape)}, not {list(truth.shape)}")
    shape = f"{list(truth.shape)}"
    if np.array_equal(ours, truth):
        return Stage(name, "equal", f"{shape}, bit for bit", 0.0)
    off = _off(ours, truth)
    verdict: Verdict = "close" if off <= most else "differs"
    return Stage(name, verdict, f"{shape}, relative error {off:.2g}, at most {most:g} is allowed", off)


def _first_token(ours: NDArray[np.float32] | None, truth: NDArray[np.float32] | None, most: float) -> Stage:
    name = "first token"
    if ours is None or truth is None:
        note = "the LLM gives no logits: build its engine with --gather_generation_logits to see them"
        return Stage(name, "not compared", note)
    both = _centred(ours[0], truth[0])
    off = _off(*both)
    tokens = [int(logits.argmax()) for logits in both]
    if tokens[0] == tokens[1] and off <= most:
        return Stage(name, "equal" if off == 0 else "close", f"token {tokens[1]}, its logits off by {off:.2g}", off)
    if tokens[0] != tokens[1] and _tied(*both, most):
        note = f"tokens {tokens[0]} and {tokens[1]}, which differ by less than the error that is allowed"
        return Stage(name, "tie", note, off)
    which = f"token {tokens[0]}, not {tokens[1]}" if tokens[0] != tokens[1] else f"token {tokens[1]}"
    return Stage(name, "differs", f"{which}; its logits are off by {off:.2g}, at most {most:g} is allowed", off)


def _text(ours: Answer, truth: Answer, most: float) -> Stage:
    name = "greedy text"
    if ours.text == truth.text:
        return Stage(name, "equal", f"{_cut(truth.text)}")
    note = f"{_cut(ours.text)}, not {_cut(truth.text)}"
    if ours.logits is not None and truth.logits is not None:
        for number, pair in enumerate(zip(ours.logits, truth.logits, strict=False)):
            both = _centred(*pair)
            if both[0].argmax() != both[1].argmax():
                where = f"they part at token {number + 1}"
                if _tied(*both, most):
                    return Stage(name, "tie", f"{note}; {where}, whose two best are nearer than the error allowed")
                return Stage(name, "differs", f"{note}; {where}")
    return Stage(name, "differs", note)


def _centred(ours: NDArray[np.float32], truth: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both without their mean and without what an engine pads the vocabulary with."""
    shared = min(len(ours), len(truth))
    first, second = (each[:shared].astype(np.float64) for each in (ours, truth))
    return first - first.mean(), second - second.mean()


def _tied(ours: NDArray[Any], truth: NDArray[Any], most: float) -> bool:
    """Whether the truth has ours so near its best that an allowed error may put it first."""
    margin = float(truth.max() - truth[ours.argmax()])
    return margin <= TIE * most * float(np.sqrt(np.mean(truth**2)))


def _off(ours: NDArray[Any], truth: NDArray[Any]) -> float:
    exact = truth.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(ours.astype(np.float64) - exact)) / norm if norm else float("inf")


def _cut(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def deviating(stages: list[Stage]) -> Iterator[Stage]:
    """Those that differ, first ones first."""
    return (stage for stage in stages if stage.verdict == "differs")
