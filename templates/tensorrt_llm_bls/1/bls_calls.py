"""Calling the other steps from the front model, and cutting one row out of a batched tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils

# The server fills pb_utils in only after this module is imported: hence the quotes.
Tensors: TypeAlias = "dict[str, pb_utils.Tensor]"


class StepError(Exception):
    """A step failed; message and code go to the client."""

    def __init__(self, model: str, message: str, code: int) -> None:
        super().__init__(f"{model}: {message}")
        self.code = code


def call(model: str, inputs: Sequence[pb_utils.Tensor], outputs: Sequence[str]) -> Tensors:
    """The outputs of a step that gives one response, by name. Raises StepError."""
    request = pb_utils.InferenceRequest(model_name=model, inputs=inputs, requested_output_names=outputs)
    return _tensors(model, request.exec())


def call_decoupled(
    model: str, inputs: Sequence[pb_utils.Tensor], outputs: Sequence[str], request_id: str
) -> Iterator[Tensors]:
    """The outputs of each response of a decoupled step, by name, as they arrive. Raises StepError.

    A caller that stops iterating does not stop the step: read to the end.
    """
    request = pb_utils.InferenceRequest(
        model_name=model, inputs=inputs, requested_output_names=outputs, request_id=request_id
    )
    for response in request.exec(decoupled=True):
        tensors = _tensors(model, response)
        if tensors:  # the last response may be nothing but the final flag
            yield tensors


def _tensors(model: str, response: pb_utils.InferenceResponse) -> Tensors:
    if response.has_error():
        error = response.error()
        raise StepError(model, error.message(), error.code())
    return {tensor.name(): tensor for tensor in response.output_tensors()}


def renamed(tensor: pb_utils.Tensor, name: str) -> pb_utils.Tensor:
    """A host tensor under another name."""
    return tensor if tensor.name() == name else pb_utils.Tensor(name, tensor.as_numpy())


def row_of(tensor: pb_utils.Tensor, row: int, length: int | None = None) -> pb_utils.Tensor:
    """Row `row` of a tensor [B, ...] as [1, ...]; with `length`, its second axis is cut to that.

    The copy lies where the tensor lies: in host memory, or on its GPU (through DLPack, as BF16 tensors are too).
    """
    try:
        part = tensor.as_numpy()[row : row + 1]
    except pb_utils.TritonModelException:  # on a GPU, or of a type that numpy lacks
        import torch

        return pb_utils.Tensor.from_dlpack(tensor.name(), torch.from_dlpack(tensor)[row : row + 1].clone())
    return pb_utils.Tensor(tensor.name(), np.ascontiguousarray(part if length is None else part[:, :length]))
