"""A decoder that attends to features: its tokens and logits are transformers' own on the tiny Deplot."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from generator.oracle.deplot import DeplotOracle
from tests import charts
from tests.checkpoints import cached
from tests.unit.test_decoding import TOKENS, never, request

import cross_features  # isort: skip - of the templates, which test_decoding makes importable
import llm_loading  # isort: skip
from decoding import Decoder  # isort: skip
from llm_request import LlmRequest  # isort: skip

CPU = torch.device("cpu")


@cache
def oracle() -> DeplotOracle:
    font = Path(mkdtemp()) / "free.ttf"
    font.write_bytes(charts.font_bytes())
    return DeplotOracle(cached("deplot"), font)


@cache
def decoder() -> Decoder:
    text = oracle().model.config.text_config
    settings = {
        "checkpoint": str(cached("deplot")),
        "module": "hf_pix2struct_llm",
        "dtype": "float16",
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
    }
    model = llm_loading.load(settings, CPU)
    return Decoder(model, cross_features.PromptForm(model, settings, CPU), text.vocab_size, CPU)


@cache
def features(number: int) -> torch.Tensor:
    pixels = oracle().pixels([charts.encoded(number)], charts.QUESTIONS[0])
    return torch.from_numpy(oracle().rows(pixels))[0]


def row(number: int, **changes: Any) -> LlmRequest:
    return replace(request([0], None, end_id=1, **changes), features=features(number))


def by_transformers(number: int, **options: Any) -> Any:
    config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=TOKENS,
        eos_token_id=1,
        pad_token_id=0,
        decoder_start_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    states = features(number)[None]
    with torch.inference_mode():
        return oracle().model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(states.shape[:2]),
            generation_config=config,
        )


@pytest.mark.parametrize("number", [0, 3, 6])
def test_tokens_and_logits(number: int) -> None:
    tokens = list(decoder().tokens(row(number), never))
    truth = by_transformers(number)
    assert [token.id for token in tokens] == truth.sequences[0, 1:].tolist()
    for token, logits in zip(tokens, truth.logits, strict=True):
        assert token.logits is not None and torch.equal(token.logits, logits[0].float())
    whole = oracle().generate(charts.QUESTIONS[0], [charts.encoded(number)], TOKENS)[0]
    assert [token.id for token in tokens] == whole  # of all 2048 rows, those of no patch masked


def test_beams() -> None:
    beams = decoder().beams(row(6, beam_width=3), never)
    truth = by_transformers(6, num_beams=3, num_return_sequences=3, length_penalty=0.0, early_stopping=True)
    wanted = [[token for token in beam if token != 0] for beam in truth.sequences[:, 1:].tolist()]
    assert [[token.id for token in beam] for beam in beams] == wanted


def test_stop_words_and_the_logits_of_the_start() -> None:
    plain = [token.id for token in decoder().tokens(row(6), never)]
    stopped = [token.id for token in decoder().tokens(row(6, stop_words=[plain[3:5]]), never)]
    assert stopped == plain[:5]
    context = decoder().context_logits(row(6))
    assert context.shape == (1, decoder().vocab_size) and int(context.argmax()) == plain[0]


def test_the_encoder_is_left_out() -> None:
    names = [name for name, _ in decoder().model.named_parameters()]
    assert not any("encoder.encoder." in name for name in names)
