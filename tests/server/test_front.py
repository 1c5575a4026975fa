"""The decoupled front model on a real Triton, between the steps of front_repository.py."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from generator.ask import ask, connect, run, step_times
from generator.server import Server, ServerError, running
from tests.server.front_client import Question, Response, whole
from tests.server.front_repository import (
    FAIL,
    FRONT,
    THREADS,
    build,
    byte_level_tokenizer,
)
from tests.server.harness import triton

# These tests hold a server to times of a few hundred milliseconds; a busy machine may miss one now and then. It may also
# keep a Python step from running for a second: then Triton takes it for dead, loses its answers and may end itself.
pytestmark = pytest.mark.flaky(reruns=2)

TEXT = "  Two spaces, an emoji 😀👩‍👧, 日本語 and naïve é. "


@dataclass(frozen=True)
class Served:
    server: Server
    repository: Path

    def notes(self) -> list[dict[str, Any]]:
        lines = (self.repository / "tensorrt_llm" / "notes").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def idle(self) -> None:
        """Wait until the LLM has ended everything it started."""
        deadline = time.monotonic() + 10
        while True:
            kinds = [note["what"] for note in self.notes()]
            if kinds.count("start") == kinds.count("end"):
                return
            assert time.monotonic() < deadline, "the LLM still runs"
            time.sleep(0.01)

    def front_status(self) -> dict[str, int]:
        """Threads and open files of the front's process."""
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if "triton_python_backend_stub" in command and f"{self.repository}/{FRONT}" in command:
                status = Path(f"/proc/{pid}/status").read_text()
                threads = re.search(r"Threads:\s+(\d+)", status)
                assert threads
                return {"threads": int(threads[1]), "files": len(os.listdir(f"/proc/{pid}/fd"))}
        raise AssertionError("the front's process is not there")


class Keeper(ExitStack):
    """Serves a repository, again when its server has ended."""

    def __init__(self, repository: Path) -> None:
        super().__init__()
        self.repository = repository
        self.server: Server | None = None

    def serve(self) -> Served:
        if self.server is None or self.server.process.poll() is not None:
            self.close()
            (self.repository / "tensorrt_llm" / "notes").unlink(missing_ok=True)
            self.server = self.enter_context(running(self.repository))
        return Served(self.server, self.repository)


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def keeper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    with Keeper(build(tmp_path_factory.mktemp("repository"), request.param)) as keeper:
        yield keeper


@pytest.fixture
def served(keeper: Keeper) -> Served:
    return keeper.serve()


def test_stream_equals_whole_answer(served: Served) -> None:
    streamed = Question(served.server, [TEXT], stream=True).all()
    unstreamed = Question(served.server, [TEXT]).all()
    assert whole(streamed) == whole(unstreamed) == TEXT
    assert len(streamed) > 20 and len([r for r in unstreamed if r.text]) == 1
    assert [r.final for r in streamed].count(True) == 1
    assert all("\ufffd" not in piece for r in streamed for piece in r.text)


def test_broken_tail_is_flushed(served: Served) -> None:
    """A character cut by max_tokens appears at the end as decoding everything at once shows it."""
    ids = byte_level_tokenizer().encode("a😀").ids
    expected = byte_level_tokenizer().decode(ids[:3])
    assert expected.endswith("\ufffd")
    assert whole(Question(served.server, ["a😀"], stream=True, max_tokens=3).all()) == expected
    assert whole(Question(served.server, ["a😀"], max_tokens=3).all()) == expected


def test_empty_answer_is_one_response(served: Served) -> None:
    for stream in (True, False):
        responses = Question(served.server, ["abc"], stream=stream, max_tokens=0).all()
        assert [r.text for r in responses if r.text] == [[""]]


def test_sixteen_streams_at_once(served: Served) -> None:
    """20 tokens of 20 ms each: one after the other they would take 6.4 s."""
    text = "abcdefghijklmnopqrst".upper()
    tokens = len(byte_level_tokenizer().encode(text).ids)
    assert tokens == 20
    begin = time.monotonic()
    questions = [Question(served.server, [text], stream=True, temperature=20) for _ in range(16)]
    assert [whole(question.all()) for question in questions] == [text] * 16
    assert time.monotonic() - begin < 2.5


def test_rows_of_a_batch(served: Served) -> None:
    """Unequal lengths: each row comes whole, under its index, from an LLM that saw no padding and its own table."""
    texts = ["short", TEXT, "a", "日本語"]
    streamed = Question(served.server, texts, stream=True, temperature=2).all()
    assert [whole(streamed, row) for row in range(4)] == texts
    order = [r.row for r in streamed if r.row is not None]
    assert order != sorted(order)  # the rows ran at the same time
    unstreamed = Question(served.server, texts).all()
    assert [whole(unstreamed, row) for row in range(4)] == texts
    assert sorted(r.row for r in unstreamed if r.row is not None) == [0, 1, 2, 3]


