"""Bad requests and good ones in one dynamic batch, step by step: each bad one gets its own error, each good one the
oracle's answer. That they ran together is read from the server's statistics. (Of the vision step in test_torch_vision.)
"""

from __future__ import annotations

import contextlib
import queue
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from generator.oracle import LlavaOracle
from tests import photos
from tests.parity.client import MAX_TOKENS, strings, tensor, tokens
from tests.parity.conftest import SUBJECTS, repository
from tests.server.harness import executions, triton

SUBJECT = SUBJECTS["llava"]
ERROR_ID = r"\[error [0-9a-f]{8}\]"
STEPS = ("preprocessing", "tensorrt_llm", "postprocessing")
TOGETHER = "dynamic_batching { max_queue_delay_microseconds: 20000000 }"  # or until max_batch_size have come
BATCH = 8  # the generated max_batch_size
NAMES = photos.names()[:4]
TEXT = photos.PROMPTS[0]


@pytest.fixture(scope="module")
def oracle() -> LlavaOracle:
    return LlavaOracle(SUBJECT.path)


def waiting(folder: Path, *, streaming: bool = False) -> Path:
    """A repository whose steps wait for a whole batch, each in one instance."""
    repository(SUBJECT, folder, streaming=streaming)
    for step in STEPS:
        config = folder / step / "config.pbtxt"
        text = re.sub(r"^dynamic_batching .*\n", "", config.read_text(), flags=re.MULTILINE)
        assert f"max_batch_size: {BATCH}" in text
        config.write_text(re.sub(r"count: \d+", "count: 1", text) + TOGETHER + "\n")
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServerClient]:
    folder = waiting(tmp_path_factory.mktemp("batch") / "llava")
    with triton(folder) as server, InferenceServerClient(server.grpc) as connection:
        yield connection


def together(client: InferenceServerClient, step: str, requests: list[list[InferInput]]) -> list[Any]:
    """The result or the error of each of BATCH requests, which share one call of the step's execute()."""
    assert len(requests) == BATCH
    before = executions(client, step)
    answers: list[queue.Queue[Any]] = [queue.Queue() for _ in requests]
    for request, own in zip(requests, answers, strict=True):
        client.async_infer(step, request, lambda result, error, own=own: own.put(error or result))
    found = [own.get(timeout=60) for own in answers]
    assert executions(client, step) == before + 1
    return found


def refused(answer: Any, message: str) -> None:
    """With an error of its own, which the client can repair."""
    assert isinstance(answer, InferenceServerException), answer
    assert re.fullmatch(rf".*{message}.* {ERROR_ID}", str(answer.message())), answer
    assert answer.status() in (None, "StatusCode.INVALID_ARGUMENT")  # None within a stream


def integers(name: str, *values: int) -> InferInput:
    return tensor(name, np.array([values], np.int32))


