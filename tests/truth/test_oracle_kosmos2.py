"""Kosmos-2's oracle can tell right from wrong, and the torch vision module gives its rows."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from generator.oracle.common import open_image
from generator.oracle.kosmos2 import Kosmos2Oracle
from tests import checkpoints, photos
from tests.truth import oracle_checks

QUERIES = 64
TAGGED = (
    "<grounding>An image of",
    "<grounding> An image of",
    "<grounding><phrase>It</phrase><object><patch_index_0044><patch_index_0863></object> is",
    " <phrase> the dog</phrase>  here ",
)


@cache
def oracle() -> Kosmos2Oracle:
    return Kosmos2Oracle(checkpoints.cached("kosmos-2"))


def test_answers_are_distinct() -> None:
    oracle_checks.assert_answers_are_distinct(oracle())


def test_mutations_change_the_text() -> None:
    oracle_checks.assert_mutations_change_the_text(oracle(), bos_id=oracle().tokenizer.bos_token_id, cases=3)


@pytest.mark.parametrize("text", [*photos.PROMPTS, *TAGGED, ""])
def test_text_stands_stripped_behind_the_image(text: str) -> None:
    begin, opening, closing = oracle().tokenizer.convert_tokens_to_ids(["<s>", "<image>", "</image>"])
    words = oracle().tokenizer(text.strip(), add_special_tokens=False).input_ids
    ids = oracle().ids(text, [photos.encoded("tiny")])
    assert ids == [begin, opening, *[oracle().image_id] * QUERIES, closing, *words]


def test_tags_are_single_tokens_and_stay_in_the_text() -> None:
    vocabulary = oracle().tokenizer.get_vocab()
    tags = ["<grounding>", "<phrase>", "</phrase>", "<object>", "<patch_index_0000>", "<patch_index_1023>", "</object>"]
    assert oracle().tokenizer("".join(tags), add_special_tokens=False).input_ids == [vocabulary[tag] for tag in tags]
    assert oracle().text([vocabulary[tag] for tag in tags]) == "".join(tags)


@pytest.mark.parametrize("images", [0, 2])
def test_exactly_one_image_is_taken(images: int) -> None:
    with pytest.raises(ValueError, match="one image"):
        oracle().ids("Why?", [photos.encoded("tiny")] * images)


@pytest.mark.parametrize("name", photos.names())
def test_pixels_are_squashed(name: str) -> None:
    """Checks `use_square_size`: the short edge alone would be followed by a crop."""
    pixels = oracle().pixels([photos.encoded(name)])
    assert (pixels.shape, pixels.dtype) == ((1, 3, 224, 224), np.float16)
    if name == "palette":
        return  # the processor paints its transparent colour white
    processor = oracle().processor.image_processor
    squashed = open_image(photos.encoded(name)).resize((224, 224), Image.Resampling.BICUBIC)
    levels = (np.asarray(squashed) * np.float64(processor.rescale_factor)).astype(np.float32)
    mean, std = (np.array(part, dtype=np.float32) for part in (processor.image_mean, processor.image_std))
    expected = ((levels - mean) / std).astype(np.float16).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels[0], expected)


def test_rows_are_those_of_the_base_model() -> None:
    checkpoint = checkpoints.cached("kosmos-2")
    base = transformers.Kosmos2Model.from_pretrained(checkpoint, dtype=torch.float16).eval()
    pixels = oracle().pixels([photos.encoded("china")])
    with torch.inference_mode():
        features = base.get_image_features(torch.from_numpy(pixels)).pooler_output
    np.testing.assert_array_equal(features.numpy(), oracle().rows(pixels))


def test_vision_module() -> None:
    checkpoint = checkpoints.cached("kosmos-2")
    module = oracle_checks.vision_module("hf_kosmos2")
    oracle_checks.assert_module_gives_the_same_rows(module, checkpoint, oracle(), oracle_checks.PLAIN)


def test_published_names_of_weights_are_understood() -> None:
    checkpoint = checkpoints.cached("kosmos-2")
    oracle_checks.assert_published_names_are_understood(transformers.Kosmos2ForConditionalGeneration, checkpoint)
