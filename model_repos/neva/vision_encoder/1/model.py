"""Pixels to rows of the prompt table, by a TensorRT engine.

All images of all requests of a dynamic batch share one engine call. Rows are cast, cut into tables and handed
to the language model on the GPU.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch_device
import triton_python_backend_utils as pb_utils
from engine import Engine
from safetensors.torch import load_file
from vision_rows import ImagesByRow, VisionRows, answer_together


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine and run its largest batch once.

        That checks the numbers that the repository was generated with, and takes the memory that a full batch
        needs before tensorrt_llm's KV cache can.
        """
        settings: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
        device = torch_device.prepare({"device": "auto"}, args)
        constants = constant_rows(settings["constants"]) if settings["constant_rows"] else None
        self.layout = VisionRows.of(settings, settings["engine"], device, constants)
        self.engine = Engine(settings["engine"], self.layout.image_shape, device, settings["max_batch"])
        self._tables([[torch.zeros((self.engine.most, *self.layout.smallest()))]])

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response per request: prompt_embedding_table [B, rows, hidden] in the LLM's dtype."""
        return answer_together(requests, self.layout.images, self._tables)

    def _tables(self, requests: list[ImagesByRow]) -> list[torch.Tensor]:
        """One table per request, complete when this returns."""
        try:
            with torch.inference_mode(), torch.cuda.stream(self.engine.stream):
                return self.layout.tables(requests, self.engine)
        finally:  # the next step reads the tables outside this stream, and the pixels go back to the server
            self.engine.stream.synchronize()


def constant_rows(constants: dict[str, Any]) -> torch.Tensor:
    """The rows [c, hidden] of the file that the vision engine's build wrote beside it, in the order of the names.

    Raises FileNotFoundError, with the remedy, when there is no such file.
    """
    if not Path(constants["file"]).is_file():
        raise FileNotFoundError(
            f"{constants['file']} does not exist: build the vision engine again with build_engines.sh, which writes it"
        )
    stored = load_file(constants["file"])
    return torch.stack([stored[name].reshape(-1) for name in constants["names"]])
