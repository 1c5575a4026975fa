"""Video NeVA's oracle: frames are the right ones in the right order, its rows are the vision module's."""

from __future__ import annotations

from functools import cache
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from generator.oracle.common import open_image
from generator.oracle.video_neva import VideoNevaOracle, decode
from tests import checkpoints, photos
from tests.truth import oracle_checks

MODULE = oracle_checks.vision_module("neva_layout")
BOS = 1
ROWS = 4 * 256


@cache
def oracle() -> VideoNevaOracle:
    return VideoNevaOracle(checkpoints.cached("video-neva"))


@cache
def clip(first: int, length: int = 9) -> NDArray[np.uint8]:
    """A slide show of photographs, [length, 240, 320, 3]."""
    names = photos.names()
    shown = [open_image(photos.encoded(names[(first + number) % 7])).resize((320, 240)) for number in range(length)]
    return np.stack([np.asarray(image) for image in shown])


def encoded(frames: NDArray[np.uint8]) -> bytes:
    """A video file whose codec loses nothing."""
    content = BytesIO()
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def test_answers_are_distinct() -> None:
    answers = [oracle().generate(text, [clip(i % 7)], 12) for i, text in enumerate(photos.PROMPTS[:20])]
    assert len({text for _, text in answers}) >= 18
    assert sum(len(set(ids)) > 2 for ids, _ in answers) >= 18


@pytest.mark.parametrize("number", range(3))
def test_mutations_change_the_text(number: int) -> None:
    truth, text = oracle(), photos.PROMPTS[number]
    video = clip(number)
    ids, rows = truth.ids(text, [video]), truth.rows(truth.pixels([video]))
    assert rows.shape == (1, ROWS, 64)
    swapped, frames_swapped, shifted = rows.copy(), rows.copy(), ids.copy()
    swapped[0, [3, 500]] = swapped[0, [500, 3]]
    frames_swapped = rows.reshape(4, 256, 64)[[0, 2, 1, 3]].reshape(rows.shape)
    shifted[len(ids) - 1 - ids[::-1].index(truth.image_id) + 3] += 1
    bgr = truth.rows(truth.pixels([video[..., ::-1]]))
    mutated = {
        "another clip": (ids, truth.rows(truth.pixels([clip(number + 1)]))),
        "two rows swapped": (ids, swapped),
        "two frames swapped": (ids, frames_swapped),
        "channels reversed": (ids, bgr),
        "one id shifted": (shifted, rows),
        "one BOS more": ([BOS, *ids], rows),
    }
    right = truth.text(truth.continuation(ids, rows, 24))
    assert right == truth.generate(text, [video], 24)[1]
    texts = {what: truth.text(truth.continuation(*case, 24)) for what, case in mutated.items()}
    assert [what for what, changed in texts.items() if changed == right] == []


def test_module_gives_the_same_rows() -> None:
    pixels = oracle().pixels([clip(0)])
    assert pixels.shape == (1, 4, 3, 224, 224)
    tower = MODULE.load(str(checkpoints.cached("video-neva")), torch.bfloat16).eval()
    with torch.inference_mode():
        rows = tower(torch.from_numpy(pixels).bfloat16())
    assert rows.dtype == torch.bfloat16
    np.testing.assert_array_equal(rows.float().numpy(), oracle().rows(pixels))


def test_rows_of_a_frame_are_those_of_its_picture() -> None:
    """Frame f has the rows f * 256 to f * 256 + 255."""
    video = clip(0)
    rows = oracle().rows(oracle().pixels([video]))[0]
    still = oracle().rows(oracle().pixels([np.stack([video[5]] * 4)]))[0]  # frames 0, 2, 5, 8 of nine are shown
    np.testing.assert_array_equal(rows[512:768], still[512:768])
    assert not np.array_equal(rows[:256], still[:256])


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [0, 0, 0, 0]), (2, [0, 1, 1, 1]), (3, [0, 1, 2, 2]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 4]), (9, [0, 2, 5, 8])],
)
def test_frames_are_spread_evenly_and_the_last_is_repeated(length: int, expected: list[int]) -> None:
    video = np.arange(length, dtype=np.uint8).reshape(length, 1, 1, 1)
    assert [int(frame.item()) for frame in oracle().frames(video)] == expected


def test_video_files_are_decoded_to_rgb() -> None:
    file = encoded(clip(0, 5))
    np.testing.assert_array_equal(decode(file), clip(0, 5))
    np.testing.assert_array_equal(oracle().pixels([file]), oracle().pixels([clip(0, 5)]))


def test_prompt_and_ids() -> None:
    truth = oracle()
    before, after = truth.prompt("Why?", 1).split("<image>")
    assert before.startswith("<extra_id_0>System\nA chat between a curious user")
    assert before.endswith("user's questions.\n\n<extra_id_1>User")
    assert after.startswith("\nWhy?\n<extra_id_1>Assistant\n<extra_id_2>quality:4,toxicity:0,humor:0,")
    assert after.endswith(",complexity:4,verbosity:4\n")
    encode = truth.tokenizer.encode
    assert truth.ids("Why?", [clip(0)]) == [*encode(before), *[-1] * ROWS, *encode(after)]
    with pytest.raises(ValueError, match="takes one image"):
        truth.ids("Why?", [clip(0), clip(1)])
