"""Pixels to rows of the prompt table, by the checkpoint's own vision tower in torch.

On a GPU all images of all requests of a dynamic batch share one forward call. On a CPU, where batching gains little,
each row of a request has its own, so that the bits never depend on its company: they are those of transformers, which
sees all images of one prompt together.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch_device
import triton_python_backend_utils as pb_utils
from vision_rows import Cache, ImagesByRow, VisionRows, answer_together, cache_of


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the tower and run it once, which checks the numbers that the repository was generated with."""
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
        self.tower = tower.to(self.device).eval()
        constants = module.constants(checkpoint, self.dtype) if settings["constant_rows"] else None
        self.layout = VisionRows.of(settings, checkpoint, self.device, constants)
        self.cache: Cache | None = None
        self._tables([[torch.zeros((1, *self.layout.smallest()))]])
        self.cache = cache_of(settings, args, self.device)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response per request: rows [B, rows, hidden] in the LLM's dtype, under the name that the settings say."""
        return answer_together(requests, self.layout, self._tables)

    def _tables(self, requests: list[ImagesByRow]) -> list[torch.Tensor]:
        """One table per request, complete when this returns."""
        with torch.inference_mode():
            tables = self.layout.tables(requests, self._encode, self.cache, together=self.on_gpu)
        if self.on_gpu:
            torch.cuda.current_stream(self.device).synchronize()  # the next step reads them outside this stream
        return tables

    def _encode(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Entries of one shape, on any device -> rows [n, N, hidden], on the tower's device."""
        rows: torch.Tensor = self.tower(torch.stack([image.to(self.device, self.pixel_dtype) for image in images]))
        return rows
