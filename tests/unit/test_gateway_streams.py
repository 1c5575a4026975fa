"""How the gateway reads the server's streams."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from generator.gateway.triton import Nowhere, Triton, TritonError


class Responses:
    """A refused stream: an error, and then its end."""

    def __init__(self) -> None:
        self.left = [(None, InferenceServerException("[error 0123abcd] max_tokens is 0", "INVALID_ARGUMENT"))]
        self.ended, self.cut = False, False

    def __aiter__(self) -> Responses:
        return self

    async def __anext__(self) -> Any:
        if not self.left:
            self.ended = True
            raise StopAsyncIteration
        return self.left.pop()

    def cancel(self) -> None:
        self.cut = not self.ended


def test_a_refused_stream_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a client cancels a stream instead, tritonserver 2.51 keeps the request in memory."""
    responses, triton = Responses(), Triton(Nowhere(1), {})
    face = SimpleNamespace(decoupled=True, streams=True, config=SimpleNamespace(name="front"), inputs=lambda values: [])
    client = SimpleNamespace(stream_infer=lambda requests: responses)

    async def given(what: Any) -> Any:
        return what

    monkeypatch.setattr(triton, "face", lambda: given(face))
    monkeypatch.setattr(triton, "client", lambda: given(client))

    async def pieces() -> list[Any]:
        return [piece async for piece in triton.answer({}, stream=True)]

    with pytest.raises(TritonError, match="max_tokens is 0"):
        asyncio.run(pieces())
    assert responses.ended and not responses.cut
