"""launch.sh of two ranks under a real OpenMPI and a real Triton; the models in it are stand-ins that need no GPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator import server
from generator.cli import main
from tests import engines

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input {{ name: "IN" data_type: TYPE_INT32 dims: [ 1 ] }}
output {{ name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""
# An LLM's rank as the backend behaves: all ranks load it, only the first comes back from loading.
MODEL = """
import os, pathlib, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
        pathlib.Path(os.environ["LOADED"], f"{args['model_name']}.{self.rank}").touch()
        if args["model_name"] == "tensorrt_llm" and self.rank > 0:
            time.sleep(3600)

    def execute(self, requests):
        out = pb_utils.Tensor("OUT", np.array([self.rank], np.int32))
        return [pb_utils.InferenceResponse([out]) for _ in requests]
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[int, Path, subprocess.Popen[bytes]]]:
    """(HTTP port, folder of marks that loading models leave, mpirun) of a running two-rank repository."""
    engine = engines.llm(tmp_path / "engine", tp=2)
    repository = tmp_path / "repository"
    assert main(["--model", "llava", "--llm-engine-dir", str(engine), "--output", str(repository)]) == 0
    for config in repository.glob("*/config.pbtxt"):
        config.write_text(CONFIG.format(name=config.parent.name))
        for file in (config.parent / "1").iterdir() if (config.parent / "1").is_dir() else ():
            file.unlink()
        (config.parent / "1").mkdir(exist_ok=True)
        (config.parent / "1/model.py").write_text(MODEL)
    http, grpc, metrics = free_ports(3)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "loaded").mkdir()
    argv, environment = server.command(
        repository,
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        scratch=tmp_path / "scratch",
        shm_prefix="unused",
    )
    flags = [
        a
        for a in argv
        if a.startswith(("--backend-directory", "--cache-directory", "--http-", "--grpc-", "--metrics-"))
    ]
    binaries = os.pathsep.join([str(Path(sys.executable).parent), str(Path(argv[0]).parent)])
    environment |= {"PATH": os.pathsep.join([binaries, environment["PATH"]]), "LOADED": str(tmp_path / "loaded")}
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [repository / "launch.sh", *flags], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield http, tmp_path / "loaded", process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(15)
            except (subprocess.TimeoutExpired, ProcessLookupError):
                continue
        log.close()
        for region in Path("/dev/shm").glob("rank[01]_*"):
            region.unlink(missing_ok=True)


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_rank_0_answers_and_rank_1_loads_the_llm_only(started: tuple[int, Path, subprocess.Popen[bytes]]) -> None:
    port, loaded, process = started
    deadline = time.monotonic() + 90
    while not (ready(port) and (loaded / "tensorrt_llm.1").exists()):
        assert process.poll() is None and time.monotonic() < deadline, (loaded.parent / "log").read_text()[-4000:]
        time.sleep(0.2)
    roles = ("ensemble", "preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing")
    assert {path.name for path in loaded.iterdir()} == {f"{role}.0" for role in roles} | {"tensorrt_llm.1"}
    body = {"inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [7]}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/preprocessing/infer", json.dumps(body).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        assert json.load(answer)["outputs"][0]["data"] == [0]
    assert len(list(Path("/dev/shm").glob("rank0_*"))) > 0
