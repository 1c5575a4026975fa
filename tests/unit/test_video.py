"""Clips: which frames, what is refused, and what the archives and the engine say of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos
from media import Source
from placement import Placed
from sequence_prompt import PromptBuilder
from tensors import RequestError
from tokenizers_text import TokenizersText
from videos import DECODED, ENCODED, VideoReader

from generator.explain import explain
from generator.facts import engines as engine_facts
from generator.facts import nemo
from generator.findings import Refused
from generator.generate import generate
from generator.models import find
from generator.options import Options
from tests import engines
from tests.checkpoints import cached
from tests.unit import serving

SPEC, VARIANT = find("video-neva")


def reader(**changes: Any) -> VideoReader:
    layout = {"module": "video_frames", "num_frames": 4, "reverse_channels": False, **changes}
    limits = {"max_video_bytes": 1 << 20, "max_video_frames": 20, "max_video_seconds": 5, "max_frame_pixels": 1 << 24}
    return VideoReader(serving.settings(layout=layout, limits=limits))


def frames(count: int) -> Source:
    """Frames of one colour each: red is the frame's number."""
    array = np.zeros((count, 6, 8, 3), np.uint8)
    array[..., 0] = np.arange(count)[:, None, None]
    return Source(DECODED, "video 0", array)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0, 0, 0, 0]), (3, [0, 1, 2, 2]), (4, [0, 1, 2, 3]), (9, [0, 2, 5, 8]), (20, [0, 6, 12, 19])],
)
def test_frames_are_spread_and_the_last_is_repeated(count: int, expected: list[int]) -> None:
    clip = reader()(frames(count))
    assert [image.getpixel((3, 3)) for image in clip.frames] == [(number, 0, 0) for number in expected]
    assert clip.size == (8, 6)


def test_colours_can_be_reversed() -> None:
    clip = reader(reverse_channels=True)(frames(9))
    assert clip.frames[-1].getpixel((0, 0)) == (0, 0, 8)


def test_limits() -> None:
    with pytest.raises(RequestError, match="video 0: 21 or more frames, allowed are 20"):
        reader()(frames(21))
    huge = np.broadcast_to(np.zeros(3, np.uint8), (1, 5000, 5000, 3))
    with pytest.raises(RequestError, match="5000x5000"):
        reader()(Source(DECODED, "video 0", huge))
    with pytest.raises(RequestError, match="bytes, allowed are"):
        reader()(Source(ENCODED, "video 0", b"x" * ((1 << 20) + 1)))


def film(count: int, codec: str = "libx264", **options: str) -> Source:
    """A file of frames that grow brighter."""
    content = BytesIO()
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(count):
            levels = np.full((32, 32, 3), 12 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, format="rgb24")))
        container.mux(stream.encode())
    return Source(ENCODED, "video 0", content.getvalue())


