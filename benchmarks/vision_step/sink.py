"""A model of the benchmark: takes the table as the language model does, and tells some of its values if asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from torch.utils import dlpack

VALUES = 64  # spread over the table; repository.py declares as many, which the server's Python cannot import


class TritonPythonModel:
    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """values [1, 64] FP32 (zeros unless `look`, [1, 1], is 1), and where the table lay: on_gpu [1, 1]."""
        responses = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "prompt_embedding_table")
            values = np.zeros((1, VALUES), dtype=np.float32)
            if pb_utils.get_input_tensor_by_name(request, "look").as_numpy().item():
                table: torch.Tensor = dlpack.from_dlpack(tensor.to_dlpack())
                flat = table.flatten()
                values[0] = flat[:: flat.numel() // VALUES][:VALUES].float().cpu().numpy()
            on_gpu = np.array([[not tensor.is_cpu()]], dtype=np.int32)
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("values", values), pb_utils.Tensor("on_gpu", on_gpu)])
            )
        return responses
