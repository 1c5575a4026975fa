"""The oracle of BLIP-2 over T5 can tell right from wrong, and composes what transformers does in one call."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import transformers

from generator.oracle import open_image
from generator.oracle.blip2 import Blip2T5Oracle
from tests import checkpoints, photos
from tests.truth import oracle_checks

QUERIES = 32


@cache
def oracle() -> Blip2T5Oracle:
    return Blip2T5Oracle(checkpoints.cached("blip2-t5"))


def test_answers_are_distinct() -> None:
    oracle_checks.assert_answers_are_distinct(oracle())


def test_mutations_change_the_text() -> None:
    """T5 has no BOS; an end token in front is the like mistake."""
    oracle_checks.assert_mutations_change_the_text(oracle(), bos_id=1)


def test_rows_stand_before_the_text_and_its_end_token() -> None:
    ids = oracle().ids("Why?", [photos.encoded("tiny")])
    assert ids[:QUERIES] == [oracle().image_id] * QUERIES
    assert ids[QUERIES:] == oracle().tokenizer("Why?").input_ids
    assert ids[-1] == 1 and ids.count(1) == 1


@pytest.mark.parametrize("images", [0, 2])
def test_exactly_one_image_is_taken(images: int) -> None:
    with pytest.raises(ValueError, match="one image"):
        oracle().ids("Why?", [photos.encoded("tiny")] * images)


def test_in_one_dtype_it_is_what_transformers_does_of_a_request() -> None:
    """transformers runs both sides in one dtype; engines do not, so the oracle puts the two together itself."""
    halves = Blip2T5Oracle(checkpoints.cached("blip2-t5"), torch.float16)
    for number, text in enumerate(photos.PROMPTS[:6]):
        picture = oracle_checks.picture(number)
        inputs = halves.processor(text=text, images=open_image(picture), return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].half()
        with torch.inference_mode():
            [whole] = halves.whole.generate(**inputs, do_sample=False, max_new_tokens=12).tolist()
        new, _ = halves.generate(text, [picture], 12)
        assert whole == [halves.start_id, *new]


def test_the_language_model_in_bf16_answers_otherwise_than_in_fp16() -> None:
    halves = Blip2T5Oracle(checkpoints.cached("blip2-t5"), torch.float16)
    asked = [(text, [oracle_checks.picture(number)]) for number, text in enumerate(photos.PROMPTS[:8])]
    assert [oracle().generate(*one, 24)[0] for one in asked] != [halves.generate(*one, 24)[0] for one in asked]


def test_vision_module() -> None:
    checkpoint = checkpoints.cached("blip2-t5")
    module = oracle_checks.vision_module("hf_blip2")
    oracle_checks.assert_module_gives_the_same_rows(module, checkpoint, oracle(), oracle_checks.PLAIN[:3])


def test_published_names_of_weights_are_understood() -> None:
    checkpoint = checkpoints.cached("blip2-t5")
    oracle_checks.assert_published_names_are_understood(transformers.Blip2ForConditionalGeneration, checkpoint)
