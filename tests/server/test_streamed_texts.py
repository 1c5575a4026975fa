"""On a real Triton, for every tokenizer family: the pieces of a stream join to the text that comes at once, and both
are what the tokenizer's own library makes of all ids, cut before the first stop word."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from tests.parity.client import strings, tensor
from tests.server.harness import Kept, triton
from tests.server.sampled_answers import Answer, Library, answers, sentencepiece_tokenizer, transformers_tokenizer
from tests.server.text_repository import FAMILIES, ROWS, build, front

TEXTS = 1000
IN_FLIGHT = 2  # requests of ROWS rows each: as many rows as a front has threads

# A busy machine may keep a Python step from running for a second; then Triton takes it for dead and loses its answers.
pytestmark = pytest.mark.flaky(reruns=2, only_rerun=["no answer", "not healthy", "StatusCode.UNAVAILABLE"])


@dataclass
class Told:
    """What came for one row."""

    pieces: list[str] = field(default_factory=list)
    tokens: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with triton(build(tmp_path_factory.mktemp("families") / "repository")) as server:
        yield server


@cache
def library(family: str) -> Library:
    found = FAMILIES[family]
    file = found.folder / found.tokenizer
    if file.suffix == ".nemo":
        return sentencepiece_tokenizer(file, ["<extra_id_1>", "<extra_id_7>"])
    return transformers_tokenizer(file)


@cache
def sampled(family: str) -> list[Answer]:
    return answers(library(family), TEXTS, seed=11)


def request(chosen: list[Answer], stream: bool, **values: NDArray[Any]) -> list[Any]:
    most = max(len(answer.stop_words) for answer in chosen)
    words = [[word.encode() for word in (*answer.stop_words, *[""] * most)][:most] for answer in chosen]
    tensors: dict[str, NDArray[Any]] = {
        "text_input": strings([[json.dumps(answer.ids).encode()] for answer in chosen]),
        "stream": np.full((len(chosen), 1), stream),
        **({"stop_words": strings(words)} if most else {}),
        **values,
    }
    return [tensor(name, array) for name, array in tensors.items()]


def told(url: str, family: str, asked: list[Answer], stream: bool) -> list[Told]:
    """What the family's front tells, asked in requests of ROWS rows, several at a time."""
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    made = [Told() for _ in asked]
    with InferenceServerClient(url) as client, contextlib.ExitStack() as leaving:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        leaving.callback(client.stop_stream, cancel_requests=True)  # a lost answer must not be waited for
        waiting, open_requests = list(reversed(range(0, len(asked), ROWS))), 0
        while open_requests or waiting:
            while open_requests < IN_FLIGHT and waiting:
                start = waiting.pop()
                inputs = request(asked[start : start + ROWS], stream)
                client.async_stream_infer(
                    front(family), inputs, request_id=str(start), enable_empty_final_response=True
                )
                open_requests += 1
            try:
                result, error = arrived.get(timeout=30)
            except queue.Empty:
                raise AssertionError("no answer for 30 s") from None
            assert error is None, error.message()
            response = result.get_response()
            open_requests -= response.parameters["triton_final_response"].bool_param
            text = result.as_numpy("text_output")
            if text is not None:
                row = made[int(response.id) + result.as_numpy("batch_index").item()]
                row.pieces.append(text.item().decode())
                tokens = result.as_numpy("output_tokens")  # not on the last piece, which takes no more tokens
                row.tokens += 0 if tokens is None else tokens.item()
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_join_to_the_text_at_once_and_to_the_library_s(served: Kept, family: str) -> None:
    asked = sampled(family)
    t = time.time()
    streamed = told(served.grpc, family, asked, stream=True)
    print("streamed", time.time() - t)
    t = time.time()
    whole = told(served.grpc, family, asked, stream=False)
    print("whole", time.time() - t)
    print(family, sum(len(t.pieces) for t in streamed), len({a.text for a in asked}))
    for answer, pieces, once in zip(asked, streamed, whole, strict=True):
        assert pieces.text == once.text == answer.text, answer
