"""How `gen-repo verify` compares: by hand-made answers, whose differences are known."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from generator import models
from generator.evidence import Tolerance
from generator.verify.answers import IMAGE, Answer
from generator.verify.stages import STAGES, Stage, compare

ROOT = Path(__file__).parents[2]
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(3, 1000)).astype(np.float32)
TRUTH = Answer(
    np.array([1, IMAGE, IMAGE, 7]), np.ones((1, 3, 4, 4), np.float16), np.ones((2, 8), np.float32), LOGITS, "a cat"
)


def stages(ours: Answer, *, quantized: bool = False, as_levels: bool = False) -> dict[str, Stage]:
    found = compare(ours, TRUTH, Tolerance(), quantized=quantized, as_levels=as_levels)
    assert tuple(stage.name for stage in found) == STAGES
    return {stage.name: stage for stage in found}


def off_by(values: np.ndarray, share: float) -> np.ndarray:
    """`values` with a difference of exactly this share of their norm."""
    noise = np.random.default_rng(1).normal(size=values.shape)
    return (values + noise * share * np.linalg.norm(values) / np.linalg.norm(noise)).astype(np.float32)


def test_equal() -> None:
    assert {stage.verdict for stage in stages(TRUTH).values()} == {"equal"}


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, IMAGE, 9, 7], r"at 2: \[9, 7, \.\.\.\], not \[image, 7, \.\.\.\]"),
        ([1, IMAGE, IMAGE], r"3 ids, not 4; the first difference is at 3: the end, not \[7, \.\.\.\]"),
    ],
)
def test_ids(ids: list[int], words: str) -> None:
    stage = stages(replace(TRUTH, ids=np.array(ids)))["ids"]
    assert stage.verdict == "differs"
    assert re.search(words, stage.note)


def test_pixels_must_be_equal_and_levels_are_left_to_the_rows() -> None:
    other = replace(TRUTH, pixels=np.nextafter(TRUTH.pixels, 2, dtype=np.float16))  # type: ignore[arg-type]
    assert stages(other)["pixels"].verdict == "differs"
    assert stages(other, as_levels=True)["pixels"].verdict == "not compared"
    assert stages(replace(TRUTH, pixels=np.ones((1, 3, 4, 5))))["pixels"].note.startswith("of shape [1, 3, 4, 5]")


@pytest.mark.parametrize(("share", "verdict"), [(0.009, "close"), (0.011, "differs")])
def test_rows(share: float, verdict: str) -> None:
    rows = off_by(TRUTH.rows, share)  # type: ignore[arg-type]
    stage = stages(replace(TRUTH, rows=rows))["vision rows"]
    assert stage.verdict == verdict and stage.off == pytest.approx(share, rel=1e-3)


def test_first_token() -> None:
    close = replace(TRUTH, logits=off_by(LOGITS, 0.015) + 5)  # a constant changes no probability
    assert stages(close)["first token"].verdict == "close"
    far = replace(TRUTH, logits=off_by(LOGITS, 0.1))
    assert stages(far)["first token"].verdict == "differs"
    assert stages(far, quantized=True)["first token"].verdict == "close"
    assert stages(replace(TRUTH, logits=None))["first token"].verdict == "not compared"
    padded = np.concatenate([LOGITS, np.full((3, 24), -1e4, np.float32)], 1)  # as engines pad vocabularies
    assert stages(replace(TRUTH, logits=padded))["first token"].verdict == "equal"


def swapped(token: int, apart: float) -> Answer:
    """Ours, whose best token at place `token` is the truth's second, which lies `apart` root mean squares below."""
    truth = LOGITS.copy()
    best, second = truth[token].argsort()[[-1, -2]]
    truth[token, second] = truth[token, best] - apart
    LOGITS[:] = truth
    ours = truth.copy()
    ours[token, [best, second]] = truth[token, [second, best]]
    return replace(TRUTH, logits=ours, text="a dog")


@pytest.mark.parametrize(("apart", "verdict"), [(0.01, "tie"), (1.0, "differs")])
@pytest.mark.parametrize("token", [0, 2])
def test_tokens_that_are_as_good_as_each_other_tie(token: int, apart: float, verdict: str) -> None:
    before = LOGITS.copy()
    try:
        found = stages(swapped(token, apart))
    finally:
        LOGITS[:] = before
    assert found["greedy text"].verdict == verdict
    assert f"part at token {token + 1}" in found["greedy text"].note
    if token == 0:
        assert found["first token"].verdict == verdict


def test_text_without_logits_must_be_equal() -> None:
    assert stages(replace(TRUTH, logits=None, text="a dog"))["greedy text"].verdict == "differs"


def test_every_model_names_its_oracle_and_oracles_import_nothing_of_the_program() -> None:
    defined = {
        f"{file.stem}:{node.name}"
        for file in (ROOT / "generator/oracle").glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    assert {spec.evidence.truth for spec in models.specs().values()} <= defined
    for file in (ROOT / "generator/oracle").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            ours = [name for name in names if name.split(".")[0] in ("generator", "templates", "training", "tests")]
            assert all(name.startswith("generator.oracle") for name in ours), file
