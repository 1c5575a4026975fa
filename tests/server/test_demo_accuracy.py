"""The trained models through a real Triton: right answers to held-out questions, and exactly those of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from generator import demo
from generator.generate import generate
from generator.options import Options
from generator.oracle import LlavaOracle, Oracle, VilaOracle
from tests.parity.client import Case, ask_all
from tests.server.harness import triton
from training.scenes import png
from training.split import Asked, held_out_questions

ORACLES: dict[str, Callable[[Path], Oracle]] = {"vila": VilaOracle, "llava": LlavaOracle}
AIM = 0.97
"""Share of exact answers that the models must reach."""
CLIENTS = 4


def case(asked: Asked) -> Case:
    return Case(asked.question, asked.question, tuple(png(scene) for scene in asked.scenes))


@pytest.mark.parametrize("model", demo.names())
def test_held_out_questions(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle = ORACLES[model](demo.checkpoint(model))
    options = Options(model=model, hf_model_dir=demo.checkpoint(model), runtime="torch", output=tmp_path / "r")
    outcome = generate(options)
    assert not outcome.failed, outcome.findings
    card = json.loads((demo.checkpoint(model) / "held_out.json").read_text())
    with triton(outcome.output) as server:
        for stated in card:
            every = held_out_questions(stated["questions"], stated["pictures"])
            cases = [case(asked) for asked in every]
            answers = ask_all(server.grpc, cases, demo.MAX_TOKENS, CLIENTS)
            expected = [oracle.generate(c.text, c.images, demo.MAX_TOKENS)[1] for c in cases]
            assert answers == expected
            exact = sum(answer == asked.answer for asked, answer in zip(every, answers, strict=True)) / len(every)
            figure = f"{model}: {exact:.1%} of {len(every)} questions about {stated['pictures']} picture(s) exact"
            with capsys.disabled():
                print(f"\n{figure}")
            assert exact == pytest.approx(stated["exact"], abs=0.005), "the model card states another share"
            assert exact >= AIM, figure