def test_preprocessing(client: InferenceServerClient, oracle: LlavaOracle) -> None:
    whole = photos.encoded(NAMES[0])
    cut = whole[: len(whole) // 2]
    tried: list[tuple[bytes, bytes, int, str]] = [
        (TEXT.encode(), photos.encoded(NAMES[0]), MAX_TOKENS, ""),
        (TEXT.encode(), b"no picture", MAX_TOKENS, "image 0 in image_encoded_input: not a readable JPEG"),
        (TEXT.encode(), photos.encoded(NAMES[1]), MAX_TOKENS, ""),
        (b"\xff\xfe", photos.encoded(NAMES[1]), MAX_TOKENS, "text_input is not valid UTF-8"),
        (TEXT.encode(), cut, MAX_TOKENS, "image 0 in image_encoded_input: the file is truncated or damaged"),
        (TEXT.encode(), photos.encoded(NAMES[2]), MAX_TOKENS, ""),
        (TEXT.encode(), photos.encoded(NAMES[2]), -1, "max_tokens is -1"),
        (TEXT.encode(), photos.encoded(NAMES[3]), MAX_TOKENS, ""),
    ]
    requests = [
        [
            tensor("text_input", strings([[text]])),
            tensor("image_encoded_input", strings([[file]])),
            tensor("max_tokens", tokens(count)),
        ]
        for text, file, count, _ in tried
    ]
    for answer, (_, file, _, message) in zip(together(client, "preprocessing", requests), tried, strict=True):
        if message:
            refused(answer, message)
            continue
        ids, wanted = answer.as_numpy("input_ids")[0], np.array(oracle.ids(TEXT, [file]))
        np.testing.assert_array_equal(ids[wanted != oracle.image_id], wanted[wanted != oracle.image_id])
        np.testing.assert_array_equal(answer.as_numpy("pixel_values")[0], oracle.pixels([file]))


def question(oracle: LlavaOracle, name: str, table: NDArray[np.float16], **changes: Any) -> list[InferInput]:
    """A request to the LLM step about one picture, the oracle's own ids and rows in it."""
    ids = np.array(oracle.ids(TEXT, [photos.encoded(name)]))
    seen = ids == oracle.image_id
    ids[seen] = oracle.model.get_input_embeddings().num_embeddings + np.arange(seen.sum())
    values = {"end_id": oracle.end_ids[0], "request_output_len": MAX_TOKENS, "input_lengths": len(ids)} | changes
    return [
        tensor("input_ids", ids[None].astype(np.int32)),
        tensor("prompt_embedding_table", table[None]),
        *(integers(name, value) for name, value in values.items()),
    ]


def questions(oracle: LlavaOracle) -> list[tuple[list[InferInput], str]]:
    """Requests to the LLM step, those about NAMES in order among bad ones, and what is wrong with each."""
    tables = {name: np.concatenate(oracle.rows(oracle.pixels([photos.encoded(name)]))) for name in NAMES}
    few, wide = tables[NAMES[1]][:-1], np.pad(tables[NAMES[3]], ((0, 0), (0, 1)))
    return [
        (question(oracle, NAMES[0], tables[NAMES[0]]), ""),
        (question(oracle, NAMES[1], few), rf"asks for row {len(few)} of the prompt table, which has {len(few)} rows"),
        (question(oracle, NAMES[1], tables[NAMES[1]]), ""),
        (question(oracle, NAMES[2], tables[NAMES[2]], request_output_len=0), "request_output_len is 0"),
        (question(oracle, NAMES[2], tables[NAMES[2]], input_lengths=9999), "input_lengths is 9999"),
        (question(oracle, NAMES[2], tables[NAMES[2]]), ""),
        (question(oracle, NAMES[3], wide), "prompt_embedding_table has shape"),
        (question(oracle, NAMES[3], tables[NAMES[3]]), ""),
    ]


def check_tokens(oracle: LlavaOracle, answers: list[Any], messages: list[str]) -> None:
    """The oracle's tokens about NAMES in order, and between them the refusals."""
    names = iter(NAMES)
    for answer, message in zip(answers, messages, strict=True):
        if message:
            refused(answer, message)
            continue
        length = int(answer.as_numpy("sequence_length")[0, 0])
        found = answer.as_numpy("output_ids")[0, 0, :length].tolist()
        assert found == oracle.generate(TEXT, [photos.encoded(next(names))], MAX_TOKENS)[0]


def test_tensorrt_llm(client: InferenceServerClient, oracle: LlavaOracle) -> None:
    """As generated this step takes one request at a time; here it is given a whole batch of them."""
    tried = questions(oracle)
    answers = together(client, "tensorrt_llm", [request for request, _ in tried])
    check_tokens(oracle, answers, [message for _, message in tried])


def test_tensorrt_llm_that_streams(oracle: LlavaOracle, tmp_path: Path) -> None:
    """The decoupled step, which answers from threads; each client has a stream of its own."""
    tried = questions(oracle)
    answers: list[queue.Queue[Any]] = [queue.Queue() for _ in tried]
    with triton(waiting(tmp_path / "llava", streaming=True)) as server, contextlib.ExitStack() as open_ones:
        clients = [open_ones.enter_context(InferenceServerClient(server.grpc)) for _ in tried]
        before = executions(clients[0], "tensorrt_llm")
        for client, (request, _), own in zip(clients, tried, answers, strict=True):
            client.start_stream(lambda result, error, own=own: own.put(error or result))
            client.async_stream_infer("tensorrt_llm", request)
        found = [own.get(timeout=60) for own in answers]
        assert executions(clients[0], "tensorrt_llm") == before + 1
    check_tokens(oracle, found, [message for _, message in tried])


def test_postprocessing(client: InferenceServerClient, oracle: LlavaOracle) -> None:
    texts = {name: oracle.generate(TEXT, [photos.encoded(name)], MAX_TOKENS) for name in NAMES}
    longest = max(len(ids) for ids, _ in texts.values())
    order = [NAMES[0], None, NAMES[1], None, NAMES[2], None, NAMES[3], None]

    def request(name: str | None) -> list[InferInput]:
        ids = texts[name or NAMES[0]][0]
        padded = np.full((1, 1, longest), -1, np.int32)
        padded[0, 0, : len(ids)] = ids
        word = b"\xc3\x28" if name is None else b"a word that no answer has"
        made = [tensor("output_ids", padded), integers("sequence_length", len(ids))]
        return [*made, tensor("stop_words", strings([[word]]))]

    answers = together(client, "postprocessing", [request(name) for name in order])
    for answer, name in zip(answers, order, strict=True):
        if name is None:
            refused(answer, "stop_words is not valid UTF-8: send text encoded as UTF-8")
        else:
            assert answer.as_numpy("text_output")[0, 0].decode() == texts[name][1]
