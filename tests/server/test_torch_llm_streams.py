"""The torch `tensorrt_llm` step with the decoupled policy on a real Triton: streams, batches, stop and cancel."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.server.torch_llm import (
    PROMPTS,
    VOCAB,
    Running,
    answer,
    ask,
    concatenated,
    served,
    stream,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpcclient.InferenceServerClient]:
    checkpoint = tmp_path_factory.mktemp("tiny_llama")
    write_checkpoint(checkpoint)
    with served(checkpoint, tmp_path_factory.mktemp("repository")) as connection:
        yield connection


@pytest.fixture
def start(client: Any) -> Iterator[Callable[..., Running]]:
    """Starts long requests, start(request id, **tensors), and closes their connections after the test."""
    started: list[Running] = []

    def begin(request_id: str, **more: Any) -> Running:
        started.append(Running(client, request_id, **more))
        return started[-1]

    yield begin
    for running in started:
        running.connection.close()


def test_streamed_tokens_equal_the_whole_answer(client: Any) -> None:
    full = answer(client, PROMPTS[9])
    responses = stream(client, PROMPTS[9], streaming=True, return_log_probs=True)
    assert len(responses) == 12 and all(own.as_numpy("batch_index") is None for own in responses)
    assert concatenated(responses) == full
    whole = ask(client, PROMPTS[9], return_log_probs=True)
    log_probs = np.concatenate([response.as_numpy("output_log_probs")[0, 0] for response in responses])
    np.testing.assert_array_equal(log_probs, whole.as_numpy("output_log_probs")[0, 0])
    assert responses[-1].as_numpy("cum_log_probs") == whole.as_numpy("cum_log_probs")
    ended = stream(client, PROMPTS[9], streaming=True, end_id=full[5])
    assert concatenated(ended) == full[: full.index(full[5])]
    assert ended[-1].as_numpy("sequence_length").tolist() == [[0]]
    not_streamed = stream(client, PROMPTS[9])
    assert len(not_streamed) == 1 and concatenated(not_streamed) == full


def test_rows_of_a_batch_equal_single_requests(client: Any) -> None:
    prompts = [random.Random(seed).choices(range(3, VOCAB), k=9) for seed in range(3)]
    lengths = np.array([[9], [4], [7]])
    singles = [answer(client, prompt[: lengths[row, 0]]) for row, prompt in enumerate(prompts)]
    for streaming in (True, False):
        responses = stream(client, prompts, input_lengths=lengths, streaming=streaming)
        rows: dict[int, list[Any]] = {0: [], 1: [], 2: []}
        for response in responses:
            rows[int(response.as_numpy("batch_index")[0, 0])].append(response)
        assert [concatenated(own) for own in rows.values()] == singles


def test_errors_end_the_stream(client: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"embedding_bias has 3 entries.* 96 tokens"):
        stream(client, PROMPTS[0], embedding_bias=np.zeros((1, 3)))


def test_stop_ends_the_running_requests_of_its_id(client: Any, start: Callable[..., Running]) -> None:
    stopped, other = start("a", streaming=True), start("b", streaming=True)
    stopped.received.get(timeout=20)
    other.received.get(timeout=20)
    stop = start("a", stop=True)
    assert stop.ended.wait(10) and stopped.ended.wait(10)
    assert not stop.received.get().get_response().outputs
    assert stopped.received.qsize() < 400 and not other.ended.is_set()
    start("b", stop=True)
    assert other.ended.wait(10)
    assert start("unknown", stop=True).ended.wait(10)
    with pytest.raises(InferenceServerException, match="request ID is not provided"):
        ask(client, PROMPTS[0], stop=True)


def test_cancelled_requests_stop_between_tokens(client: Any, start: Callable[..., Running]) -> None:
    """Four cancelled requests free the four threads long before their 480 tokens are done."""
    started = time.monotonic()
    stream(client, PROMPTS[0], 480)
    whole = time.monotonic() - started
    running = [start(f"c{index}", streaming=True) for index in range(4)]
    for own in running:
        own.received.get(timeout=20)
        own.connection.stop_stream(cancel_requests=True)
    started = time.monotonic()
    stream(client, PROMPTS[0], 2)
    assert time.monotonic() - started < whole


def test_rows_that_wait_are_bounded(client: Any, start: Callable[..., Running]) -> None:
    """Of nine requests of eight long rows each, 4 rows run and 64 may wait: one request is refused, the others go on."""
    running = [start(f"row{number}", prompt=[PROMPTS[0]] * 8, streaming=True) for number in range(9)]
    deadline, refused = time.monotonic() + 20, []
    while not refused and time.monotonic() < deadline:
        first = [own.received.queue[0] for own in running if own.received.qsize()]
        time.sleep(0.01)
        refused = [answer for answer in first if isinstance(answer, InferenceServerException)]
    [refusal] = refused
    found = re.search(r"8 row\(s\) wanted, (\d+) run or wait of at most 68: send again later", refusal.message())
    assert found and 60 < int(found[1]) <= 64
    for number in range(9):
        start(f"row{number}", stop=True)
    assert sum(own.ended.wait(20) for own in running if refusal not in own.received.queue) == 8
    assert len(concatenated(stream(client, PROMPTS[0], 5))) == 5
