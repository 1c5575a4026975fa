"""The clients that users have: `gen-repo ask`, HTTP generate_stream, and a stream that is cancelled half-way."""

from __future__ import annotations

import json
import queue
import time
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from generator import ask, cli
from tests.parity.client import FINAL, Case, ask_stream, inputs, tokens
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


def test_the_command_streams_through_the_front(
    streaming: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = next(i for i, c in enumerate(streaming.cases) if len(c.images) == 1)
    case, picture = streaming.cases[index], tmp_path / "picture"
    picture.write_bytes(case.images[0])
    given = ["--url", streaming.grpc, "--image", str(picture), "--text", case.text, "--max-tokens", str(MAX_TOKENS)]
    assert cli.main(["ask", *given, "--stream"]) == 0
    assert capsys.readouterr().out == streaming.expected[index] + "\n"


@pytest.mark.parametrize("served", ["llava"], indirect=True)
def test_a_repository_that_does_not_stream_says_so(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "--url", served.grpc, "--text", "hello?", "--stream"]) == 3
    said = capsys.readouterr().err
    assert "ensemble does not stream" in said and "--streaming" in said


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


LONG = 1500
ROWS_AT_ONCE = 4  # that the torch LLM works on: what waits behind them shows whether they still run


def long_answer(client: InferenceServerClient, case: Case) -> queue.Queue[tuple[Any, Any]]:
    """Starts a stream of LONG tokens, no fewer, and waits for the first piece."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    length = tokens(LONG)
    request = inputs([case], max_tokens=length, min_tokens=length, stream=np.array([[True]]))
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("tensorrt_llm_bls", request, enable_empty_final_response=True)
    result, error = answers.get(timeout=60)
    assert error is None and not result.get_response().parameters[FINAL].bool_param
    return answers


@pytest.mark.flaky(reruns=2)  # compares times, on a machine that other tests use too
def test_cancelled_streams_free_the_model(streaming: Served) -> None:
    """Streams that fill the LLM are cancelled after their first piece: the next request need not wait for their end."""
    case = streaming.cases[0]
    start = time.monotonic()
    with InferenceServerClient(streaming.grpc) as client:
        answers, final = long_answer(client, case), False
        while not final:
            result, error = answers.get(timeout=120)
            assert error is None
            final = result.get_response().parameters[FINAL].bool_param
        client.stop_stream()
    one_whole = time.monotonic() - start
    clients = [InferenceServerClient(streaming.grpc) for _ in range(ROWS_AT_ONCE)]
    for client in clients:
        long_answer(client, case)
    for client in clients:
        client.stop_stream(cancel_requests=True)
    start = time.monotonic()
    pieces, errors = ask_stream(streaming.grpc, "tensorrt_llm_bls", [case], MAX_TOKENS, stream=True)
    waited = time.monotonic() - start
    assert not errors and "".join(pieces[0]) == streaming.expected[0]
    assert waited < one_whole / 2, f"waited {waited:.1f} s, one whole answer takes {one_whole:.1f} s"
