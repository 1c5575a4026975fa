"""What becomes of a server whose Python step is killed, and of requests that run when the server is told to end."""

from __future__ import annotations

import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from generator import processes, server

ROOT = Path(__file__).parents[2]
WHOLE = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(float(requests[0].inputs()[0].as_numpy()[0]))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
"""
PIECES = """
import threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            seconds = float(request.inputs()[0].as_numpy()[0])
            threading.Thread(target=self.send, args=(request.get_response_sender(), seconds)).start()

    def send(self, sender, seconds):
        for number in range(10):
            time.sleep(seconds / 10)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([number], np.float32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input {{ name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }}
output {{ name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
model_transaction_policy {{ decoupled: {decoupled} }}
"""
SERVE = """
import sys
from pathlib import Path
from generator import supervise
from generator.server import ServerError
try:
    sys.exit(supervise.serve(
        Path(sys.argv[1]), http_port=0, grpc_port=0, metrics_port=0, address="127.0.0.1", restarts=int(sys.argv[2])))
except ServerError as error:
    print(error.message, flush=True)
    sys.exit(3)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, code, decoupled in (("whole", WHOLE, "false"), ("pieces", PIECES, "true")):
        version = tmp_path / "repository" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(code)
        (version.parent / "config.pbtxt").write_text(CONFIG.format(name=name, decoupled=decoupled))
    return tmp_path / "repository"


class Program:
    """`gen-repo serve` in a process of its own."""

    def __init__(self, repository: Path, restarts: int) -> None:
        argv = [sys.executable, "-u", "-c", SERVE, str(repository), str(restarts)]
        self.errors = (repository.parent / "stderr").open("w+")
        self.process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=self.errors, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ready(self) -> tuple[str, str]:
        """The addresses of its HTTP and gRPC services, as soon as it has them."""
        found = re.match(r"ready: http (\S+), grpc (\S+),", self.line())
        assert found, Path(self.errors.name).read_text()
        return found[1], found[2]

    def server(self) -> int:
        pid = self.process.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    made: list[Program] = []
    yield made
    for program in made:
        program.process.terminate()
        program.process.wait(60)
        program.errors.close()


def tensor(seconds: float) -> InferInput:
    made = InferInput("IN", [1], "FP32")
    made.set_data_from_numpy(np.array([seconds], np.float32))
    return made


def step(pid: int, model: str) -> processes.Step:
    [found] = [one for one in processes.steps(pid).values() if one.model == model]
    return found


def ready(http: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{http}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_triton_alone_does_not_notice(repository: Path) -> None:
    """What makes the supervision necessary; when this fails, a Triton has come that needs none."""
    with server.running(repository, exit_timeout=1) as running, InferenceServerClient(running.grpc) as client:
        before = processes.steps(running.process.pid)
        killed = step(running.process.pid, "whole")
        assert {one.model for one in before.values()} == {"whole", "pieces"}
        assert processes.ended(running.process.pid, before) == []
        os.kill(killed.pid, signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(InferenceServerException, match="is not healthy"):
                client.infer("whole", [tensor(0)])
        assert ready(running.http) and client.is_model_ready("whole")
        [gone] = processes.ended(running.process.pid, before)
        assert (gone.pid, gone.model, gone.how) == (killed.pid, "whole", "SIGKILL")


def test_a_killed_step_comes_back(repository: Path, programs: list[Program]) -> None:
    program = Program(repository, 3)
    programs.append(program)
    http, grpc = program.ready()
    first = program.server()
    os.kill(step(first, "whole").pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while ready(http):
        assert time.monotonic() < deadline, "still says that it is ready"
        time.sleep(0.05)
    http, grpc = program.ready()
    assert program.server() != first and not Path(f"/proc/{first}").exists()
    with InferenceServerClient(grpc) as client:
        assert client.infer("whole", [tensor(0.25)]).as_numpy("OUT") == [0.25]
    said = Path(program.errors.name).read_text()
    assert re.search(r"gen-repo serve: Python step ended: whole \(process \d+, SIGKILL\)", said)
    assert "starting again in 2 s (1 of 3 times in a row)" in said
    program.process.terminate()
    assert program.process.wait(60) == 0


def test_it_gives_up(repository: Path, programs: list[Program]) -> None:
    program = Program(repository, 1)
    programs.append(program)
    for _ in range(2):
        program.ready()
        os.kill(program.server(), signal.SIGKILL)
    assert "ended with code -9" in program.line()
    assert program.process.wait(60) == 3


def test_requests_that_run_end_before_the_server(repository: Path, programs: list[Program]) -> None:
    """SIGTERM: a whole and a streamed answer still come, the stream with its final flag; new requests are refused."""
    program = Program(repository, 3)
    programs.append(program)
    http, grpc = program.ready()
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def keep(kind: str, result: Any, error: Any) -> None:
        answers.put((kind, error or result))

    with InferenceServerClient(grpc) as client, InferenceServerClient(grpc) as late:
        assert late.is_server_ready()
        client.start_stream(partial(keep, "piece"))
        client.async_stream_infer("pieces", [tensor(1.5)], enable_empty_final_response=True)
        client.async_infer("whole", [tensor(1.5)], partial(keep, "whole"))
        time.sleep(0.5)
        program.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert not ready(http)
        with pytest.raises(InferenceServerException):
            late.infer("whole", [tensor(0)])
        seen = [answers.get(timeout=20) for _ in range(12)]
        client.stop_stream()
    assert not [value for _, value in seen if isinstance(value, Exception)]
    pieces = [value for kind, value in seen if kind == "piece"]
    final = [piece.get_response().parameters["triton_final_response"].bool_param for piece in pieces]
    assert final == [False] * 10 + [True]
    assert [value.as_numpy("OUT") for kind, value in seen if kind == "whole"] == [1.5]
    assert program.process.wait(60) == 0


def test_launch_script_ends_a_server_whose_step_has_ended(repository: Path, tmp_path: Path) -> None:
    """The containers' way: no gen-repo there, and whoever runs the container starts it again."""
    shutil.copy(ROOT / "model_repos/llava/launch.sh", repository)
    (tmp_path / "scratch").mkdir()
    [http, grpc] = server.free_ports([0, 0], "127.0.0.1")
    regions = f"launched_{os.getpid()}_"
    command, environment = server.command(
        repository, http_port=http, grpc_port=grpc, metrics_port=0, scratch=tmp_path / "scratch", shm_prefix=regions
    )
    program = tmp_path / "programs" / "tritonserver"
    program.parent.mkdir()
    options = [one for one in command[1:] if "-directory=" in one or "prefix" in one]
    program.write_text(f'#!/bin/sh\nexec {shlex.join([command[0], *options])} "$@"\n')
    program.chmod(0o755)
    flags = [f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false", "--exit-timeout-secs=1"]
    path = {"PATH": f"{program.parent}{os.pathsep}{environment['PATH']}"}
    with (
        (tmp_path / "log").open("w+") as log,
        subprocess.Popen([repository / "launch.sh", *flags], env=environment | path, stdout=log, stderr=log) as started,
    ):
        try:
            deadline = time.monotonic() + 60
            while not ready(f"127.0.0.1:{http}"):
                assert time.monotonic() < deadline and started.poll() is None, Path(log.name).read_text()
                time.sleep(0.1)
            time.sleep(3)  # the script has looked at the steps, and let the server be
            killed = step(started.pid, "whole")
            os.kill(killed.pid, signal.SIGKILL)
            started.wait(20)
        finally:
            started.kill()
            for region in server.SHM.glob(f"{regions}*"):  # in a container they end with it
                region.unlink()
    text = (tmp_path / "log").read_text()
    assert f"launch.sh: a Python step ended (process {killed.pid}), so the server ends" in text
