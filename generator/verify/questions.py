"""What is asked: the user's own question, or a few that use every way that a model takes pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from generator.findings import EXIT_ENVIRONMENT, EXIT_USAGE, Refused, error
from generator.spec import ModelSpec

SIZES = ((640, 427), (300, 500), (1000, 260))
VIDEO_SIZE, VIDEO_FRAMES = (320, 240), 12
MORE_TEXT = "Answer in one word: which colour covers most of it?"


@dataclass(frozen=True)
class Question:
    """A text (of a model that takes one) about files of images or videos, and how those are called."""

    text: str
    images: tuple[bytes, ...] = ()
    videos: tuple[bytes, ...] = ()
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{', '.join(self.files) or 'no image'}: {self.text!r}"

    @property
    def media(self) -> tuple[bytes, ...]:
        return self.images or self.videos

    def values(self, max_tokens: int, **parameters: object) -> dict[str, object]:
        """The inputs of a request."""
        asked: dict[str, object] = {"text_input": self.text, "max_tokens": max_tokens, **parameters}
        if self.images:
            asked["image_encoded_input"] = list(self.images)
        if self.videos:
            asked["video_encoded_input"] = list(self.videos)
        return asked


def given(text: str | None, images: Sequence[Path], videos: Sequence[Path], spec: ModelSpec) -> Question:
    """The user's own question. Raises Refused for a file that cannot be read."""
    try:
        pictures, clips = (tuple(file.read_bytes() for file in files) for files in (images, videos))
    except OSError as problem:
        what = f"cannot read {problem.filename}: {problem.strerror}"
        raise Refused(
            error("verify", what, problem.filename, "give the path of an image or video file"), exit_code=EXIT_USAGE
        ) from problem
    text = spec.media.question if text is None else text
    return Question(text, pictures, clips, tuple(file.name for file in (*images, *videos)))


def usual(spec: ModelSpec, most_images: int) -> list[Question]:
    """One question about each of several drawn pictures, then about none, and about two, where the model takes that."""
    text = spec.media.question
    if spec.media.input.startswith("video"):
        return [Question(text, videos=(drawn_video(),), files=("a drawn video",))]
    asked = [_about(text, number) for number in range(len(SIZES))]
    if not spec.image_required:
        asked.append(Question("What is a picture?"))
    if most_images > 1:
        asked.append(_about(MORE_TEXT, 0, 1))
    return asked


def _about(text: str, *numbers: int) -> Question:
    """A question about drawn pictures."""
    sizes = (SIZES[number % len(SIZES)] for number in numbers)
    files = tuple(f"a drawn image of {width}x{height}" for width, height in sizes)
    return Question(text, tuple(drawn(number) for number in numbers), files=files)


def drawn(number: int) -> bytes:
    """A made picture with edges, slopes and noise: a JPEG, or a PNG for odd numbers. The same for the same number."""
    from PIL import Image

    content = BytesIO()
    picture = Image.fromarray(_canvas(SIZES[number % len(SIZES)], number))
    picture.save(content, *(("PNG",) if number % 2 else ("JPEG",)))
    return content.getvalue()


def drawn_video() -> bytes:
    """A short made clip. Raises Refused without PyAV, which writes it."""
    try:
        import av
    except ImportError:
        what = "no video was given, and the package av, which would write one, is not installed"
        raise Refused(
            error("verify", what, "--video", "give --video FILE, or pip install av"), exit_code=EXIT_ENVIRONMENT
        ) from None
    content = BytesIO()
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height = VIDEO_SIZE
        stream.pix_fmt = "bgr0"
        for number in range(VIDEO_FRAMES):
            frame = av.VideoFrame.from_ndarray(_canvas(VIDEO_SIZE, number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return content.getvalue()


def _canvas(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    width, height = size
    random = np.random.default_rng(seed)
    slope = np.linspace(0, 200, width)[None, :, None] * random.random(3) + np.linspace(0, 55, height)[:, None, None]
    canvas = slope + random.normal(0, 6, (height, width, 3))
    for _ in range(12):
        left, top = random.integers(0, (width, height))
        right, bottom = left + random.integers(10, width // 2), top + random.integers(10, height // 2)
        canvas[top:bottom, left:right] = random.integers(0, 256, 3)
    levels: NDArray[np.uint8] = canvas.clip(0, 255).astype(np.uint8)
    return levels
