"""Pixels to rows of the prompt table, by the checkpoint's own vision tower in torch.

On a GPU all images of all requests of a dynamic batch share one forward call. On a CPU, where batching gains little,
each row of a request has its own, so that the bits never depend on its company: they are those of transformers, which
sees all images of one prompt together.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import freed_memory
import torch
import torch_device
import triton_python_backend_utils as pb_utils
from recorded import Encode, Recorded
from staging import fill
from vision_answers import Behind, begin, respond
from vision_rows import Cache, ImagesByRow, VisionRows, cache_of


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the tower and run it once, which checks the numbers that the repository was generated with."""
        freed_memory.keep()
        settings: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
        checkpoint = settings["checkpoint"]
        self.device = torch_device.prepare(settings, args)
        self.dtype: torch.dtype = getattr(torch, settings["dtype"])
        self.on_gpu = self.device.type == "cuda"
        module = importlib.import_module(settings["module"])
        tower = module.load(checkpoint, self.dtype)
        self.pixel_dtype = self.dtype
        if "levels" in settings:
            levels = settings["levels"]
            tower = importlib.import_module(levels["module"]).FromLevels(tower, levels, self.dtype)
            self.pixel_dtype = torch.uint8
        self.encode: Encode = tower.to(self.device).eval()
        constants = module.constants(checkpoint, self.dtype) if settings["constant_rows"] else None
        self.layout = VisionRows.of(settings, checkpoint, self.device, constants)
        self.cache: Cache | None = None
        self.stream = torch.cuda.Stream(self.device) if self.on_gpu else None
        with self._on_stream():
            self._tables([[torch.zeros((1, *self.layout.smallest()))]])
            if self.on_gpu and -1 not in self.layout.image_shape:
                self.encode = self._recorded()
        with self._on_stream():  # anew: a recording that failed leaves its own stream behind
            self.cache = cache_of(settings, args, self.device)
        self.behind: Behind | None = None
        if self.stream:
            self.stream.synchronize()
            self.behind = Behind.of(self.layout, self.stream)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse] | None:
        """One response per request: rows [B, rows, hidden] in the LLM's dtype, under the name that the settings say.

        On a GPU they are sent when they are computed, maybe after this has returned None.
        """
        outcomes, images = begin(requests, self.layout, self._tables)
        if self.behind is None:
            return [respond(outcome, self.layout) for outcome in outcomes]
        self.behind.take(requests, outcomes, images)
        return None

    def finalize(self) -> None:
        if self.behind:
            self.behind.close()

    def _tables(self, requests: list[ImagesByRow]) -> list[torch.Tensor]:
        """One table per request, on a GPU complete once the stream is done with what is queued on it."""
        with torch.inference_mode(), self._on_stream():
            return self.layout.tables(requests, self._rows, self.cache, together=self.on_gpu)

    def _on_stream(self) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext()

    def _rows(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Entries of one shape, on any device -> rows [n, N, hidden], on the tower's device."""
        pixels = torch.empty((len(images), *images[0].shape), dtype=self.pixel_dtype, device=self.device)
        fill(pixels, images)
        return self.encode(pixels)

    def _recorded(self) -> Encode:
        try:
            with torch.inference_mode():
                return Recorded(self.encode, self.layout.image_shape, self.pixel_dtype, self.device)
        except RuntimeError as problem:  # slower for a few images, and right all the same
            pb_utils.Logger.log_warn(f"no CUDA graph of {self.layout.model}'s encoder: {problem}")
            return self.encode
