"""The oracle can tell right from wrong: its answers vary, and the mistakes that matter change them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from generator.oracle import IMAGE_TOKEN_INDEX, LlavaOracle, Oracle, VilaOracle
from generator.oracle.vila import mlp_downsample
from tests import checkpoints, photos
from tests.truth import oracle_checks

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

NEW_TOKENS = 12
ORACLES: dict[str, Callable[[], Oracle]] = {
    "llava": lambda: LlavaOracle(checkpoints.cached("llava")),
    "vila": lambda: VilaOracle(checkpoints.cached("vila")),
    "vila-llama_3": lambda: VilaOracle(checkpoints.cached("vila-llama_3"), "llama_3"),
    "vila-hermes-2": lambda: VilaOracle(checkpoints.cached("vila-hermes-2"), "hermes-2"),
}
PLAIN = photos.names()[:6]


@cache
def oracle(name: str) -> Oracle:
    return ORACLES[name]()


def picture(number: int) -> bytes:
    return photos.encoded(PLAIN[number % len(PLAIN)])


@pytest.mark.parametrize("name", ["llava", "vila"])
def test_answers_are_distinct(name: str) -> None:
    answers = [oracle(name).generate(text, [picture(i)], NEW_TOKENS) for i, text in enumerate(photos.PROMPTS)]
    assert len({text for _, text in answers}) >= 0.9 * len(answers)
    assert sum(len(set(ids)) > 2 for ids, _ in answers) >= 0.9 * len(answers)


@pytest.mark.parametrize("name", ORACLES)
def test_mutations_change_the_text(name: str) -> None:
    truth = oracle(name)
    oracle_checks.assert_mutations_change_the_text(truth, truth.tokenizer.bos_token_id, cases=4)


@pytest.mark.parametrize("name", ORACLES)
def test_ids_hold_bos_images_and_marks(name: str) -> None:
    truth = oracle(name)
    pictures = [photos.encoded("tiny"), photos.encoded("tall")]
    per_image = truth.rows(truth.pixels(pictures)).shape[1]
    begins_with_bos = name != "vila-hermes-2"

    assert truth.image_id not in truth.ids("Hello")
    for text, images in (("Hello", 1), ("Hello", 2), ("first <image> second <image> third", 2)):
        ids = truth.ids(text, pictures[:images])
        assert ids.count(truth.image_id) == images * per_image
        assert (ids[0] == truth.tokenizer.bos_token_id) == begins_with_bos
        spelled_out = truth.prompt(text, images).count(truth.tokenizer.bos_token)
        assert ids.count(truth.tokenizer.bos_token_id) == begins_with_bos + spelled_out
    with pytest.raises(ValueError, match="marks"):
        truth.ids("<image> and <image>", pictures[:1])
    assert truth.prompt("as it is", 0, raw=True) == "as it is"


def test_llava_prompts() -> None:
    assert oracle("llava").prompt("Why?", 1) == "USER: <image>\nWhy? ASSISTANT:"
    assert oracle("llava").prompt("Why?", 0) == "USER: Why? ASSISTANT:"
    assert oracle("llava").prompt("See <image> here", 1) == "USER: See <image> here ASSISTANT:"


def test_vila_pieces_keep_one_bos() -> None:
    truth = oracle("vila")
    before, after = truth.prompt("Why?", 1).split("<image>")
    tokenizer = truth.tokenizer
    expected = [*tokenizer(before).input_ids, *[IMAGE_TOKEN_INDEX] * 196, *tokenizer(after).input_ids[1:]]
    assert truth.ids("Why?", [photos.encoded("tiny")]) == expected


@pytest.mark.parametrize("name", ["llava", "vila"])
def test_several_images_and_text_only_are_answered(name: str) -> None:
    truth = oracle(name)
    pictures = [picture(0), picture(1)]
    forth, back = (truth.generate("Compare.", order, NEW_TOKENS) for order in (pictures, pictures[::-1]))
    assert forth != back
    assert truth.generate("Compare.", (), NEW_TOKENS) not in (forth, back)


@pytest.mark.parametrize("name", photos.names())
def test_every_photograph_gives_finite_pixels(name: str) -> None:
    for model, side in (("llava", 336), ("vila", 384)):
        pixels = oracle(model).pixels([photos.encoded(name)])
        assert pixels.shape == (1, 3, side, side)
        assert pixels.dtype == np.float16
        assert np.isfinite(pixels).all()


def test_merge_of_two_by_two_neighbours() -> None:
    """A 3 x 3 grid of numbers, through weights that only copy, shows order and padding of the merged rows."""
    channels, merged = 1, 4
    grid = torch.tensor([[[11.0], [12.0], [13.0], [21.0], [22.0], [23.0], [31.0], [32.0], [33.0]]])
    weights = {
        "layers.1.weight": torch.ones(merged),
        "layers.1.bias": torch.full((merged,), 100.0),  # far from zero, where GELU copies
        "layers.2.weight": torch.eye(merged),
        "layers.2.bias": torch.zeros(merged),
        "layers.4.weight": torch.eye(merged),
        "layers.4.bias": torch.zeros(merged),
    }
    blocks = torch.tensor([[11.0, 12, 21, 22], [31, 32, 0, 0], [13, 0, 23, 0], [33, 0, 0, 0]])
    expected = nn.functional.layer_norm(blocks, (merged * channels,)) + 100
    torch.testing.assert_close(mlp_downsample(grid, weights)[0], expected)


@pytest.mark.parametrize("name", checkpoints.MAKERS)
def test_checkpoints_are_reproducible(name: str, tmp_path: Path) -> None:
    fresh, shared = checkpoints.make(name, tmp_path / "fresh"), checkpoints.cached(name)
    files = sorted(path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(shared) for path in shared.rglob("*") if path.is_file())
    assert [file for file in files if (fresh / file).read_bytes() != (shared / file).read_bytes()] == []


@pytest.mark.parametrize(
    ("name", "folder", "model_class"),
    [
        ("llava", "", transformers.LlavaForConditionalGeneration),
        ("vila", "llm", transformers.LlamaForCausalLM),
        ("vila", "vision_tower", transformers.SiglipVisionModel),
    ],
)
def test_published_names_of_weights_are_understood(name: str, folder: str, model_class: Any) -> None:
    _, report = model_class.from_pretrained(checkpoints.cached(name) / folder, output_loading_info=True)
    assert not any(report.values()), report
