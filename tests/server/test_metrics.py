"""The counters of a step on a real Triton: from many threads at once, and where the server keeps none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from tests.parity.client import tensor
from tests.server.harness import triton
from tests.server.metrics_page import number, numbers

TEMPLATES = Path(__file__).parents[2] / "templates"
THREADS, TIMES = 8, 50

STEP = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils
from metrics import Metrics
class TritonPythonModel:
    def initialize(self, args):
        self.metrics = Metrics(args["model_name"], {"seen_total": "d", "silent_total": "d"}, {"kept": "g"})
        self.metrics.add("silent_total", 0)
        self.metrics.flush()
    def execute(self, requests):
        threads = [threading.Thread(target=self.work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answer = pb_utils.Tensor("y", np.ones((1, 1), np.int32))
        return [pb_utils.InferenceResponse([answer]) for _ in requests]
    def work(self):
        for number in range(TIMES):
            self.metrics.add("seen_total", 2, parity="odd" if number % 2 else "even")
            self.metrics.add("kept", -1)
            self.metrics.flush()
"""
CONFIG = """backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_INT32 dims: [1] }
output { name: "y" data_type: TYPE_INT32 dims: [1] }
instance_group { count: 2 kind: KIND_CPU }
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    version = folder / "counting" / "1"
    version.mkdir(parents=True)
    shutil.copy(TEMPLATES / "shared/metrics.py", version)
    (version / "model.py").write_text(STEP.replace("THREADS", json.dumps(THREADS)).replace("TIMES", json.dumps(TIMES)))
    (folder / "counting/config.pbtxt").write_text(CONFIG)
    return folder


def ask(address: str, times: int) -> None:
    with InferenceServerClient(address) as client:
        for _ in range(times):
            assert client.infer("counting", [tensor("x", np.array([[1]], np.int32))]).as_numpy("y").item() == 1


def test_threads_and_instances_count_together(repository: Path) -> None:
    with triton(repository) as server:
        ask(server.grpc, 4)
        found = numbers(server.metrics)
    half = 4 * THREADS * TIMES
    assert found == {
        number("seen_total", model="counting", parity="odd"): half,
        number("seen_total", model="counting", parity="even"): half,
        number("silent_total", model="counting"): 0,
        number("kept", model="counting"): -half,
    }


def test_a_server_without_metrics_serves(repository: Path) -> None:
    with triton(repository, arguments=["--allow-metrics=false"]) as server:
        ask(server.grpc, 2)
