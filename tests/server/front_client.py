"""A client of the front, which sees each response of a stream as it comes."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from generator.server import Server
from tests.server.front_repository import FRONT, PUBLIC, SAMPLING_TYPES


@dataclass
class Response:
    """One response of the front: what it holds, and whether it carries the final flag."""

    final: bool
    text: list[str] = field(default_factory=list)
    row: int | None = None
    log_probs: list[float] | None = None
    error: str | None = None
    input_tokens: int | None = None


class Question:
    """One request on a stream of its own, read response by response."""

    def __init__(self, server: Server, texts: list[str], **values: Any) -> None:
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client = grpc.InferenceServerClient(server.grpc)
        self.client.start_stream(partial(self._keep))
        tensors = {"text_input": np.array([[text.encode()] for text in texts], dtype=object)}
        for name, value in values.items():
            dtype = {"FP32": np.float32, "INT32": np.int32, "UINT64": np.uint64, "BOOL": np.bool_}[
                (PUBLIC | SAMPLING_TYPES)[name]
            ]
            tensors[name] = np.broadcast_to(np.array(value, dtype).reshape(-1, 1), (len(texts), 1)).copy()
        inputs = []
        for name, array in tensors.items():
            kind = (PUBLIC | SAMPLING_TYPES)[name].replace("STRING", "BYTES")
            inputs.append(grpc.InferInput(name, list(array.shape), kind))
            inputs[-1].set_data_from_numpy(array)
        self.client.async_stream_infer(FRONT, inputs, enable_empty_final_response=True)

    def _keep(self, result: Any, error: InferenceServerException | None) -> None:
        self.answers.put((result, error))

    def next(self) -> Response:
        result, error = self.answers.get(timeout=20)
        if error is not None:
            return Response(final=True, error=error.message())
        final = result.get_response().parameters["triton_final_response"].bool_param
        names = ("text_output", "batch_index", "cum_log_probs", "input_tokens")
        text, row, probs, tokens = (result.as_numpy(name) for name in names)
        return Response(
            final,
            [] if text is None else [entry.decode() for entry in text.reshape(-1)],
            None if row is None else row.item(),
            None if probs is None else probs.reshape(-1).tolist(),
            input_tokens=None if tokens is None else tokens.item(),
        )

    def all(self) -> list[Response]:
        responses = [self.next()]
        while not responses[-1].final:
            responses.append(self.next())
        self.client.stop_stream()
        assert self.answers.empty()  # nothing comes after the final flag
        self.client.close()
        return responses

    def cancel(self) -> None:
        self.client.stop_stream(cancel_requests=True)


def whole(responses: list[Response], row: int | None = None) -> str:
    assert [response.error for response in responses] == [None] * len(responses)
    return "".join(piece for response in responses if response.row == row for piece in response.text)
