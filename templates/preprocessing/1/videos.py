"""The video inputs of a request, and how one becomes a clip: the frames that the model looks at.

A file's packets are counted, then its frames are decoded and those wanted kept, as if each packet were one frame.
Where that was wrong (some hold hidden frames, or several), they are decoded once more, now that their number is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
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
MOST_SECONDS = 60  # of reading one file: all frames are decoded, and frames that are never shown count nowhere else
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

    def fetching(self, requests: Sequence[pb_utils.InferenceRequest]) -> AbstractContextManager[None]:
        return nullcontext()  # videos come with their requests

    def chosen(self, count: int) -> list[int]:
        """Which of `count` frames: spread evenly from the first to the last; the last again where there are too few."""
        spread: list[int] = np.linspace(0, count - 1, min(self._num_frames, count), dtype=int).tolist()
        return spread + spread[-1:] * (self._num_frames - len(spread))

    def _decode(self, file: bytes) -> list[NDArray[np.uint8]]:
        if len(file) > self._max_bytes:
            raise RequestError(f"the file has {len(file)} bytes, allowed are {self._max_bytes}: send a shorter one")
        end = time.monotonic() + MOST_SECONDS
        expected = sum(1 for packet in self._contents(file, end, decode=False) if packet.size)
        count, kept = self._kept(file, end, self.chosen(expected))
        if count == 0:
            raise RequestError("the file holds no video frames: check or convert it")
        wanted = self.chosen(count)
        if count != expected:
            _, kept = self._kept(file, end, wanted)
        return [kept[number] for number in wanted]

    def _kept(self, file: bytes, end: float, wanted: Sequence[int]) -> tuple[int, dict[int, NDArray[np.uint8]]]:
        """How many frames there are, and those `wanted`, by their number."""
        converter: Any = None
        kept: dict[int, NDArray[np.uint8]] = {}
        count = 0
        for number, frame in enumerate(self._contents(file, end, decode=True)):
            count = number + 1
            if number in wanted:
                if converter is None:  # a frame's own to_ndarray makes one for each frame, and each starts threads
                    from av.video.reformatter import VideoReformatter

                    converter = VideoReformatter()
                kept[number] = converter.reformat(frame, format="rgb24").to_ndarray()
        return count, kept

    def _contents(self, file: bytes, end: float, *, decode: bool) -> Iterator[Any]:
        """Packets of the first video stream, or its frames.

        Raises RequestError when it cannot be read, or not before `end`, on the clock of time.monotonic.
        """
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
                count = 0
                for packet in container.demux(video=0):
                    if time.monotonic() > end:
                        raise RequestError(
                            f"decoding takes more than {MOST_SECONDS} seconds: send a shorter video or smaller frames"
                        )
                    if not decode:
                        yield packet
                        continue
                    for frame in packet.decode():
                        count += 1
                        self._check(count, frame.height, frame.width, frame.time or 0)
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
