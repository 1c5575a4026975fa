"""BLIP-2's oracle can tell right from wrong, and the torch vision module gives its rows."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import transformers

from generator.oracle.blip2 import Blip2OptOracle
from tests import checkpoints, photos
from tests.truth import oracle_checks

QUERIES = 32


@cache
def oracle() -> Blip2OptOracle:
    return Blip2OptOracle(checkpoints.cached("blip2-opt"))


def test_answers_are_distinct() -> None:
    oracle_checks.assert_answers_are_distinct(oracle())


def test_mutations_change_the_text() -> None:
    oracle_checks.assert_mutations_change_the_text(oracle(), bos_id=oracle().tokenizer.bos_token_id)


def test_rows_stand_before_bos_and_text() -> None:
    ids = oracle().ids("Why?", [photos.encoded("tiny")])
    assert ids[:QUERIES] == [oracle().image_id] * QUERIES
    assert ids[QUERIES:] == oracle().tokenizer("Why?").input_ids
    assert ids[QUERIES] == 2
    assert oracle().image_id not in ids[QUERIES:]


@pytest.mark.parametrize("images", [0, 2])
def test_exactly_one_image_is_taken(images: int) -> None:
    with pytest.raises(ValueError, match="one image"):
        oracle().ids("Why?", [photos.encoded("tiny")] * images)


def test_an_answer_ends_with_a_newline() -> None:
    end = oracle().end_ids
    assert oracle().tokenizer.decode(end) == "\n"
    assert end != [oracle().tokenizer.eos_token_id]


def test_a_checkpoint_without_its_number_of_queries_loses_the_picture() -> None:
    """transformers 5 fills `<image>` positions only; the processor writes them when it knows their number."""
    processor = oracle().processor
    number, processor.num_query_tokens = processor.num_query_tokens, None
    try:
        assert oracle().ids("Why?", [photos.encoded("tiny")]) == oracle().tokenizer("Why?").input_ids
    finally:
        processor.num_query_tokens = number


@pytest.mark.parametrize("name", photos.names())
def test_every_photograph_gives_finite_pixels(name: str) -> None:
    pixels = oracle().pixels([photos.encoded(name)])
    assert (pixels.shape, pixels.dtype) == ((1, 3, 224, 224), np.float16)
    assert np.isfinite(pixels).all()


def test_vision_module() -> None:
    checkpoint = checkpoints.cached("blip2-opt")
    module = oracle_checks.vision_module("hf_blip2")
    oracle_checks.assert_module_gives_the_same_rows(module, checkpoint, oracle(), oracle_checks.PLAIN)


def test_published_names_of_weights_are_understood() -> None:
    checkpoint = checkpoints.cached("blip2-opt")
    oracle_checks.assert_published_names_are_understood(transformers.Blip2ForConditionalGeneration, checkpoint)