@pytest.mark.parametrize("stream", [True, False])
def test_the_first_response_of_a_row_tells_its_tokens(served: Served, stream: bool) -> None:
    texts = ["short", TEXT, "a"]
    responses = Question(served.server, texts, stream=stream).all()
    lengths = [len(byte_level_tokenizer().encode(text).ids) for text in texts]
    for row, length in enumerate(lengths):
        told = [response.input_tokens for response in responses if response.row == row]
        assert told == [length] + [None] * (len(told) - 1)


def test_further_outputs(served: Served) -> None:
    streamed = Question(served.server, ["abc"], stream=True, return_log_probs=True).all()
    assert [r.log_probs for r in streamed[:3]] == [[-0.5]] * 3
    beams = Question(served.server, ["abc"], beam_width=2, return_log_probs=True).all()
    assert (beams[0].text, beams[0].log_probs) == (["abc", "abc"], [-0.5, -0.5])


def test_beams_are_not_streamed(served: Served) -> None:
    (response,) = Question(served.server, ["abc"], stream=True, beam_width=2).all()
    assert response.error is not None and "beam_width 1" in response.error


@pytest.mark.parametrize("step", FAIL)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_comes_once(served: Served, step: str, rows: int, stream: bool) -> None:
    if stream and step == "postprocessing":
        pytest.skip("streams do not call it")
    seeds = [0] * (rows - 1) + [FAIL[step]]
    responses = Question(served.server, ["abcdef"] * rows, stream=stream, seed=seeds, temperature=5).all()
    message = {1: "the text is bad", 2: "the engine is broken", 3: "out of blocks", 4: "a length is negative"}
    errors = [r.error for r in responses if r.error]
    assert len(errors) == 1
    assert message[FAIL[step]] in errors[0] and step in errors[0]
    served.idle()
    assert whole(Question(served.server, ["next"]).all()) == "next"


def test_a_failing_row_stops_the_others(served: Served) -> None:
    responses = Question(served.server, ["abcdef", "x" * 3000], stream=[False, True], seed=[3, 0], temperature=5).all()
    assert "out of blocks" in str(responses[-1].error)
    served.idle()
    starts = [note for note in served.notes() if note["what"] == "start"][-2:]
    (long,) = [note["id"] for note in starts if note["ids"] > 100]
    assert [note["what"] for note in served.notes() if note["id"] == long][1] == "stop"


@pytest.mark.parametrize("after", ["some tokens", "no token"])
@pytest.mark.parametrize("rows", [1, 2])
def test_cancel_stops_the_llm(served: Served, after: str, rows: int) -> None:
    served.idle()
    seen = len(served.notes())
    pause = 10 if after == "some tokens" else 5000
    question = Question(served.server, ["x" * 3000] * rows, stream=True, temperature=pause)
    if after == "some tokens":
        for _ in range(5):
            question.next()
    else:
        time.sleep(0.3)
    cancelled = time.time()
    question.cancel()
    served.idle()
    notes = served.notes()[seen:]
    stops = {note["id"]: note["time"] for note in reversed(notes) if note["what"] == "stop"}
    ends = {note["id"]: note["time"] for note in notes if note["what"] == "end"}
    assert len(ends) == rows and stops.keys() == ends.keys()
    assert max(stops.values()) - cancelled < 0.2 and max(ends.values()) - cancelled < 0.25


def test_a_negative_length_fails_its_stream_alone(served: Served) -> None:
    """Counted as tokens it would end the server: Triton 2.51 does not survive a counter that falls."""
    response = Question(served.server, ["abc"], seed=FAIL["postprocessing"], stream=True).all()[-1]
    assert response.final and "internal error" in (response.error or "")
    assert whole(Question(served.server, ["abc"], stream=True).all()) == "abc"


def test_too_many_rows_are_refused(served: Served) -> None:
    """The bound is a clear error, and what was accepted goes on."""
    held = [Question(served.server, ["x" * 60] * 8, stream=True, temperature=10) for _ in range(2)]
    for question in held:
        question.next()
    (response,) = Question(served.server, ["abc"] * 5).all()
    assert response.error is not None and f"5 row(s) wanted, 4 of {THREADS} are free" in response.error
    assert whole(Question(served.server, ["abc"]).all()) == "abc"
    for question in held:
        assert question.all()[-1].error is None
    assert [whole(Question(served.server, ["abc"] * 5).all(), row) for row in range(5)] == ["abc"] * 5


