"""Hostile files, addresses and texts through a real Triton: each gets its own error, and good requests beside them are
answered exactly; odd but sound files are answered as the oracle answers them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from generator.generate import generate
from generator.options import Options
from generator.oracle import LlavaOracle
from tests import hostile, photos
from tests.parity.client import Case, ask, inputs, refusal, strings
from tests.parity.conftest import MAX_TOKENS, SUBJECTS
from tests.server.harness import Kept, triton

GOOD = [Case(name, "What is in the picture?", (photos.encoded(name),)) for name in photos.names()[:2]]


@pytest.fixture(scope="module")
def oracle() -> LlavaOracle:
    return LlavaOracle(SUBJECTS["llava"].path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    options = Options(
        model="llava",
        hf_model_dir=SUBJECTS["llava"].path,
        runtime="torch",
        output=tmp_path_factory.mktemp("hostile") / "llava",
        max_tokens=MAX_TOKENS,
        limits=(("image-pixels", 1 << 24),),
    )
    outcome = generate(options)
    assert not outcome.failed, outcome.findings
    with triton(outcome.output) as running:
        yield running


@pytest.fixture(scope="module")
def good_ones(server: Kept, oracle: LlavaOracle) -> Iterator[list[str]]:
    """Good requests that run all the while; yields the texts that differ from the oracle's, which stay none."""
    expected = {case.name: oracle.generate(case.text, list(case.images), MAX_TOKENS)[1] for case in GOOD}
    wrong: list[str] = []
    answered, done = threading.Event(), threading.Event()

    def keep_asking() -> None:
        with InferenceServerClient(server.grpc) as client:
            while not done.is_set():
                for case in GOOD:
                    try:
                        got = ask(client, case, MAX_TOKENS)
                    except InferenceServerException as error:
                        got = f"error: {error}"
                    if got != expected[case.name]:
                        wrong.append(f"{case.name}: {got!r}, expected {expected[case.name]!r}")
                answered.set()
                done.wait(0.2)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    yield wrong
    answered.wait(120)
    done.set()
    asking.join()
    assert answered.is_set() and not wrong, wrong


def test_every_hostile_file_gets_its_own_error(server: Kept, good_ones: list[str]) -> None:
    with InferenceServerClient(server.grpc) as client:
        for name, (content, pattern) in hostile.refused().items():
            message = refusal(client, "ensemble", inputs([Case(name, "What?", (content,))]))
            assert re.search(pattern, message) and len(message) < 400, f"{name}: {message}"
            assert "Traceback" not in message and "internal error" not in message and "shm" not in message
    assert not good_ones, good_ones


def test_every_hostile_address_gets_its_own_error(server: Kept, good_ones: list[str]) -> None:
    with InferenceServerClient(server.grpc) as client:
        for address, pattern in hostile.addresses().items():
            request = inputs([Case("address", "What?")], image_url_input=strings([[address]]))
            message = refusal(client, "ensemble", request)
            assert re.search(pattern, message) and "internal error" not in message, f"{address[:40]!r}: {message}"
    assert not good_ones, good_ones


def test_odd_texts_are_answered_or_refused_for_what_they_are(server: Kept, good_ones: list[str]) -> None:
    with InferenceServerClient(server.grpc) as client:
        for name, text in hostile.texts().items():
            try:
                client.infer("ensemble", [inputs([Case(name, "")])[0].set_data_from_numpy(strings([[text]]))])
            except InferenceServerException as error:
                assert "internal error" not in str(error.message()), f"{name}: {error}"
    assert not good_ones, good_ones


def test_odd_files_are_answered_as_the_oracle_answers_them(
    server: Kept, oracle: LlavaOracle, good_ones: list[str]
) -> None:
    with InferenceServerClient(server.grpc) as client:
        for name, content in hostile.odd().items():
            expected = oracle.generate("What?", [content], MAX_TOKENS)[1]
            assert ask(client, Case(name, "What?", (content,)), MAX_TOKENS) == expected, name
    assert not good_ones, good_ones


def test_values_that_no_client_should_send(server: Kept, good_ones: list[str]) -> None:
    """Numbers beyond all bounds, each refused or answered, and the server is as before."""
    case = GOOD[0]
    values = {
        "max_tokens": [np.array([[v]], np.int32) for v in (-(2**31), -1, 0, 2**31 - 1)],
        "end_id": [np.array([[v]], np.int32) for v in (-(2**31), 2**31 - 1)],
        "temperature": [np.array([[v]], np.float32) for v in (-1.0, np.nan, np.inf, 1e38)],
        "runtime_top_p": [np.array([[v]], np.float32) for v in (-1.0, 2.0, np.nan)],
        "runtime_top_k": [np.array([[v]], np.int32) for v in (-1, 2**31 - 1)],
        "image_bytes_input": [np.zeros((1, 1, 1, 1, 5), np.uint8), np.zeros((1, 1, 3, 3, 1), np.uint8)],
        "stop_words": [strings([[b"a"] * 2000]), strings([[b"\xff"]]), strings([[b"a" * 300]])],
    }
    with InferenceServerClient(server.grpc) as client:
        for name, tried in values.items():
            for value in tried:
                asked = case if not name.startswith("image") else Case("no file", case.text)
                try:
                    client.infer("ensemble", inputs([asked], **{name: value}))
                except InferenceServerException as error:
                    assert "internal error" not in str(error.message()), f"{name} {value.reshape(-1)[:3]}: {error}"
        assert client.is_server_ready()
    assert not good_ones, good_ones
