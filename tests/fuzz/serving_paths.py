"""Paths of a request: each takes one input as a client sends it, and answers it or refuses it with a clear error."""

from __future__ import annotations

import base64
import random
import warnings
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import av
import numpy as np
import triton_python_backend_utils as pb_utils
from entities_text import read as entities
from fixed_rows import ImageLayout
from images import ImageReader
from media import Source
from page_markdown import page_markdown
from table_text import as_csv
from tensors import RequestError
from videos import ENCODED, VideoReader

from tests import hostile
from tests.fuzz.mutate import spoiled
from tests.fuzz.scratch import scratch
from tests.unit import serving
from tests.unit.serving import RequestFailed

warnings.filterwarnings("ignore", module="PIL")  # about files that are damaged, which all of them are
Run = Callable[[random.Random], str]
STEPS = [["on_white"], ["resize_shortest", 8], ["center_crop", 8, 8]]
BOUNDS = {"max_image_bytes": 1 << 16, "max_image_pixels": 1 << 16}
LARGEST_SEED = 4096  # bytes: small inputs are quick, and reach the same code


def judged(act: Callable[[], Any]) -> str:
    """Whether an input was answered or refused. Anything else that is raised is a crash."""
    try:
        act()
    except RequestError as refusal:
        assert ": " in str(refusal) and "Traceback" not in str(refusal) and len(str(refusal)) < 2000
        return "refused"
    except RequestFailed as failure:
        assert failure.code == pb_utils.TritonError.INVALID_ARG, f"answered as a defect of the server: {failure}"
        return "refused"
    return "answered"


@cache
def settings() -> Any:
    return serving.settings(pixels={"steps": STEPS, "shape": [3, 8, 8]}, limits=BOUNDS)


@cache
def image_seeds() -> list[bytes]:
    small = [hostile.encoded(kind, hostile.picture(16, 12)) for kind in hostile.KINDS]
    files = [*small, *hostile.odd().values(), *(content for content, _ in hostile.refused().values())]
    return [content for content in files if len(content) <= LARGEST_SEED]


@cache
def reader() -> Callable[[Source], None]:
    read, layout = ImageReader(settings()["limits"], []), ImageLayout(settings())
    out = np.zeros((1, 3, 8, 8), np.float16)

    def draw(source: Source) -> None:
        image = read(source)
        layout.place(*image.size)
        layout.draw(image, out)

    return draw


def image(rng: random.Random) -> str:
    """A file in image_encoded_input."""
    source = Source("image_encoded_input", "image 0", spoiled(rng, image_seeds()))
    return judged(lambda: reader()(source))


def base64_payload(rng: random.Random) -> str:
    """What follows the comma of a data URI."""
    payload = spoiled(rng, [base64.b64encode(seed) for seed in image_seeds()[:3]])
    source = Source("image_url_input", "image 0", b"data:image/png;base64," + payload)
    return judged(lambda: reader()(source))


def data_uri(rng: random.Random) -> str:
    """A whole value of image_url_input."""
    seeds = [uri for uri in hostile.addresses() if len(uri) < LARGEST_SEED]
    seeds += [serving.data_uri(seed, kind) for seed in image_seeds()[:3] for kind in ("image/png", "IMAGE/WebP; a=b")]
    source = Source("image_url_input", "image 0", spoiled(rng, seeds))
    return judged(lambda: reader()(source))


@cache
def step() -> Any:
    folder = scratch() / "step"
    folder.mkdir()
    return serving.load_step("preprocessing", folder, settings())


def prompt(rng: random.Random) -> str:
    """text_input and what else of a request is text, through the whole step, with no to two images."""
    seeds = [text for text in hostile.texts().values() if len(text) < LARGEST_SEED]
    seeds += [b"USER: <image>\nWhat is in <image>?", "Qué hay aquí? 日本 🙂".encode()]
    request = {"text_input": serving.words([spoiled(rng, seeds)])}
    if rng.random() < 0.5:
        request["apply_chat_template"] = np.array([[False]])
    if rng.random() < 0.2:
        name = rng.choice(("stop_words", "bad_words", "embedding_bias_words"))
        request[name] = serving.words([spoiled(rng, seeds)[:300] for _ in range(rng.randrange(1, 4))])
    if rng.random() < 0.2:
        name = rng.choice(("max_tokens", "end_id", "pad_id", "min_tokens", "min_length"))
        request[name] = np.array([[rng.choice((-(2**31), -1, 0, 1, 299, 300, 2**31 - 1))]], np.int32)
    images = rng.randrange(3)
    if images:
        request["image_input"] = np.zeros((1, images, 3, 8, 8), np.float16)
    return judged(lambda: serving.run(step(), **request))


@cache
def video_reader() -> tuple[VideoReader, list[bytes]]:
    bounds = {"max_video_bytes": 1 << 17, "max_video_frames": 20, "max_video_seconds": 5, "max_frame_pixels": 4096}
    layout = {"module": "video_frames", "num_frames": 4, "reverse_channels": False}
    seeds = []
    for kind, codec in (("matroska", "ffv1"), ("mp4", "mpeg4"), ("avi", "mpeg4"), ("webm", "libvpx-vp9")):
        content = BytesIO()
        with av.open(content, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
            for number in range(3):
                levels = np.full((16, 16, 3), 60 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, format="rgb24")))
            container.mux(stream.encode())
        seeds.append(content.getvalue())
    return VideoReader(serving.settings(layout=layout, limits=bounds)), seeds


def video(rng: random.Random) -> str:
    """A file in video_encoded_input."""
    read, seeds = video_reader()
    source = Source(ENCODED, "video 0", spoiled(rng, seeds))
    return judged(lambda: read(source))


ANSWERS = (
    "# Title\n\n## 1.1 Part\n\n* [1] A. B. C\n* 2. x. y\n\n\\(a\\) (1) \\[x\\] $y$\n\nFootnote 1: thanks: x\n\n",
    "[FOOTNOTE:a]b[ENDFOOTNOTE]\\begin{table}\n\\begin{tabular}{cc} & \\\\ \\end{tabular}\n\\end{table}\n```\ncode\n```\nhttps://a.b/c ",
    "<grounding><phrase>a dog</phrase><object><patch_index_0044><patch_index_0863></delimiter_of_multi_objects/>"
    "<patch_index_0001><patch_index_0002></object> here</image>",
    "TITLE | x \n a | 1 | 2\n b | 3",
)
LONGEST_ANSWER = 2000  # characters


def answer(rng: random.Random) -> str:
    """A text of the model, which a client can make it say: every reading of it gives something."""
    text = spoiled(rng, [sample.encode() for sample in ANSWERS]).decode(errors="replace")
    if rng.random() < 0.3:
        start = rng.randrange(len(text) + 1)
        unit = text[start : start + rng.randrange(1, 12)] or "\n"
        text = text[:start] + unit * (LONGEST_ANSWER // len(unit)) + text[start:]
    page_markdown(text)
    entities(text)
    as_csv(text)
    return "answered"
