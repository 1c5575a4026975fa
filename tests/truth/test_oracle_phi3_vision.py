"""Phi-3-vision's oracle: its answers tell right from wrong, its rows are the vision module's and an index formula's."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tokenizers import Tokenizer

from generator.oracle.common import open_image
from generator.oracle.phi3_vision import SIDE, Phi3VisionOracle, arrange, hd_transform
from tests import checkpoints, photos
from tests.truth import oracle_checks

MODULE = oracle_checks.vision_module("phi3_vision")
GRIDS = [(down, across) for down in range(1, 17) for across in range(1, 17) if down * across <= 16]
BOS = 1


@cache
def oracle(name: str = "phi-3-vision-4") -> Phi3VisionOracle:
    return Phi3VisionOracle(checkpoints.cached(name))


def test_answers_are_distinct() -> None:
    oracle_checks.assert_answers_are_distinct(oracle())


def test_mutations_change_the_text() -> None:
    oracle_checks.assert_mutations_change_the_text(oracle(), BOS)


def test_sixteen_crops_mutations_change_the_text() -> None:
    oracle_checks.assert_mutations_change_the_text(oracle("phi-3-vision"), BOS)


def test_several_images_and_text_only_are_answered() -> None:
    pictures = [photos.encoded("tall"), photos.encoded("china")]
    forth, back = (oracle().generate("Compare.", order, 12) for order in (pictures, pictures[::-1]))
    assert forth != back
    assert oracle().generate("Compare.", (), 12) not in (forth, back)


@pytest.mark.parametrize("name", ["china", "tall", "wide"])
def test_module_gives_the_same_rows(name: str) -> None:
    checkpoint = str(checkpoints.cached("phi-3-vision-4"))
    tower = MODULE.load(checkpoint, torch.float16).eval()
    pixels = oracle().pixels([photos.encoded(name)])
    with torch.inference_mode():
        rows = torch.cat([tower(view) for view in torch.from_numpy(pixels).split(1)]).numpy()
    assert rows.shape[1:] == (144, 64)
    np.testing.assert_array_equal(rows, oracle().rows(pixels))


def test_constants_are_the_projected_separators() -> None:
    constants = MODULE.constants(str(checkpoints.cached("phi-3-vision-4")), torch.float16)
    packed = torch.from_numpy(oracle().packed([photos.encoded("china")])[0])
    _, across = oracle().grid(photos.encoded("china"))
    assert constants.shape == (2, 64)
    assert torch.equal(constants[0], packed[12 * across])
    assert torch.equal(constants[1], packed[-12 * 13 - 1])


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("embd_layer", "hd_transform_order", "glb_sub"), ("img_processor", "name", "siglip"), ("", "", "")],
)
def test_module_refuses_what_it_does_not_know(part: str, name: str, value: str, tmp_path: Path) -> None:
    source = checkpoints.cached("phi-3-vision-4")
    config = json.loads((source / "config.json").read_text())
    if part:
        config[part][name] = value
        shutil.copy(source / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=name or "safetensors") as raised:
        MODULE.load(str(tmp_path), torch.float16)
    assert str(tmp_path) in str(raised.value)
    assert value in str(raised.value)


def selected(down: int, across: int) -> list[int]:
    """Rows by arithmetic alone: r >= 0 is row r of the image's views, -1 the end of a line, -2 the separator."""
    rows: list[int] = []
    for y in range(12 * down):
        rows += [(1 + y // 12 * across + x // 12) * 144 + 12 * (y % 12) + x % 12 for x in range(12 * across)]
        rows.append(-1)
    rows.append(-2)
    for y in range(12):
        rows += [*range(12 * y, 12 * y + 12), -1]
    return rows


@pytest.mark.parametrize("grid", GRIDS)
def test_arrangement_is_a_selection_of_rows(grid: tuple[int, int]) -> None:
    down, across = grid
    views = torch.arange((1 + down * across) * 144).view(-1, 144, 1)
    line_end, between = torch.tensor([[-1]]), torch.tensor([[-2]])
    arranged = arrange(views, grid, line_end, between).flatten().tolist()
    assert arranged == selected(down, across)
    assert len(arranged) == (down * across + 1) * 144 + 1 + (down + 1) * 12


def test_projection_before_and_after_the_arrangement_agree() -> None:
    """The original arranges first. Row for row it is the same product, so only rounding could differ."""
    truth, image = oracle(), photos.encoded("coffee")
    with torch.inference_mode():
        merged = truth.merged(torch.from_numpy(truth.pixels([image])))
        separators = (truth.weights["sub_GN"][0, 0], truth.weights["glb_GN"][0])
        projected = truth.project(arrange(merged, truth.grid(image), *separators))
    torch.testing.assert_close(projected, torch.from_numpy(truth.packed([image])[0]))


@pytest.mark.parametrize(
    ("size", "num_crops", "expected"),
    [
        ((600, 400), 16, (1344, 1008)),
        ((400, 600), 16, (1008, 1344)),
        ((512, 512), 16, (1344, 1344)),
        ((1, 1), 4, (672, 672)),
        ((1920, 1080), 16, (1680, 1008)),
        ((640, 37), 16, (5376, 336)),
        ((640, 37), 4, (1344, 336)),
        ((100, 200), 4, (336, 672)),
        ((100, 199), 4, (672, 672)),
        ((336, 336), 1, (336, 336)),
        ((3000, 1000), 16, (2016, 672)),
    ],
)
def test_sizes_of_the_hd_transform(size: tuple[int, int], num_crops: int, expected: tuple[int, int]) -> None:
    """Expected sizes worked out by hand from the rule: the most crops beside each other that keep to the limit."""
    assert hd_transform(PIL.Image.new("RGB", size), num_crops).size == expected


def test_padding_is_white_and_in_the_middle() -> None:
    lying = np.asarray(hd_transform(PIL.Image.new("RGB", (600, 401)), 16))  # 1344 x 898, 110 rows of padding
    assert (lying[:55] == 255).all() and (lying[-55:] == 255).all()
    assert not lying[55:-55].any()
    upright = np.asarray(hd_transform(PIL.Image.new("RGB", (401, 600)), 16))
    np.testing.assert_array_equal(upright, lying.transpose(1, 0, 2))


def test_global_view_picks_the_middle_of_odd_blocks() -> None:
    """Three crops below each other and three beside: bicubic interpolation then stands on pixels exactly."""
    image = open_image(photos.encoded("astronaut")).resize((3 * SIDE, 3 * SIDE))
    views = oracle_with_crops(9).views(image)
    assert views.shape == (10, 3, SIDE, SIDE)
    rows = torch.cat([torch.cat(list(views[1 + 3 * row : 4 + 3 * row]), dim=2) for row in range(3)], dim=1)
    assert torch.equal(views[0], rows[:, 1::3, 1::3])


def oracle_with_crops(num_crops: int) -> Phi3VisionOracle:
    truth = Phi3VisionOracle(checkpoints.cached("phi-3-vision-4"))
    truth.num_crops = num_crops
    return truth


@pytest.mark.parametrize("name", photos.names())
def test_every_photograph_gives_finite_pixels_and_as_many_rows_as_positions(name: str) -> None:
    image = photos.encoded(name)
    down, across = oracle().grid(image)
    pixels = oracle().pixels([image])
    assert pixels.shape == (1 + down * across, 3, SIDE, SIDE)
    assert pixels.dtype == np.float16
    assert np.isfinite(pixels).all()
    assert oracle().ids("Why?", [image]).count(-1) == len(selected(down, across))


def test_every_chunk_begins_with_bos() -> None:
    truth = oracle()
    images = [photos.encoded("tiny"), photos.encoded("tall")]
    ids = truth.ids("first <image> second <image>", images, raw=True)
    counts = [len(selected(*truth.grid(image))) for image in images]
    first, second, third = (truth.tokenizer(chunk).input_ids for chunk in ("first ", " second ", ""))
    assert ids == [*first, *[-1] * counts[0], *second, *[-1] * counts[1], *third]
    assert first[0] == second[0] == BOS
    assert third == [BOS]
    with pytest.raises(ValueError, match="marks"):
        truth.ids("<image> and <image>", images[:1])


def test_prompts() -> None:
    assert oracle().prompt("Why?", 0) == "<|user|>\nWhy?<|end|>\n<|assistant|>\n"
    assert oracle().prompt("Why?", 2) == "<|user|>\n<|image_1|>\n<|image_2|>\nWhy?<|end|>\n<|assistant|>\n"
    assert oracle().prompt("<image> or <image>?", 2, raw=True) == "<|image_1|> or <|image_2|>?"


def test_tokenizer_is_taken_as_it_is_written() -> None:
    """A class that rebuilds it would give other ids behind added tokens."""
    written = Tokenizer.from_file(str(checkpoints.cached("phi-3-vision-4") / "tokenizer.json"))
    for text in (*photos.PROMPTS, *(oracle().prompt(text, 0) for text in photos.PROMPTS)):
        assert oracle().tokenizer(text).input_ids == written.encode(text).ids
    assert oracle().tokenizer("<|end|>\n<|assistant|>\n").input_ids[-1] == oracle().end_ids[0] + 1


def test_published_names_of_weights_are_understood() -> None:
    """The tower is loaded strictly by the oracle; here the language model, and that no frequency is rounded."""
    from safetensors import safe_open

    with safe_open(checkpoints.cached("phi-3-vision-4") / "model.safetensors", "pt") as weights:
        names = {name for name in weights.keys() if not name.startswith("model.vision_embed_tokens.")}  # noqa: SIM118
    assert names == set(oracle().model.state_dict())
    assert oracle().model.model.rotary_emb.inv_freq.dtype == torch.float32
