"""Resizing in parts gives the pixels of Image.resize, whatever the sizes, the part that is kept and the threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import resample
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from resample import cuts, resized
from workers import Workers

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
WORKERS = {count: Workers(count) for count in (1, 2, 3, 8)}
COMMON = [(640, 480), (1920, 1080), (1080, 1920), (640, 427), (1001, 77)]
TARGETS = [(336, 336), (448, 336), (597, 336), (336, 597), (384, 384), (224, 224), (503, 336)]
LEVELS = np.random.default_rng(7).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "WORTH_A_THREAD", 1)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(LEVELS[:height, :width])


def check(
    source: tuple[int, int], size: tuple[int, int], how: Any, keep: tuple[int, int, int, int] | None, count: int
) -> None:
    image = noise(*source)
    expected = image.resize(size, how).crop(keep or (0, 0, *size))
    got = resized(image, size, how, keep, WORKERS[count])
    assert got.size == expected.size and got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("source", COMMON)
@pytest.mark.parametrize("size", TARGETS)
def test_common_sizes(source: tuple[int, int], size: tuple[int, int]) -> None:
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    for count in (1, 3):
        check(source, size, BICUBIC, (left, top, left + 224, top + 224), count)
        check(source, size, BILINEAR, None, count)


sides = st.one_of(st.integers(1, 700), st.sampled_from([224, 336, 384, 448, 480, 597, 640, 672]))


@hypothesis_settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_size_and_any_part(data: st.DataObject) -> None:
    source, size = data.draw(st.tuples(sides, sides)), data.draw(st.tuples(sides, sides))
    left, right = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(1, size[0]))
    top, bottom = data.draw(st.integers(0, size[1] - 1)), data.draw(st.integers(1, size[1]))
    keep = (left, top, right, bottom) if left < right and top < bottom else None
    check(source, size, data.draw(st.sampled_from([BILINEAR, BICUBIC])), keep, data.draw(st.sampled_from([*WORKERS])))


def test_sides_of_engines_can_be_cut_for_nearly_every_image() -> None:
    uncut = [(source, side) for source in range(300, 1300) for side in (336, 384) if len(parts(source, side)) < 8]
    assert len(uncut) < 40, uncut  # of 2000: a weight too near to a rounding step, which must not happen often


def parts(source: int, side: int) -> list[int]:
    places: list[int] = cuts(source, side, BICUBIC).places.tolist()
    return places


def test_what_a_crop_leaves_out_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = Image.Image.resize

    def resize(self: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        asked.append(size)
        return original(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", resize)
    resized(noise(640, 480), (448, 336), BICUBIC, (56, 0, 392, 336), WORKERS[1])
    assert asked == [(336, 336)]
    asked.clear()
    resized(noise(640, 480), (448, 336), BICUBIC, (56, 0, 392, 336), WORKERS[2])
    assert sorted(asked) in ([(168, 336)] * 2, [(336, 168)] * 2)


def test_other_filters_and_other_pillows_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    check((640, 480), (448, 336), Image.Resampling.LANCZOS, (56, 0, 392, 336), 3)
    assert cuts(640, 448, Image.Resampling.LANCZOS).places.tolist() == [0, 448]
    cuts.cache_clear()
    monkeypatch.setattr(resample, "KNOWN_PILLOW", False)
    assert cuts(640, 448, BICUBIC).places.tolist() == [0, 448]
    check((640, 480), (448, 336), BICUBIC, (56, 0, 392, 336), 3)
    cuts.cache_clear()


def test_weights_near_a_rounding_step_forbid_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, a weight of a half step more is on the step."""
    assert len(cuts(640, 448, BICUBIC).places) > 2
    cuts.cache_clear()
    monkeypatch.setattr(resample, "PRECISION", 1 << 60)  # steps finer than float64's own
    assert cuts(640, 448, BICUBIC).places.tolist() == [0, 448]
    cuts.cache_clear()


def test_what_the_file_said_is_kept() -> None:
    image = noise(640, 480)
    image.info["transparency"] = (1, 2, 3)
    assert resized(image, (384, 384), BICUBIC, None, WORKERS[2]).info == {"transparency": (1, 2, 3)}
