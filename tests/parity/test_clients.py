"""The clients that users have: `gen-repo ask`, HTTP generate_stream, and a stream that is cancelled half-way."""

from __future__ import annotations

import json
import queue
import time
import urllib.request
from base64 import b64encode
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient

from generator import ask
from tests.parity.client import ask_stream, inputs, tokens
from tests.parity.conftest import MAX_TOKENS, Served


def test_ask_prints_the_oracles_answer(served: Served) -> None:
    index = next(i for i, c in enumerate(served.cases) if c.images)
    case = served.cases[index]
    pieces = list(ask.ask(served.grpc, "ensemble", case.text, case.images, max_tokens=MAX_TOKENS))
    assert "".join(pieces) == served.expected[index]


def test_ask_streams(streaming: Served) -> None:
    index = next(i for i, c in enumerate(streaming.cases) if c.images)
    case = streaming.cases[index]
    pieces = list(
        ask.ask(streaming.grpc, "tensorrt_llm_bls", case.text, case.images, max_tokens=MAX_TOKENS, stream=True)
    )
    assert len(pieces) > 3 and "".join(pieces) == streaming.expected[index]


def test_generate_stream_sends_events_that_join_to_the_answer(streaming: Served) -> None:
    index = next(i for i, c in enumerate(streaming.cases) if len(c.images) == 1)
    case = streaming.cases[index]
    body = {
        "text_input": case.text,
        "image_url_input": "data:image/jpeg;base64," + b64encode(case.images[0]).decode(),
        "max_tokens": MAX_TOKENS,
        "stream": True,
    }
    url = f"http://{streaming.http}/v2/models/tensorrt_llm_bls/generate_stream"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - our own server
        lines = response.read().decode().splitlines()
    events: list[dict[str, Any]] = [
        json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")
    ]
    assert len(events) > 3
    assert "".join(event.get("text_output", "") for event in events) == streaming.expected[index]


def test_cancelled_stream_frees_the_model(streaming: Served) -> None:
    """A request for a very long answer is cancelled after its first piece; the LLM is free again at once."""
    case = streaming.cases[0]
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    request = inputs([case], max_tokens=tokens(1500), stream=np.array([[True]]), end_id=np.array([[-1]], np.int32))
    with InferenceServerClient(streaming.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("tensorrt_llm_bls", request)
        answers.get(timeout=60)
        client.stop_stream(cancel_requests=True)
    time.sleep(0.5)  # the front sees the cancel within a poll, the LLM stops within a token
    start = time.monotonic()
    pieces, errors = ask_stream(streaming.grpc, "tensorrt_llm_bls", [case], MAX_TOKENS, stream=True)
    assert not errors and "".join(pieces[0]) == streaming.expected[0]
    with InferenceServerClient(streaming.grpc) as client:
        assert client.is_server_ready()
    assert answers.qsize() < 1500, f"{answers.qsize()} pieces came after the cancel, {time.monotonic() - start:.1f} s"
