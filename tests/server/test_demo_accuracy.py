"""The trained models through a real Triton: right answers to held-out questions, and exactly those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from generator import demo
from generator.generate import generate
from generator.options import Options
from tests.oracle import LlavaOracle, Oracle, VilaOracle
from tests.parity.client import Case, ask_all
from tests.server.harness import triton
from training.scenes import png
from training.split import Asked, held_out_questions

ORACLES: dict[str, Callable[[Path], Oracle]] = {"vila": VilaOracle, "llava": LlavaOracle}
WANTED = {("vila", 1): 0.97, ("vila", 2): 0.97, ("llava", 1): 0.97}
"""Share of exact answers, by model and number of pictures in a question."""
CLIENTS = 4


def case(asked: Asked) -> Case:
    return Case(asked.question, asked.question, tuple(png(scene) for scene in asked.scenes))


@pytest.mark.parametrize("model", demo.names())
def test_held_out_questions(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle = ORACLES[model](demo.checkpoint(model))
    options = Options(model=model, hf_model_dir=demo.checkpoint(model), runtime="torch", output=tmp_path / "r")
    outcome = generate(options)
    assert not outcome.failed, outcome.findings
    with triton(outcome.output) as server:
        for pictures in (number for name, number in WANTED if name == model):
            every = held_out_questions(500 // pictures, pictures)
            cases = [case(asked) for asked in every]
            answers = ask_all(server.grpc, cases, demo.MAX_TOKENS, CLIENTS)
            expected = [oracle.generate(c.text, c.images, demo.MAX_TOKENS)[1] for c in cases]
            exact = sum(answer == asked.answer for asked, answer in zip(every, answers, strict=True)) / len(every)
            with capsys.disabled():
                print(f"\n{model}: {exact:.1%} of {len(every)} questions about {pictures} picture(s) answered exactly")
            assert answers == expected
            assert exact >= WANTED[model, pictures]
