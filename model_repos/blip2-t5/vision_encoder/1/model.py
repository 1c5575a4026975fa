"""Pixels to rows of the prompt table, by a TensorRT engine.

All images of all requests of a dynamic batch share one engine call. Rows are cast, cut into tables and handed
to the language model on the GPU.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import freed_memory
import torch
import torch_device
import triton_python_backend_utils as pb_utils
from engine import Engine
from vision_answers import Behind, begin
from vision_rows import Cache, ImagesByRow, VisionRows, cache_of


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine and run its largest batch once.

        That checks the numbers that the repository was generated with, and takes the memory that a full batch
        needs before tensorrt_llm's KV cache can.
        """
        freed_memory.keep()
        settings: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
        device = torch_device.prepare({"device": "auto"}, args)
        constants = None
        if settings["constant_rows"]:
            constants = importlib.import_module(settings["constants"]["module"]).load(settings["constants"])
        self.layout = VisionRows.of(settings, settings["engine"], device, constants)
        self.engine = Engine(settings["engine"], self.layout.image_shape, device, settings["max_batch"])
        self.layout = replace(self.layout, largest=self.engine.largest)
        self.cache: Cache | None = None
        self._tables([[torch.zeros((self.engine.most, *self.layout.smallest()))]])
        with torch.cuda.stream(self.engine.stream):
            self.cache = cache_of(settings, args, device)
        self.engine.stream.synchronize()
        self.behind = Behind.of(self.layout, self.engine.stream)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        """One response per request: rows [B, rows, hidden] in the LLM's dtype, under the name that the settings say.

        They are sent when they are computed, maybe after this has returned.
        """
        self.behind.take(requests, *begin(requests, self.layout, self._tables))

    def finalize(self) -> None:
        self.behind.close()

    def _tables(self, requests: list[ImagesByRow]) -> list[torch.Tensor]:
        """One table per request, complete once the engine's stream is done with what is queued on it."""
        with torch.inference_mode(), torch.cuda.stream(self.engine.stream):
            return self.layout.tables(requests, self.engine, self.cache)
