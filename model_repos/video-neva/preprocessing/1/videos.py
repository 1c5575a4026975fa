"""The video inputs of a request, and how one becomes a clip: the frames that the model looks at.

A file is decoded twice: once to count its frames, which its header may not tell, once to keep those that are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils
from media import Source, carries_something
from numpy.typing import NDArray
from PIL import Image
from preprocessing_settings import Settings
from tensors import RequestError, optional

ENCODED, DECODED = "video_encoded_input", "video_bytes_input"
# ffmpeg guesses the format, and would follow those that list further files or describe network streams; its rare
# decoders are seldom looked at.
FORMATS = "mov,mp4,matroska,webm,avi"
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "ffv1")
MARGIN_PIXELS = 1 << 20  # ffmpeg counts what it pads small frames with
LIBAV_OPTIONS = {"format_whitelist": FORMATS, "codec_whitelist": ",".join(CODECS), "protocol_whitelist": "none"}
REFUSED = (
    "image_encoded_input",
    "image_url_input",
    "image_bytes_input",
    "image_input",
    "image_sizes_input",
    "decoder_text_input",
)


class Clip(NamedTuple):
    """The frames that were chosen, in order, mode RGB, all of one size."""

    frames: list[Image.Image]

    @property
    def size(self) -> tuple[int, int]:
        return self.frames[0].size


def sources(request: pb_utils.InferenceRequest, model: str, batch: int) -> list[list[Source]]:
    """The videos of each of the `batch` rows of `request`, not decoded yet.

    Raises RequestError when an input does not apply to this model, when videos come in both inputs, or when an input
    has a wrong number of axes.
    """
    for name in REFUSED:
        if carries_something(optional(request, name)):
            raise RequestError(f"{name} does not apply to {model}, which takes videos: send {ENCODED} or {DECODED}")
    arrays = {name: optional(request, name) for name in (ENCODED, DECODED)}
    given = {name: array for name, array in arrays.items() if array is not None and carries_something(array)}
    if not given:
        return [[] for _ in range(batch)]
    if len(given) > 1:
        raise RequestError(f"videos came in {' and '.join(given)}: send one of them")
    [(name, array)] = given.items()
    expected = 2 if name == ENCODED else 5
    if array.ndim != expected or len(array) != batch:
        raise RequestError(f"{name} has shape {list(array.shape)}: send {expected} axes, {batch} row(s)")
    if name == DECODED:
        array = array[:, None]  # one video per row
    return [
        [
            Source(name, f"video {index}{f' of row {row}' if batch > 1 else ''} in {name}", value)
            for index, value in enumerate(entries)
            if not isinstance(value, bytes) or value  # an empty entry is no video
        ]
        for row, entries in enumerate(array)
    ]


def reader(settings: Settings) -> VideoReader:
    return VideoReader(settings)


class VideoReader:
    """Decodes sources within the limits of `settings`, and chooses frames as its layout says."""

    def __init__(self, settings: Settings) -> None:
        layout: dict[str, Any] = dict(settings["layout"])
        self._num_frames: int = layout["num_frames"]
        self._reverse: bool = layout["reverse_channels"]
        self._max_bytes = settings["limits"]["max_video_bytes"]
        self._most_frames = settings["limits"]["max_video_frames"]
        self._max_pixels = settings["limits"]["max_frame_pixels"]
        # Frames may be larger than the header says, and ffmpeg decodes some to open a file. What is not much too
        # large it may open, so that the error can name the size.
        self._bound = {"max_pixels": str(4 * self._max_pixels + MARGIN_PIXELS)}
        self._max_seconds = settings["limits"]["max_video_seconds"]

    def __call__(self, source: Source) -> Clip:
        """The clip of `source`.

        Raises RequestError, naming the video, when it is refused or cannot be decoded.
        """
        read: dict[str, Callable[[Any], list[NDArray[np.uint8]]]] = {ENCODED: self._decode, DECODED: self._from_array}
        try:
            frames = read[source.tensor](source.value)
        except RequestError as error:
            raise RequestError(f"{source.label}: {error}", "video") from None
        step = -1 if self._reverse else 1
        return Clip([Image.fromarray(np.ascontiguousarray(frame[..., ::step])) for frame in frames])

    def chosen(self, count: int) -> list[int]:
        """Which of `count` frames: spread evenly from the first to the last; the last again where there are too few."""
        spread: list[int] = np.linspace(0, count - 1, min(self._num_frames, count), dtype=int).tolist()
        return spread + spread[-1:] * (self._num_frames - len(spread))

    def _decode(self, file: bytes) -> list[NDArray[np.uint8]]:
        if len(file) > self._max_bytes:
            raise RequestError(f"the file has {len(file)} bytes, allowed are {self._max_bytes}: send a shorter one")
        count = sum(1 for _ in self._decoded(file))
        if count == 0:
            raise RequestError("the file holds no video frames: check or convert it")
        wanted = self.chosen(count)
        from av.video.reformatter import VideoReformatter

        # A frame's own to_ndarray makes one for each frame, and each starts threads.
        converter: Any = VideoReformatter()
        kept: dict[int, NDArray[np.uint8]] = {}
        for number, frame in enumerate(self._decoded(file)):
            if number in wanted:
                kept[number] = converter.reformat(frame, format="rgb24").to_ndarray()
        return [kept[number] for number in wanted]

    def _decoded(self, file: bytes) -> Iterator[Any]:
        """Frames of the first video stream."""
        try:
            import av
        except ImportError:
            raise RequestError(
                f"the server lacks the package av, which decodes videos: install it there (pip install av), or send "
                f"decoded frames in {DECODED}"
            ) from None
        try:
            with av.open(BytesIO(file), options={**LIBAV_OPTIONS, **self._bound}) as container:
                for stream in container.streams.video[:1]:  # what the header says, before anything is decoded
                    stream.codec_context.options = {**stream.codec_context.options, **self._bound}
                    if stream.codec_context.name not in CODECS:  # the option binds ffmpeg's guesses only
                        raise RequestError(f"codec {stream.codec_context.name}: send H.264, HEVC, VP8, VP9 or AV1")
                    self._check(stream.frames, stream.height, stream.width, (container.duration or 0) / av.time_base)
                for number, frame in enumerate(container.decode(video=0)):
                    self._check(number + 1, frame.height, frame.width, frame.time or 0)
                    yield frame
        except RequestError:
            raise
        except Exception:  # decoders raise nearly anything on bytes that are not theirs
            raise RequestError(
                f"not a readable MP4, WebM, Matroska or AVI file with frames of at most {self._max_pixels} pixels: "
                "check or convert it"
            ) from None

    def _from_array(self, array: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        if array.shape[-1] == 3:
            frames = array
        elif array.shape[1] == 3:
            frames = array.transpose(0, 2, 3, 1)
        else:
            raise RequestError(f"shape {list(array.shape)} has no channel axis of size 3: send T,H,W,3 or T,3,H,W")
        count, height, width = frames.shape[:3]
        self._check(count, height, width)
        return [frames[number] for number in self.chosen(len(frames))]

    def _check(self, frames: int, height: int, width: int, seconds: float = 0.0) -> None:
        """`frames` and `seconds` are those seen so far, or what the header says."""
        if frames > self._most_frames:
            raise RequestError(f"{frames} or more frames, allowed are {self._most_frames}: send a shorter video")
        if seconds > self._max_seconds:
            raise RequestError(f"{seconds:.1f} seconds or more, allowed are {self._max_seconds}: send a shorter video")
        if height * width > self._max_pixels:
            raise RequestError(f"frames of {width}x{height} pixels, allowed are {self._max_pixels}: send smaller ones")
