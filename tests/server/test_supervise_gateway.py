"""What clients of `gen-repo openai` see when its server or a Python step of it is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from generator import processes
from tests import photos
from tests.parity.client import MAX_TOKENS
from tests.parity.conftest import SUBJECTS, repository
from tests.parity.openai_gateway import client_of, message, streamed, whole

ROOT = Path(__file__).parents[2]
SUBJECT = SUBJECTS["llava"]
PROMPT = photos.PROMPTS[0]
GATEWAY = """
import sys
from generator.gateway import serve
from generator.server import ServerError
try:
    sys.exit(serve.run(sys.argv[1], url=None, host="127.0.0.1", port=int(sys.argv[2]), model=None, max_body=1 << 24,
                       restarts=int(sys.argv[3])))
except ServerError as error:
    print(error.message, file=sys.stderr)
    sys.exit(3)
"""


class Gateway:
    """`gen-repo openai` with a server of its own, in a process of its own."""

    def __init__(self, folder: Path, restarts: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder.parent / "log"
        argv = [sys.executable, "-u", "-c", GATEWAY, str(folder), str(port), str(restarts)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=output, stderr=output)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def server(self) -> int:
        pid = self.process.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def get(self, path: str) -> tuple[int, bytes, Any]:
        """Status, body and headers; status 0 where nobody listens."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:  # noqa: S310
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers
        except OSError:
            return 0, b"", {}

    def wait(self, status: int, seconds: float) -> tuple[int, bytes, Any]:
        """Until /health has this status."""
        deadline = time.monotonic() + seconds
        while (found := self.get("/health"))[0] != status:
            assert time.monotonic() < deadline and self.process.poll() is None, self.said()
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(SUBJECT, tmp_path_factory.mktemp("gateway") / "llava", streaming=True)


@pytest.fixture(scope="module")
def wanted() -> str:
    return SUBJECT.oracle(SUBJECT.path).generate(PROMPT, [photos.encoded("china")], MAX_TOKENS)[1]


@pytest.fixture
def started() -> Iterator[list[Gateway]]:
    made: list[Gateway] = []
    yield made
    for gateway in made:
        gateway.process.terminate()
        gateway.process.wait(60)


def test_a_killed_step_comes_back(folder: Path, wanted: str, started: list[Gateway]) -> None:
    gateway = Gateway(folder, 3)
    started.append(gateway)
    gateway.wait(200, 180)
    client, model = client_of(gateway.url)
    asked = [message(PROMPT, (photos.encoded("china"),))]
    assert whole(client, model, asked).choices[0].message.content == wanted
    first = gateway.server()
    [killed] = [step for step in processes.steps(first).values() if step.model == "vision_encoder"]
    os.kill(killed.pid, signal.SIGKILL)

    _, body, headers = gateway.wait(503, 5)
    problem = json.loads(body)["error"]
    assert problem["type"] == "server_error" and "is started again: send the request again" in problem["message"]
    assert 3 <= int(headers["Retry-After"]) <= 180
    for ask in (whole, streamed):
        with pytest.raises(openai.InternalServerError) as refused:
            ask(client, model, asked)
        assert refused.value.status_code == 503 and int(refused.value.response.headers["Retry-After"]) >= 3
    assert gateway.get("/steps")[0] == gateway.get("/metrics")[0] == 503
    assert gateway.get("/v1/models")[0] == 200

    gateway.wait(200, 180)
    assert gateway.server() != first and not Path(f"/proc/{first}").exists()
    assert whole(client, model, asked).choices[0].message.content == wanted
    assert "".join(streamed(client, model, asked)[0]) == wanted
    assert gateway.get("/steps")[0] == gateway.get("/metrics")[0] == 200
    said = gateway.said()
    assert f"gen-repo openai: Python step ended: vision_encoder (process {killed.pid}, SIGKILL)" in said
    assert "gen-repo openai: starting again in 2 s (1 of 3 times in a row)" in said
    gateway.process.terminate()
    assert gateway.process.wait(60) == 0
    assert "Traceback" not in gateway.said()


def test_requests_that_run_are_refused_and_it_gives_up(folder: Path, started: list[Gateway]) -> None:
    """The LLM is held, so that a request runs for certain when the server is killed."""
    gateway = Gateway(folder, 0)
    started.append(gateway)
    gateway.wait(200, 180)
    client, model = client_of(gateway.url)
    server = gateway.server()
    [held] = [step for step in processes.steps(server).values() if step.model == "tensorrt_llm"]
    os.kill(held.pid, signal.SIGSTOP)

    def ask(how: Any) -> Any:
        with pytest.raises(openai.InternalServerError) as refused:
            how(client, model, [message(PROMPT)])
        return refused.value

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, how) for how in (whole, streamed)]
        time.sleep(1)
        os.kill(server, signal.SIGKILL)
        for one in asked:
            refused = one.result(30)
            assert refused.status_code == 503 and int(refused.response.headers["Retry-After"]) >= 1, refused
    assert gateway.process.wait(60) == 3
    assert "Triton ended with code -9" in gateway.said() and "starting again" not in gateway.said()
    assert gateway.get("/health")[0] == 0


def test_a_taken_port_is_told_before_anything_is_loaded(folder: Path, started: list[Gateway]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        argv = [sys.executable, "-c", GATEWAY, str(folder), str(port), "0"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (
        done.returncode == 3 and done.stderr == f"cannot listen on port {port} of 127.0.0.1: Address already in use\n"
    )
