"""Reading the tensors of a request, and answering requests one by one.

One bad request of a batch must never harm its neighbours, and an answer must never show a client the
inside of the server. Every Python step of the repository therefore reads and answers through this module.
"""

from __future__ import annotations

import re
import secrets
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

REASONS = ("request", "limit", "image", "video", "url")
INTERNAL = (
    "internal error: send it again, or tell the operator the id at the end, under which the server's log has more"
)
ERROR_ID = re.compile(r"\[error [0-9a-f]{8}\]")


class RequestError(ValueError):
    """What is wrong with one request and what to do about it: the text goes to the client of that request.

    `reason`, one of REASONS, is for the server's metrics: what the request is, or what it holds, was refused.
    """

    def __init__(self, message: str, reason: str = "request") -> None:
        super().__init__(message)
        self.reason = reason


def optional(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any] | None:
    """Input `name` as a numpy array of its wire shape, or None when the request does not carry it."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def strings(array: NDArray[Any], name: str) -> list[str]:
    """The entries of a BYTES array of any shape, in row-major order, decoded from UTF-8.

    Raises RequestError, naming the tensor, when an entry is not valid UTF-8.
    """
    try:
        return [entry if isinstance(entry, str) else bytes(entry).decode() for entry in array.reshape(-1)]
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not valid UTF-8: send text encoded as UTF-8") from None


def row_values(request: pb_utils.InferenceRequest, name: str, batch: int) -> NDArray[Any]:
    """Input `name` of shape [batch, k]; [batch, 0] when it is absent. Raises RequestError for another shape."""
    array = optional(request, name)
    if array is None:
        return np.empty((batch, 0), dtype=np.object_)
    if array.ndim != 2 or len(array) != batch:
        raise RequestError(f"{name} has shape {list(array.shape)}: send [{batch},k]")
    return array


def row_strings(request: pb_utils.InferenceRequest, name: str, batch: int) -> list[list[str]]:
    """The strings of each of the `batch` rows of input `name`; none when it is absent. Raises RequestError."""
    return [strings(row, name) for row in row_values(request, name, batch)]


def column(request: pb_utils.InferenceRequest, name: str, batch: int, default: Any) -> list[Any]:
    """One Python value for each of the `batch` rows of input `name`, which has shape [batch, 1].

    An absent or empty input gives `default` for each row. BYTES entries become str.
    Raises RequestError when the input holds another number of values than one per row.
    """
    array = optional(request, name)
    if array is None or array.size == 0:
        return [default] * batch
    if array.size != batch:
        raise RequestError(f"{name} holds {array.size} values for {batch} row(s): send shape [{batch},1]")
    return strings(array, name) if array.dtype == np.object_ else array.reshape(-1).tolist()


def scalar(request: pb_utils.InferenceRequest, name: str, default: Any) -> Any:
    """The single value of input `name` of shape [1,1] as a Python value; `default` when it is absent.

    Raises RequestError when the input holds more than one value.
    """
    return column(request, name, 1, default)[0]


def failed(error: Exception) -> pb_utils.InferenceResponse:
    """The error response to one request.

    A RequestError is shown to the client as INVALID_ARG. Anything else is a defect of the server: the client
    gets INTERNAL, and the traceback is logged.
    """
    if isinstance(error, RequestError):
        # Parts of the request may be quoted in it: Triton cuts a text at its first NUL, and logs are read line by line.
        text = "".join(character if character.isprintable() else "?" for character in str(error))
        return error_response(text, pb_utils.TritonError.INVALID_ARG)
    cause = "".join(traceback.format_exception(error))
    return error_response(INTERNAL, pb_utils.TritonError.INTERNAL, cause)


def error_response(message: str, code: int, cause: str = "") -> pb_utils.InferenceResponse:
    """An error with a random id at its end. Under it the log has the `cause`, or the message of a client's mistake."""
    mark = f"[error {secrets.token_hex(4)}]"
    if cause:
        pb_utils.Logger.log_error(f"{mark} {cause}")
    else:
        pb_utils.Logger.log_info(f"{mark} refused: {message}")
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(f"{message} {mark}", code))


def answer_each(
    requests: Sequence[pb_utils.InferenceRequest],
    answer: Callable[[pb_utils.InferenceRequest], list[pb_utils.Tensor]],
    on_error: Callable[[Exception], None] | None = None,
) -> list[pb_utils.InferenceResponse]:
    """One response per request, in order: the tensors that `answer` returns, or the error that it raises."""
    responses = []
    for request in requests:
        try:
            responses.append(pb_utils.InferenceResponse(output_tensors=answer(request)))
        except Exception as error:
            if on_error is not None:
                on_error(error)
            responses.append(failed(error))
    return responses