def shared_memory(served: Served) -> int:
    """Blocks in /dev/shm of this server's regions; others may run beside it."""
    mark = "shm-region-prefix-name="
    [prefix] = [str(part).split(mark)[1] for part in served.server.process.args if mark in str(part)]
    return sum(file.stat().st_blocks for file in Path("/dev/shm").glob(f"{prefix}*"))


def test_nothing_leaks(served: Served) -> None:
    def once(number: int) -> None:
        fails, stream = number % 7 == 0, number % 3 != 0
        seed = FAIL["vision_encoder" if stream else "tensorrt_llm"] if fails else 0
        question = Question(served.server, ["some text"] * (1 + number % 2), stream=stream, seed=seed)
        if number % 5 == 0:
            question.cancel()
        else:
            question.all()

    for number in range(THREADS * 2):  # fills the pool
        once(number)
    served.idle()
    before = served.front_status()
    shm = shared_memory(served)
    for number in range(200):
        once(number)
    served.idle()
    after = served.front_status()
    assert after["threads"] <= before["threads"] + 1 and after["files"] <= before["files"] + 2
    assert shared_memory(served) <= shm * 1.2
    assert [whole(Question(served.server, ["abc"] * 8).all(), row) for row in range(8)] == ["abc"] * 8


def test_ask(served: Served) -> None:
    """The client of `gen-repo ask`, with the times of each step."""
    with connect(served.server.grpc) as client:
        before = step_times(client)
        pieces = list(ask(served.server.grpc, FRONT, TEXT, [], stream=True, parameters={"temperature": 1}))
        assert "".join(pieces) == TEXT and len(pieces) > 20
        ids = byte_level_tokenizer().encode(TEXT).ids[:3]
        assert list(ask(served.server.grpc, FRONT, TEXT, [], max_tokens=3)) == [byte_level_tokenizer().decode(ids)]
        spent = {name: after - before[name] for name, after in step_times(client).items()}
        responses = len(byte_level_tokenizer().encode(TEXT).ids) + 1  # each comes back to the front as a request
        assert {name: time.count for name, time in spent.items()} == dict.fromkeys([*FAIL, "llm_responses"], 2) | {
            "postprocessing": 1,
            FRONT: 2 + responses,
        }
        assert 0 < spent["vision_encoder"].compute_ms < 5000
    with pytest.raises(ServerError, match="the text is bad"):
        list(ask(served.server.grpc, FRONT, TEXT, [], parameters={"seed": 1}))
    with pytest.raises(ServerError, match="has no input image_encoded_input"):
        list(ask(served.server.grpc, FRONT, TEXT, [b"file"]))


def test_ask_prints(served: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(served.server.grpc, FRONT, TEXT, [], stream=True, times=True) == 0
    answer, table = capsys.readouterr().out.split("\n\n")
    assert answer == TEXT
    counts = dict(line.split()[:2] for line in table.splitlines()[1:-1])
    assert counts == dict.fromkeys(FAIL.keys() - {"postprocessing"} | {"llm_responses"}, "1") | {
        FRONT: str(1 + len(byte_level_tokenizer().encode(TEXT).ids))
    }
    with pytest.raises(ServerError, match=r"cannot read .*missing\.jpg"):
        run(served.server.grpc, FRONT, TEXT, [tmp_path / "missing.jpg"])
    with pytest.raises(ServerError, match="no Triton server answers at 127.0.0.1:9"):
        run("127.0.0.1:9", FRONT, TEXT, [])


def test_leaving_an_answer_cancels_it(served: Served) -> None:
    answer = ask(served.server.grpc, FRONT, "x" * 3000, [], stream=True, parameters={"temperature": 10})
    next(answer)
    left = time.time()
    answer.close()
    served.idle()
    assert served.notes()[-1]["time"] - left < 0.5


def running_in(group: int) -> list[str]:
    """Processes of a group; those that ended and that nobody has collected do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end at any time
            state, _, of, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(of) == group and state != "Z":
                found.append(state)
    return found


def test_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    """Stopping the server ends what runs and leaves no process and no shared memory behind."""
    repository = build(tmp_path / "repository", "float16")
    with triton(repository) as server:
        question = Question(server, ["x" * 50], stream=True, temperature=10)
        question.next()
        collected: list[Response] = []
        reader = threading.Thread(target=lambda: collected.extend(question.all()))
        reader.start()
        group = server.process.pid
    reader.join(10)
    assert server.process.returncode is not None
    deadline = time.monotonic() + 10  # a killed process takes its time to end
    while running_in(group):
        assert time.monotonic() < deadline, running_in(group)
        time.sleep(0.05)
    assert collected[-1].final and (
        collected[-1].error or "".join(text for r in collected for text in r.text) == "x" * 49
    )
