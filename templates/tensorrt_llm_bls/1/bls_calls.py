"""Calling the other steps from the front model, and cutting one row out of a batched tensor."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils

# The server fills pb_utils in only after this module is imported: hence the quotes.
Tensors: TypeAlias = "dict[str, pb_utils.Tensor]"

POOL_THREADS = 32  # of the python backend, unless --backend-config=python,thread-pool-size=N says otherwise
SPARE_THREADS = 8  # for the front's responses and its calls of other steps


class StepError(Exception):
    """A step failed; message and code go to the client."""

    def __init__(self, model: str, error: pb_utils.TritonError) -> None:
        message = re.sub(r"^in ensemble '[^']*', ", "", error.message())
        super().__init__(f"{model}: {message}")
        self.code = error.code()


def call(model: str, inputs: Sequence[pb_utils.Tensor], outputs: Sequence[str]) -> Tensors:
    """The outputs of a step that gives one response, by name. Raises StepError."""
    request = pb_utils.InferenceRequest(model_name=model, inputs=inputs, requested_output_names=outputs)
    response = request.exec()
    if response.has_error():
        raise StepError(model, response.error())
    return {tensor.name(): tensor for tensor in response.output_tensors()}


def run_to_end(
    model: str, inputs: Sequence[pb_utils.Tensor], outputs: Sequence[str], request_id: str, *, blame: str
) -> None:
    """Run a decoupled model whose responses nobody reads here, until its end. Raises StepError in the name of `blame`.

    It must answer with its end alone. In Triton 24.10 to 26.06 a response that arrives while one thread waits for
    another's can lock the process up for ever: ResponseIterator::Next takes the interpreter's lock while it holds its
    own, which the thread that delivers responses waits for, holding the lock of the table that every new call needs.
    """
    request = pb_utils.InferenceRequest(
        model_name=model, inputs=inputs, requested_output_names=outputs, request_id=request_id
    )
    for response in request.exec(decoupled=True):
        if response.has_error():
            raise StepError(blame, response.error())


def callable_at_once() -> int:
    """How many rows may be in the LLM: a call holds one of the python backend's threads in the server until it ends,
    and with none left no response can be sent either."""
    arguments = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace")
    sizes: list[str] = re.findall(r"\bpython,thread-pool-size=(\d+)", arguments)
    return max(1, int(sizes[-1] if sizes else POOL_THREADS) - SPARE_THREADS)


def renamed(tensor: pb_utils.Tensor, name: str) -> pb_utils.Tensor:
    """A host tensor under another name."""
    return tensor if tensor.name() == name else pb_utils.Tensor(name, tensor.as_numpy())


def retitled(tensor: pb_utils.Tensor, name: str) -> pb_utils.Tensor:
    """The same memory under another name, on a GPU or the host, whatever the type."""
    return tensor if tensor.name() == name else pb_utils.Tensor.from_dlpack(name, tensor)


def copied(tensor: pb_utils.Tensor) -> pb_utils.Tensor:
    """A host tensor for another thread: two calls must not share one, whose way into shared memory is not guarded."""
    return pb_utils.Tensor(tensor.name(), tensor.as_numpy().copy())


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
