"""The torch LLM step where an encoder reads the prompt: what the decoder says is transformers' own, bit by bit."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from generator.oracle.blip2 import Blip2T5Oracle
from tests import checkpoints, photos
from tests.truth.oracle_checks import picture

ROOT = Path(__file__).parents[2]
for folder in ("templates/shared", "templates/torch/tensorrt_llm/1", "tests/doubles"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

import llm_loading  # noqa: E402
from decoding import Decoder, kept  # noqa: E402
from encoder_prompt import PromptForm  # noqa: E402
from llm_request import LlmRequest, Sampling  # noqa: E402

VOCAB, HIDDEN, TOKENS = 1024, 64, 10
CPU = torch.device("cpu")


@cache
def oracle() -> Blip2T5Oracle:
    return Blip2T5Oracle(checkpoints.cached("blip2-t5"))


@cache
def decoder() -> Decoder:
    settings = {
        "checkpoint": str(checkpoints.cached("blip2-t5")),
        "subfolder": "",
        "attribute": "language_model",
        "module": "hf_llm",
        "dtype": "bfloat16",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
    }
    model = llm_loading.load(settings, CPU)
    return Decoder(model, PromptForm(model, settings, CPU), VOCAB, CPU)


def asked(number: int, **changes: Any) -> tuple[LlmRequest, dict[str, torch.Tensor]]:
    """A row, and the same as inputs of transformers' generate()."""
    ids = torch.tensor(oracle().ids(photos.PROMPTS[number], [picture(number)]))
    rows = torch.from_numpy(oracle().rows(oracle().pixels([picture(number)])))[0].bfloat16()
    fake = ids == oracle().image_id
    embeds = oracle().model.get_input_embeddings()(ids.masked_fill(fake, 0))
    embeds[fake] = rows
    numbered = ids.masked_scatter(fake, torch.arange(VOCAB, VOCAB + len(rows)))
    plain: dict[str, Any] = {
        "prompt": numbered.tolist(),
        "history": [0],
        "table": rows,
        "features": None,
        "max_tokens": TOKENS,
        "end_id": 1,
        "pad_id": 0,
        "stop_words": [],
        "bad_words": [],
        "bias": None,
        "sampling": Sampling(),
        "beam_width": 1,
        "length_penalty": 0.0,
        "early_stopping": True,
        "log_probs": False,
        "context_logits": False,
        "generation_logits": True,
        "exclude_input": True,
        "streaming": False,
    }
    inputs = {"inputs_embeds": embeds[None], "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    return LlmRequest(**(plain | changes)), inputs


def generated(inputs: dict[str, torch.Tensor], **more: Any) -> Any:
    """What transformers says."""
    config = transformers.GenerationConfig(
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=0,
        decoder_start_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
        **more,
    )
    with torch.inference_mode():
        return oracle().model.generate(**inputs, generation_config=config)


def never() -> bool:
    return False


@pytest.mark.parametrize("number", range(5))
def test_tokens_and_logits_equal_bit_by_bit(number: int) -> None:
    row, inputs = asked(number)
    truth = generated(inputs)
    tokens = list(decoder().tokens(row, never))
    assert [token.id for token in tokens] == truth.sequences[0, 1:].tolist()
    for token, logits in zip(tokens, truth.logits, strict=True):
        assert token.logits is not None and torch.equal(token.logits, logits[0].float())


def test_the_encoder_runs_once_for_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, runs = decoder().model.get_encoder(), []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda *given, **more: runs.append(1) or forward(*given, **more))
    row, _ = asked(0)
    assert len(list(decoder().tokens(row, never))) == TOKENS
    decoder().context_logits(row)
    assert runs == [1]


@pytest.mark.parametrize("width", [2, 3])
def test_beams(width: int) -> None:
    row, inputs = asked(1, beam_width=width)
    truth = generated(inputs, num_beams=width, num_return_sequences=width, length_penalty=0.0, early_stopping=True)
    beams = decoder().beams(row, never)
    for beam, expected in zip(beams, truth.sequences[:, 1:].tolist(), strict=True):
        ids = [token.id for token in beam]
        assert ids == expected[: len(ids)] and not set(expected[len(ids) :]) - {0}
        assert len(kept(beam)) == len(ids) - (ids[-1] == 1)
    cumulative = [beam[-1].cum_log_prob for beam in beams]
    assert cumulative == sorted(cumulative, reverse=True)


def test_context_logits_are_those_of_the_start_token() -> None:
    row, inputs = asked(2)
    context = decoder().context_logits(row)
    assert context.shape == (1, VOCAB)
    assert torch.equal(context[0], generated(inputs).logits[0][0].float())


def test_penalties_and_words_see_the_answer_alone() -> None:
    """The encoder's prompt is no part of what the decoder said."""
    row, _ = asked(3)
    plain = [token.id for token in decoder().tokens(row, never)]
    said = sorted(set(row.prompt) & set(range(3, VOCAB)))
    words, _ = asked(3, stop_words=[[said[-1], plain[0]]], bad_words=[[said[-1], plain[0]]])
    assert [token.id for token in decoder().tokens(words, never)] == plain
    stopped, _ = asked(3, stop_words=[plain[1:3]])
    assert [token.id for token in decoder().tokens(stopped, never)] == plain[:3]
    banned, _ = asked(3, bad_words=[[plain[0]]])
    assert plain[0] not in [token.id for token in decoder().tokens(banned, never)]
