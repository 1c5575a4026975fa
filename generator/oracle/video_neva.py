"""Video NeVA: frames of a clip through NeVA's parts, with a linear projector, and Nemotron."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from generator.oracle.common import Checkpoint
from generator.oracle.neva import BFloat16, NevaOracle

Video = bytes | NDArray[np.uint8]
"""A video file, or decoded RGB frames [T, H, W, 3]."""


class VideoNevaOracle(NevaOracle):
    """Truth of a folder with nemotron.nemo, projector.nemo and the tower's folder. Each request has one clip.

    Frames are RGB, as later releases of NeMo train and infer; NVIDIA's runner reverses the channels.
    """

    before = (
        "<extra_id_0>System\n"
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.\n\n"
        "<extra_id_1>User"
    )
    after = (
        "\n{text}\n<extra_id_1>Assistant\n"
        "<extra_id_2>quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:4,"
        "verbosity:4\n"
    )

    def __init__(self, folder: Path, language_model: str = "nemotron.nemo", projector: str = "projector.nemo") -> None:
        super().__init__(folder, language_model, projector)
        self.num_frames = int(self.config["data"]["num_frames"])

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> VideoNevaOracle:
        if not checkpoint.folder.is_file():
            return cls(checkpoint.folder)
        return cls(checkpoint.folder.parent, checkpoint.folder.name, str(checkpoint.projector or "projector.nemo"))

    @property
    def rows_per_image(self) -> int:
        return self.num_frames * super().rows_per_image

    def pixels(self, images: Sequence[Any]) -> BFloat16:
        """Frames of clips, [n, num_frames, 3, S, S]."""
        clips = [super(VideoNevaOracle, self).pixels(self.frames(clip)) for clip in images]
        return np.stack(clips)

    def frames(self, video: Video) -> list[NDArray[np.uint8]]:
        """Frames spread evenly from the first to the last; a clip that has too few repeats its last one."""
        clip = video if isinstance(video, np.ndarray) else decode(video)
        chosen = np.linspace(0, len(clip) - 1, min(self.num_frames, len(clip)), dtype=int).tolist()
        chosen += chosen[-1:] * (self.num_frames - len(chosen))
        return [clip[number] for number in chosen]

    def rows(self, pixels: BFloat16) -> BFloat16:
        """[n, num_frames, 3, S, S] to [n, num_frames * patches, h], row = frame * patches + patch."""
        return np.stack([np.concatenate(super(VideoNevaOracle, self).rows(clip)) for clip in pixels])

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        return functional.linear(patches, self.projector["weight"], self.projector["bias"])


def decode(video: bytes) -> NDArray[np.uint8]:
    """All frames of the first video stream, [T, H, W, 3] RGB."""
    import av

    with av.open(BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
