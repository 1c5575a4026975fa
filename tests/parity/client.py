"""A plain gRPC client for the parity tests: builds requests, sends them singly, in parallel or over a stream."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

FINAL = "triton_final_response"
MAX_TOKENS = 12


@dataclass(frozen=True)
class Case:
    """One question: its text and its encoded images, and a name for messages."""

    name: str
    text: str
    images: tuple[bytes, ...] = ()


def tensor(name: str, values: NDArray[Any]) -> InferInput:
    made = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def floats(result: Any, name: str) -> NDArray[Any]:
    """An output of floats; one of BF16 as float32, whatever the client makes of it."""
    array: NDArray[Any] = result.as_numpy(name)
    return array.astype(np.float32) if result.get_output(name).datatype == "BF16" else array


def passed_on(result: Any, name: str) -> InferInput:
    """An output as the next step's input, its type kept."""
    values = result.as_numpy(name)
    made = InferInput(name, list(values.shape), result.get_output(name).datatype)
    made.set_data_from_numpy(values)
    return made


def strings(rows: Sequence[Sequence[bytes]]) -> NDArray[np.object_]:
    array = np.empty((len(rows), len(rows[0])), dtype=np.object_)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            array[i, j] = value
    return array


def inputs(cases: Sequence[Case], **values: NDArray[Any]) -> list[InferInput]:
    """The inputs of one request with one row per case; rows without as many images get empty entries."""
    made = [tensor("text_input", strings([[c.text.encode()] for c in cases]))]
    most = max(len(c.images) for c in cases)
    if most:
        padded = [[*c.images, *[b""] * (most - len(c.images))] for c in cases]
        made.append(tensor("image_encoded_input", strings(padded)))
    return made + [tensor(name, value) for name, value in values.items()]


def tokens(count: int, rows: int = 1) -> NDArray[np.int32]:
    return np.full((rows, 1), count, np.int32)


def ask(client: InferenceServerClient, case: Case, max_tokens: int, model: str = "ensemble", **values: Any) -> str:
    """The text of a unary answer."""
    result = client.infer(model, inputs([case], max_tokens=tokens(max_tokens), **values))
    text: bytes = result.as_numpy("text_output").reshape(-1)[0]
    return text.decode()


def refusal(client: InferenceServerClient, model: str, request: list[InferInput]) -> str:
    """The message of the error that the request is answered with; fails when it is answered otherwise."""
    try:
        client.infer(model, request)
    except InferenceServerException as error:
        return str(error.message())
    raise AssertionError("the request was answered instead of refused")


def ask_all(url: str, cases: Sequence[Case], max_tokens: int, threads: int, model: str = "ensemble") -> list[str]:
    """Texts of all cases, asked by `threads` clients at once."""

    def one(case: Case) -> str:
        with InferenceServerClient(url) as client:
            return ask(client, case, max_tokens, model)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, cases))


def ask_stream(
    url: str, model: str, cases: Sequence[Case], max_tokens: int, stream: bool = False, **values: NDArray[Any]
) -> tuple[list[list[str]], list[str]]:
    """Sends the cases as one request with a row each to a decoupled model.

    Returns:
        The pieces of text per row, and the error messages.
    """
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    pieces: list[list[str]] = [[] for _ in cases]
    errors: list[str] = []
    rows = len(cases)
    request = inputs(cases, max_tokens=tokens(max_tokens, rows), stream=np.full((rows, 1), stream), **values)
    with InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(model, request, enable_empty_final_response=True)
        final = False
        while not final:
            result, error = answers.get(timeout=120)
            if error is not None:
                errors.append(str(error.message()))
                break
            response = result.get_response()
            final = response.parameters[FINAL].bool_param
            text = result.as_numpy("text_output")
            if text is not None:
                index = result.as_numpy("batch_index")
                row = 0 if index is None else int(index.reshape(-1)[0])
                pieces[row].append(text.reshape(-1)[0].decode())
        client.stop_stream()
    return pieces, errors
