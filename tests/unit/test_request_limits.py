"""Limits of one request: which apply, how --limit sets them, and that they are asked before work is done."""

from __future__ import annotations

import base64
import json
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from images import ImageReader
from media import Source
from PIL import Image
from tensors import RequestError
from videos import ENCODED, VideoReader

from generator.cli import main
from generator.generate import decide, generate
from generator.options import Options
from tests.unit import serving
from tests.unit.serving import file, refusal, texts, words

NOWHERE = Path("/nonexistent")


def limits(model: str, *asked: tuple[str, int], **options: Any) -> tuple[Any, list[str]]:
    plan, _, findings = decide(Options(model=model, limits=asked, working_dir=NOWHERE, **options))
    return plan.limits, [f"{f.what}; {f.remedy}" for f in findings if f.code == "limit"]


def test_limits_of_a_request_can_be_set(tmp_path: Path) -> None:
    asked = (("image-pixels", 1_000_000), ("input-len", 1024))
    outcome = generate(Options(model="llava", limits=asked, working_dir=tmp_path))
    settings = json.loads((outcome.output / "preprocessing/1/settings.json").read_text())
    assert (settings["limits"]["max_image_pixels"], settings["limits"]["max_input_len"]) == (1_000_000, 1024)
    assert "--limit image-pixels=1000000" in (outcome.output / "build_engines.sh").read_text()
    assert json.loads((outcome.output / "manifest.json").read_text())["options"]["limits"] == dict(asked)


def test_limits_of_engines_can_only_be_lowered() -> None:
    most = limits("llava")[0].max_seq_len
    assert limits("llava", ("seq-len", most))[1] == []
    [problem] = limits("llava", ("seq-len", most + 1))[1]
    assert str(most) in problem and str(most + 1) in problem


def test_a_prompt_fits_into_its_sequence_and_an_image_into_a_prompt() -> None:
    decided, findings = limits("llava", ("seq-len", 800))
    assert (decided.max_input_len, decided.max_seq_len, findings) == (799, 800, [])
    [problem] = limits("llava", ("seq-len", 300))[1]
    assert "299 tokens are left for a prompt, and one image takes 576" in problem


@pytest.mark.parametrize(
    ("model", "name"), [("llava", "video-frames"), ("video-neva", "image-bytes"), ("blip2-t5", "seq-len")]
)
def test_a_limit_that_does_not_apply_is_refused_by_name(model: str, name: str) -> None:
    [problem] = limits(model, (name, 5))[1]
    assert repr(name) in problem and "it has " in problem


@pytest.mark.parametrize(
    "text", ["image-pixels", "image-pixels=", "image-pixels=-1", "image-pixels=0", "image-pixels=1e9"]
)
def test_limits_are_whole_numbers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model", "llava", "--limit", text])
    assert ended.value.code == 2 and "NAME=N" in capsys.readouterr().err


def test_images_are_counted_before_any_is_decoded(tmp_path: Path) -> None:
    step = serving.load_step("preprocessing", tmp_path, serving.settings(pixels=serving.SMALL_PIXELS))
    message = refusal(step, image_encoded_input=words([b"not an image"] * 5))
    assert message.startswith("5 images, allowed are 4: send fewer")


def test_base64_is_measured_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = file()
    read = ImageReader({**serving.settings()["limits"], "max_image_bytes": len(content)}, [])
    uri = b"data:image/png;base64," + base64.b64encode(content)
    assert read(Source("image_url_input", "image 0", uri)).mode == "RGB"  # padding is no byte
    monkeypatch.setattr("images.base64.b64decode", pytest.fail)
    with pytest.raises(RequestError, match=rf"{len(content) + 1} bytes, allowed are {len(content)}"):
        read(Source("image_url_input", "image 0", b"data:image/png;base64," + base64.b64encode(content + b"x")))


def test_a_square_is_not_padded_beyond_the_limit(tmp_path: Path) -> None:
    pixels = {"steps": [["pad_square", 1, 2, 3], ["resize_shortest", 8]], "shape": [3, 8, 8]}
    step = serving.load_step("preprocessing", tmp_path, serving.settings(pixels=pixels))
    message = refusal(step, image_encoded_input=words([file(width=5000, height=1)]))
    assert "25000000 pixels, allowed are 16777216" in message


@pytest.mark.parametrize("name", ["stop_words", "bad_words", "embedding_bias_words"])
def test_word_lists_are_bounded(tmp_path: Path, name: str) -> None:
    step = serving.load_step("preprocessing", tmp_path, serving.settings(pixels=serving.SMALL_PIXELS))
    assert f"{name} holds 1025 words, allowed are 1024" in refusal(step, **{name: words(["a"] * 1025)})
    assert f"{name} holds a word of 257 characters, allowed are 256" in refusal(step, **{name: texts("a" * 257)})


def clip(frames: int, rate: int, width: int = 32, kind: str = "matroska", codec: str = "ffv1") -> bytes:
    content = BytesIO()
    with av.open(content, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 32, width, "yuv420p" if codec != "gif" else "rgb8"
        for number in range(frames):
            picture = np.full((32, width, 3), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def video_reader() -> VideoReader:
    bounds = {"max_video_bytes": 1 << 20, "max_video_frames": 20, "max_video_seconds": 5, "max_frame_pixels": 64 * 32}
    layout = {"module": "video_frames", "num_frames": 4, "reverse_channels": False}
    return VideoReader(serving.settings(layout=layout, limits=bounds))


SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"frames": 21, "rate": 10}, "21 or more frames, allowed are 20"),
        ({"frames": 21, "rate": 10, "kind": "mp4", "codec": "mpeg4"}, "21 or more frames, allowed are 20"),
        ({"frames": 12, "rate": 2}, "seconds or more, allowed are 5"),
        ({"frames": 2, "rate": 10, "width": 96}, "frames of 96x32 pixels, allowed are 2048"),
        ({"frames": 2, "rate": 10, "kind": "gif", "codec": "gif"}, "not a readable MP4, WebM, Matroska or AVI file"),
        ({"frames": 2, "rate": 10, "kind": "avi", "codec": "wmv2"}, "codec wmv2: send"),
    ],
)
def test_videos_beyond_the_limits(made: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        video_reader()(Source(ENCODED, "video 0", clip(**made)))


@pytest.mark.parametrize(
    "text",
    [
        SDP,
        "ffconcat version 1.0\nfile /etc/hostname\n",
        "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    ],
)
def test_lists_of_other_places_are_not_followed(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(RequestError, match="not a readable MP4, WebM, Matroska or AVI file"):
        video_reader()(Source(ENCODED, "video 0", text.encode()))
    assert time.monotonic() - started < 2  # unbridled, ffmpeg waits for the network stream


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("matroska", "ffv1"), ("mp4", "mpeg4"), ("avi", "mpeg4"), ("webm", "libvpx-vp9"), ("mp4", "libx264")],
)
def test_videos_within_the_limits(kind: str, codec: str) -> None:
    content = clip(20, 10, kind=kind, codec=codec)
    assert video_reader()(Source(ENCODED, "video 0", content)).size == (32, 32)


def test_the_pixels_of_an_image_are_known_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ImageReader({**serving.settings()["limits"], "max_image_pixels": 119}, [])
    monkeypatch.setattr(Image.Image, "convert", pytest.fail)
    with pytest.raises(RequestError, match="12x10 pixels, allowed are 119"):
        read(Source("image_encoded_input", "image 0", file()))