@pytest.mark.parametrize("count", [1, 3, 9, 20])
def test_frames_of_a_file_are_those_of_all_its_frames(count: int) -> None:
    source = film(count)
    with av.open(BytesIO(source.value)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = reader()(source)
    for image, number in zip(clip.frames, reader().chosen(count), strict=True):
        np.testing.assert_array_equal(np.asarray(image), every[number])


@pytest.mark.parametrize("wrong", [0, 1, 12])
def test_a_wrong_number_of_packets_changes_no_frame(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, contents, passes = film(9), VideoReader._contents, []

    def odd(self: VideoReader, file: bytes, end: float, *, decode: bool) -> Iterator[Any]:
        passes.append(decode)
        found = contents(self, file, end, decode=decode)
        return found if decode else iter(list(found)[:1] * wrong)

    expected = reader()(source)
    monkeypatch.setattr(VideoReader, "_contents", odd)
    assert list(map(np.asarray, reader()(source).frames)) == [pytest.approx(np.asarray(i)) for i in expected.frames]
    assert passes == [False, True, True]


def test_the_time_of_decoding_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    source = film(9)
    monkeypatch.setattr(videos, "MOST_SECONDS", -1)
    with pytest.raises(RequestError, match="video 0: decoding takes more than -1 seconds: send a shorter") as refused:
        reader()(source)
    assert refused.value.reason == "video"


def test_a_file_without_the_decoder_is_refused_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RequestError, match="pip install av"):
        reader()(Source(ENCODED, "video 0", b"any"))


def test_facts_come_from_both_archives() -> None:
    folder = cached("video-neva")
    facts = nemo.read(folder / "nemotron.nemo", SPEC, VARIANT, folder / "projector.nemo")
    assert facts.layout == {"num_frames": 4}
    assert facts.rows_per_image == 4 * 256
    assert facts.pixels is not None and facts.pixels.shape == (3, 224, 224)
    assert facts.pixels.steps == (("on_white",), ("resize_shortest", 224), ("center_crop", 224, 224))
    assert nemo.read(folder / "nemotron.nemo", SPEC, VARIANT, None).layout == {}
    with pytest.raises(Refused, match="mm_cfg"):
        nemo.read(folder / "nemotron.nemo", SPEC, VARIANT, folder / "nemotron.nemo")


def test_rows_of_an_engine_that_gives_them_frame_by_frame(tmp_path: Path) -> None:
    folder = engines.vision(tmp_path, model_type="video-neva", num_frames=12, output_shape=[-1, 12, 256, 4096])
    facts = engine_facts.vision_engine(folder)
    assert (facts.rows, facts.hidden_size, facts.num_frames) == (3072, 4096, 12)


def test_an_engine_for_another_number_of_frames_is_refused(tmp_path: Path) -> None:
    folder = engines.vision(tmp_path / "engine", model_type="video-neva", num_frames=8)
    outcome = generate(Options(model="video-neva", visual_engine_dir=folder, working_dir=tmp_path))
    [finding] = [finding for finding in outcome.findings if finding.level == "error"]
    assert finding.code == "engine-frames" and "8 frames" in finding.what and "12" in finding.what


def test_a_projector_is_for_models_that_have_one_apart(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="part of its checkpoint"):
        generate(Options(model="llava", projector=tmp_path / "p.nemo", working_dir=tmp_path))


def test_a_missing_projector_is_a_finding_of_its_own(tmp_path: Path) -> None:
    options = Options(
        model="video-neva", runtime="torch", hf_model_dir=cached("video-neva") / "nemotron.nemo", working_dir=tmp_path
    )
    outcome = generate(options)
    by_code = {finding.code: finding for finding in outcome.findings}
    assert (
        "projector.nemo" in by_code["projector-missing"].what and "--projector" in by_code["projector-missing"].remedy
    )
    assert outcome.plan.missing == ("the archive with the vision side (projector.nemo)",)
    with pytest.raises(Refused) as refused:
        generate(replace(options, projector=tmp_path / "nowhere.nemo"))
    assert [finding.code for finding in refused.value.findings] == ["projector-missing"]
    assert "nowhere.nemo" in str(refused.value)


@pytest.mark.parametrize(("order", "reverse"), [(None, False), ("rgb", False), ("bgr", True)])
def test_the_order_of_colours_is_an_option(tmp_path: Path, order: Any, reverse: bool) -> None:
    outcome = generate(Options(model="video-neva", frame_order=order, working_dir=tmp_path))
    settings = json.loads((outcome.output / "preprocessing/1/settings.json").read_text())
    assert settings["layout"]["reverse_channels"] is reverse


def test_the_order_of_colours_is_refused_where_there_are_no_frames(tmp_path: Path) -> None:
    outcome = generate(Options(model="llava", frame_order="rgb", working_dir=tmp_path))
    assert not outcome.written
    assert [finding.code for finding in outcome.findings if finding.level == "error"] == ["no-frames"]


def test_the_plan_and_the_readme_say_video(tmp_path: Path) -> None:
    outcome = generate(Options(model="video-neva", working_dir=tmp_path))
    text, readme = explain(outcome.plan, outcome.facts), (outcome.output / "README.md").read_text()
    for line in ("videos per prompt", "max video bytes", "max video frames", "max frame pixels"):
        assert line in text and line.removeprefix("max ") in readme
    assert "--video clip.mp4" in readme and "data URI" not in readme
    assert not any("image" in line for line in readme.splitlines() if line.startswith("| ") and "_input`" not in line)


def test_messages_say_video() -> None:
    limits = {"max_video_bytes": 1, "max_video_frames": 1, "max_video_seconds": 1, "max_frame_pixels": 1}
    media = {"module": "videos", "needed": "a video", "input": "video_encoded_input", "noun": "video"}
    values = serving.settings(media=media, limits=limits, prompt={"before": [], "after": [{"text": "{text}"}]})
    builder = PromptBuilder(values, TokenizersText(serving.tokenizer()))
    clip = Placed((1, 3, 8, 8), 6, np.arange(6))
    with pytest.raises(RequestError, match="^5 videos, allowed are 4"):
        builder.build("x", [clip] * 5)
    with pytest.raises(RequestError, match="^4 video\\(s\\) of 24 rows"):
        builder.build("x", [clip] * 4)
    with pytest.raises(RequestError, match="^2 videos: .* one request per video"):
        builder.build("x", [clip] * 2)
    with pytest.raises(RequestError, match="this model's video has its fixed place"):
        builder.build("<image>", [clip])
