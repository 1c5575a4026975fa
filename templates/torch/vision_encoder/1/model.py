"""Pixels to rows of the prompt table, by the checkpoint's own vision tower in torch.

All images of all requests of a dynamic batch share their forward calls. On a GPU that is one call; on a CPU,
where batching gains little, images run one at a time, so that a row's bits never depend on its company. The
setting `images_per_call` chooses another number.
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
from tensors import RequestError, column, failed
from torch.utils import dlpack


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the tower and run it once, which checks the numbers that the repository was generated with."""
        settings: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
        self.name = settings["model"]
        self.device = torch_device.prepare(settings, args)
        self.dtype: torch.dtype = getattr(torch, settings["dtype"])
        self.table_dtype: torch.dtype = getattr(torch, settings["table_dtype"])
        self.rows_per_image: int = settings["rows_per_image"]
        self.hidden_size: int = settings["hidden_size"]
        self.image_shape = tuple(settings["image_shape"])
        on_cpu = self.device.type == "cpu"
        self.images_per_call: int | None = settings.get("images_per_call") or (1 if on_cpu else None)
        module = importlib.import_module(settings["module"])
        self.tower = module.load(settings["checkpoint"], self.dtype).to(self.device).eval()
        self._check_tower(settings["checkpoint"])

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response per request: prompt_embedding_table [B, rows, hidden] in the LLM's dtype."""
        images: list[torch.Tensor] = []
        counts: list[list[int] | Exception] = []
        for request in requests:
            try:
                per_row = self._images(request)
                images.extend(per_row)
                counts.append([len(row) for row in per_row])
            except Exception as error:
                counts.append(error)
        try:
            rows = self._encode(images) if sum(map(len, images)) else None
        except Exception as error:
            return [failed(own if isinstance(own, Exception) else error) for own in counts]
        responses = []
        start = 0
        for own in counts:
            if isinstance(own, Exception):
                responses.append(failed(own))
                continue
            table = self._table(rows, start, own)
            start += sum(own)
            tensor = pb_utils.Tensor.from_dlpack("prompt_embedding_table", table)
            responses.append(pb_utils.InferenceResponse(output_tensors=[tensor]))
        return responses

    def _images(self, request: pb_utils.InferenceRequest) -> list[torch.Tensor]:
        """The images of each row of the request, [n, 3, S, S] each, without the zero padding.

        Raises RequestError when shapes or counts do not fit the model or each other.
        """
        tensor = pb_utils.get_input_tensor_by_name(request, "pixel_values")
        if tensor is None:
            raise RequestError("pixel_values is not present in the request: send [B, 0, ...] for text only")
        shape = tuple(tensor.shape())
        if shape[2:] != self.image_shape:
            raise RequestError(f"pixel_values has images of shape {shape[2:]}; {self.name} takes {self.image_shape}")
        batch, most = shape[:2]
        num_images = column(request, "num_images", batch, 0)
        num_rows = column(request, "num_rows", batch, 0)
        for images, expected in zip(num_images, num_rows, strict=True):
            if not 0 <= images <= most:
                raise RequestError(f"num_images is {images}, but pixel_values holds {most} image(s) for each row")
            if images * self.rows_per_image != expected:
                produced = images * self.rows_per_image
                raise RequestError(
                    f"num_rows is {expected}, but {images} image(s) of {self.name} give {produced} rows: "
                    "preprocessing and vision_encoder are of different models; generate the repository again"
                )
        if most == 0:
            return [torch.empty((0, *self.image_shape), dtype=self.dtype)] * batch
        pixels = dlpack.from_dlpack(tensor.to_dlpack())
        return [row[:count] for row, count in zip(pixels, num_images, strict=True)]

    def _encode(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Pixels [n, 3, S, S] each, on any device -> rows [sum of n, N, hidden], on the model's device."""
        with torch.inference_mode():
            pixels = torch.cat([part.to(self.device, self.dtype) for part in images])
            calls = pixels.split(self.images_per_call or len(pixels))
            rows = torch.cat([self.tower(call) for call in calls]).to(self.table_dtype)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # the next step reads the rows outside this stream
        return rows

    def _table(self, rows: torch.Tensor | None, start: int, counts: list[int]) -> torch.Tensor:
        """The table [B, rows, hidden] of the request whose images begin at rows[start], counts[b] each."""
        longest = max(1, max(counts, default=0) * self.rows_per_image)  # text only: one zero row, never read
        if rows is not None and len(counts) == 1 and counts[0]:
            return rows[start : start + counts[0]].reshape(1, longest, self.hidden_size)
        table = torch.zeros((len(counts), longest, self.hidden_size), dtype=self.table_dtype, device=self.device)
        for row, count in zip(table, counts, strict=True):
            if rows is not None and count:
                row[: count * self.rows_per_image] = rows[start : start + count].reshape(-1, self.hidden_size)
            start += count
        return table

    def _check_tower(self, checkpoint: str) -> None:
        rows = self._encode([torch.zeros((1, *self.image_shape), dtype=self.dtype)])
        expected = (1, self.rows_per_image, self.hidden_size)
        if tuple(rows.shape) != expected:
            raise ValueError(
                f"{checkpoint} gives rows of shape {tuple(rows.shape)} for one image, this repository was "
                f"generated for {expected}: generate it again with --hf-model-dir {checkpoint}"
            )
