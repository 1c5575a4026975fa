"""The prompt form and the language model with visual experts, decoded by the torch runtime's loop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from generator.oracle.cogvlm import CogvlmOracle
from tests.checkpoints import cogvlm

STEP = Path(__file__).parents[2] / "templates/torch/tensorrt_llm/1"
SIDE, ROWS, VOCAB, HIDDEN = 42, 11, 1024, 64
TEXT = [300, 17, 555, 902]
PROMPT = [1, *range(VOCAB, VOCAB + ROWS), *TEXT]
TOKENS = 12
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    cogvlm.make(folder, SIDE)
    return folder / cogvlm.FOLDER


@pytest.fixture(scope="module")
def decoder(checkpoint: Path) -> Any:
    if str(STEP) not in sys.path:
        sys.path.insert(0, str(STEP))
    import llm_loading
    import visual_expert
    from decoding import Decoder

    settings = {
        "checkpoint": str(checkpoint),
        "module": "cogvlm_llm",
        "dtype": "bfloat16",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "prompt": {"rows_per_image": ROWS},
    }
    model = llm_loading.load(settings, CPU)
    return Decoder(model, visual_expert.PromptForm(model, settings, CPU), VOCAB, CPU)


def table(seed: int) -> torch.Tensor:
    return torch.randn((ROWS, HIDDEN), generator=torch.Generator().manual_seed(seed)).bfloat16()


def row(seed: int = 0, **changes: Any) -> Any:
    from llm_request import LlmRequest, Sampling

    values: dict[str, Any] = {
        "prompt": PROMPT,
        "history": changes.get("prompt", PROMPT),
        "table": table(seed),
        "features": None,
        "max_tokens": TOKENS,
        "end_id": 2,
        "pad_id": 0,
        "stop_words": [],
        "bad_words": [],
        "bias": None,
        "sampling": Sampling(),
        "beam_width": 1,
        "length_penalty": 0.0,
        "early_stopping": True,
        "log_probs": True,
        "context_logits": False,
        "generation_logits": False,
        "exclude_input": True,
        "streaming": False,
    }
    return LlmRequest(**(values | changes))


def never() -> bool:
    return False


def test_calls_of_a_row(decoder: Any) -> None:
    first = decoder.form.first(row())
    assert first["position_ids"].tolist() == [[0, 1, *[2] * 9, 3, 4, 5, 6, 7]]
    assert first["vision_experts"].tolist() == [[False, *[True] * 10, *[False] * 5]]
    assert torch.equal(first["inputs_embeds"][0, 1 : 1 + ROWS], table(0))
    following = decoder.form.following(row(), torch.tensor([[9]]), 3)
    assert following["position_ids"].tolist() == [[10]] and following["input_ids"].tolist() == [[9]]


@pytest.mark.parametrize("seed", range(6))
def test_greedy_equals_the_oracle(decoder: Any, checkpoint: Path, seed: int) -> None:
    oracle = CogvlmOracle(checkpoint)
    ids = [1, *[oracle.image_id] * ROWS, *TEXT]
    found = [token.id for token in decoder.tokens(row(seed), never)]
    assert found == oracle.continuation(ids, table(seed).float().numpy(), TOKENS)


def test_text_alone(decoder: Any, checkpoint: Path) -> None:
    found = [token.id for token in decoder.tokens(row(prompt=[1, *TEXT], table=None), never)]
    assert found == CogvlmOracle(checkpoint).continuation([1, *TEXT], None, TOKENS)


def test_beams_have_the_probability_of_their_tokens_read_at_once(decoder: Any) -> None:
    beams = decoder.beams(row(beam_width=3), never)
    sums = [beam[-1].cum_log_prob for beam in beams]
    assert sums == sorted(sums, reverse=True)
    assert len({tuple(token.id for token in beam) for beam in beams}) == 3
    for beam, total in zip(beams, sums, strict=True):
        ids = [token.id for token in beam]
        logits = decoder.context_logits(row(prompt=[*PROMPT, *ids]))
        read = logits[len(PROMPT) - 1 : -1].log_softmax(-1)
        assert sum(float(read[place, token]) for place, token in enumerate(ids)) == pytest.approx(total, abs=0.15)


def test_context_logits_are_those_of_the_oracle(decoder: Any, checkpoint: Path) -> None:
    oracle = CogvlmOracle(checkpoint)
    first = decoder.form.first(row())
    with torch.inference_mode():
        truth = oracle.scores(first["inputs_embeds"][0], first["position_ids"][0], first["vision_experts"][0])
    assert torch.equal(decoder.context_logits(row()), truth)
