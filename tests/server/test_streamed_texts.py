"""On a real Triton, for every tokenizer family: the pieces of a stream join to the text that comes at once, and both
are what the tokenizer's own library makes of all ids, cut before the first stop word."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from tests.parity.client import strings, tensor
from tests.server.harness import triton
from tests.server.sampled_answers import Answer, Library, answers, sentencepiece_tokenizer, transformers_tokenizer
from tests.server.text_repository import FAMILIES, ROWS, build, front

TEXTS = 1000
LOST_SECONDS = 15
SERVERS = 3  # of one test, at most


class Lost(Exception):
    """Triton 2.51 takes a Python step that gets no CPU for a second for dead, and its answers are lost."""


Arrived: TypeAlias = "queue.Queue[tuple[Any, Any]]"


@dataclass
class Told:
    """What came for one row."""

    pieces: list[str] = field(default_factory=list)
    tokens: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@cache
def library(family: str) -> Library:
    found = FAMILIES[family]
    file = found.folder / found.tokenizer
    if file.suffix == ".nemo":
        return sentencepiece_tokenizer(file, ["<extra_id_1>", "<extra_id_7>"])
    read = transformers_tokenizer(file)
    if family == "t5":  # Deplot, whose answers spell line breaks so
        return replace(read, decode=lambda ids: read.decode(ids).replace("<0x0A>", "\n"))
    return read


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


def told(client: InferenceServerClient, arrived: Arrived, family: str, asked: list[Answer], stream: bool) -> list[Told]:
    """What the family's front tells of one request with a row per answer. Raises Lost."""
    made = [Told() for _ in asked]
    client.async_stream_infer(front(family), request(asked, stream), enable_empty_final_response=True)
    final = False
    while not final:
        try:
            result, error = arrived.get(timeout=LOST_SECONDS)
        except queue.Empty:
            raise Lost from None
        if error is not None and "not healthy" in error.message():
            raise Lost
        assert error is None, error.message()
        final = result.get_response().parameters["triton_final_response"].bool_param
        text = result.as_numpy("text_output")
        if text is not None:
            index, tokens = result.as_numpy("batch_index"), result.as_numpy("output_tokens")
            row = made[0 if index is None else index.item()]
            row.pieces.append(text.item().decode())
            row.tokens += 0 if tokens is None else tokens.item()  # none on a last piece that takes no more of them
    return made


def told_until(repository: Path, family: str, requests: list[tuple[list[Answer], bool]]) -> Iterator[list[Told]]:
    """What is told of one request after the other, by as many servers as it takes."""
    waiting = list(reversed(requests))
    for _ in range(SERVERS):
        with triton(repository) as server, InferenceServerClient(server.grpc) as client, ExitStack() as leaving:
            arrived: Arrived = queue.Queue()
            client.start_stream(lambda result, error, arrived=arrived: arrived.put((result, error)))
            leaving.callback(client.stop_stream, cancel_requests=True)  # a lost answer must not be waited for
            with suppress(Lost):
                while waiting:
                    yield told(client, arrived, family, *waiting[-1])
                    waiting.pop()
                return
    raise AssertionError(f"{len(waiting)} of {len(requests)} requests unanswered by {SERVERS} servers")


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_join_to_the_text_at_once_and_to_the_library_s(family: str, tmp_path: Path) -> None:
    asked = sampled(family)
    batches = [asked[start : start + ROWS] for start in range(0, TEXTS, ROWS)]
    requests = [(batch, stream) for batch in batches for stream in (True, False)]
    answers_ = told_until(build(tmp_path / "repository", [family]), family, requests)
    pieces = 0
    for batch in batches:
        for answer, streamed, whole in zip(batch, next(answers_), next(answers_), strict=True):
            assert streamed.text == whole.text == answer.text, answer
            assert streamed.tokens >= whole.tokens or not answer.stop_words, answer
            pieces += len(streamed.pieces)
    assert pieces > 2 * TEXTS  # they were streams
