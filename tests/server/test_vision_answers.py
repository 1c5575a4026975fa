"""The vision step's way of answering on a GPU, on a real Triton without one: responses follow while calls go on.

What stands for the GPU's end of a call is an event that the next call's beginning sets. So a call that ended that way
proves that Triton began the next before it had any response of this one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.server.harness import triton

ROOT = Path(__file__).resolve().parents[2]
ROWS, HIDDEN = 3, 16
[FEW] = map(int, re.findall(r"^FEW = (\d+)", (ROOT / "templates/shared/vision_answers.py").read_text(), re.M))
STEP = """
WAIT = 2.0  # seconds; the last call has none behind it
import threading
from pathlib import Path
import torch
from vision_answers import Behind, begin
from vision_rows import VisionRows

NOTES = Path(__file__).with_name("notes")

class Done:
    made = 0
    def __init__(self):
        Done.made += 1
        self.number, self.reached = Done.made, threading.Event()
    def synchronize(self):
        with NOTES.open("a") as notes:
            notes.write(f"{self.number} next\\n" if self.reached.wait(WAIT) else f"{self.number} alone\\n")

class TritonPythonModel:
    def initialize(self, args):
        self.layout = VisionRows("tiny", "none", (3, 4, 4), 3, 16, torch.float16, torch.device("cpu"))
        self.last = None
        self.behind = Behind(self.layout, self.mark)

    def mark(self):
        self.last = Done()
        return self.last

    def tables(self, requests):
        if self.last:
            self.last.reached.set()
        return self.layout.tables(requests, self.encode)

    def encode(self, images):
        if float(images[0].flatten()[0]) == 7.0:
            raise RuntimeError("the encoder broke at /some/path")
        return 2 * torch.stack(images).reshape(len(images), 3, 16)

    def execute(self, requests):
        self.behind.take(requests, *begin(requests, self.layout, self.tables))

    def finalize(self):
        self.behind.close()
"""
CONFIG = """backend: "python" max_batch_size: 4
input [
  { name: "pixel_values" data_type: TYPE_FP16 dims: [ -1, 3, 4, 4 ] },
  { name: "num_images" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "num_rows" data_type: TYPE_INT32 dims: [ 1 ] }
]
output [ { name: "prompt_embedding_table" data_type: TYPE_FP16 dims: [ -1, -1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    version = repository / "vision" / "1"
    version.mkdir(parents=True)
    for module in ("tensors.py", "vision_answers.py", "vision_rows.py"):
        shutil.copy(ROOT / "templates" / "shared" / module, version)
    (version / "model.py").write_text(STEP)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return repository


@pytest.fixture(scope="module")
def url(repository: Path) -> Iterator[str]:
    with triton(repository) as server:
        yield server.grpc


def ask(url: str, pixels: NDArray[np.float16], too_many_rows: int = 0) -> NDArray[np.float16]:
    images, tensors = pixels.shape[1], []
    for name, array, kind in (
        ("pixel_values", pixels, "FP16"),
        ("num_images", np.array([[images]], dtype=np.int32), "INT32"),
        ("num_rows", np.array([[ROWS * images + too_many_rows]], dtype=np.int32), "INT32"),
    ):
        tensor = grpcclient.InferInput(name, array.shape, kind)
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    with grpcclient.InferenceServerClient(url) as client:
        table: NDArray[np.float16] = client.infer("vision", tensors).as_numpy("prompt_embedding_table")
    return table


def pictures(seed: int, count: int = 1) -> NDArray[np.float16]:
    return np.random.default_rng(seed).standard_normal((1, count, 3, 4, 4)).astype(np.float16)


def ends(repository: Path, url: str, images: int, calls: int) -> set[str]:
    """How each of several calls at once ended, whose tables must be theirs."""
    notes = repository / "vision" / "1" / "notes"
    notes.write_text("")
    asked = [pictures(seed, images) for seed in range(calls)]
    with ThreadPoolExecutor(calls) as pool:
        tables = list(pool.map(lambda pixels: ask(url, pixels), asked))
    for pixels, table in zip(asked, tables, strict=True):
        np.testing.assert_array_equal(table, (2 * pixels).reshape(1, ROWS * images, HIDDEN))
    return set(notes.read_text().splitlines())


def test_responses_follow_while_the_next_call_runs(repository: Path, url: str) -> None:
    """Seven calls at once: Triton begins each but the last before the one in front of it is answered."""
    # Twice for each call: by the thread that answers, and by the call behind it.
    assert sum(end.endswith(" next") for end in ends(repository, url, images=FEW, calls=7)) >= 6


def test_a_small_call_is_computed_before_the_next_begins(repository: Path, url: str) -> None:
    """The next would be as small: requests that wait for the GPU together become one call."""
    # Both wait for each call: the one behind it to the end; the thread that answers may see that begin.
    assert sum(end.endswith(" alone") for end in ends(repository, url, images=FEW - 1, calls=3)) == 3


def test_errors_reach_their_own_request(url: str) -> None:
    """A wrong number of rows, and an encoder that breaks: each gets its error, the good one its table."""
    broken = pictures(1)
    broken.flat[0] = 7.0
    with ThreadPoolExecutor(3) as pool:
        wrong = pool.submit(ask, url, pictures(2), 1)
        failing = pool.submit(ask, url, broken)
        good = pool.submit(ask, url, pictures(3))
        with pytest.raises(InferenceServerException, match=r"num_rows is 4.*\[error [0-9a-f]{8}\]"):
            wrong.result()
        with pytest.raises(InferenceServerException, match=r"internal error.*\[error [0-9a-f]{8}\]") as caught:
            failing.result()
        np.testing.assert_array_equal(good.result(), (2 * pictures(3)).reshape(1, ROWS, HIDDEN))
    assert "/some/path" not in str(caught.value)
