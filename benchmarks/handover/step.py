"""A vision step without an encoder, which tells how long Triton took between two of its calls.

It takes images and answers as the generated steps do on a GPU (vision_answers.py); a clock stands for the GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import freed_memory
import torch
import triton_python_backend_utils as pb_utils
from vision_answers import Behind, begin
from vision_rows import ImagesByRow, VisionRows

WORKING = 0.03  # seconds of a call, in which the next requests arrive


class Done:
    """The end of a call, which begins when the one before it has ended."""

    last = 0.0

    def __init__(self) -> None:
        Done.last = self._at = max(Done.last, time.perf_counter()) + WORKING

    def synchronize(self) -> None:
        time.sleep(max(0.0, self._at - time.perf_counter()))


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        settings = json.loads(Path(__file__).with_name("settings.json").read_text())
        if settings["keep"]:
            freed_memory.keep()
        torch.set_num_threads(1)
        self.layout = VisionRows(
            "a clock", "none", tuple(settings["image_shape"]), 1, 2, torch.float32, torch.device("cpu")
        )
        self.behind = Behind(self.layout, Done)
        self.left = time.perf_counter()

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        """A table [1, 1, 2] for each request: milliseconds since the call before, and images of this one."""
        between = 1e3 * (time.perf_counter() - self.left)

        def tables(images: list[ImagesByRow]) -> list[torch.Tensor]:
            return [torch.tensor([[[between, len(images)]]]) for _ in images]

        self.behind.take(requests, *begin(requests, self.layout, tables))
        self.left = time.perf_counter()

    def finalize(self) -> None:
        self.behind.close()
