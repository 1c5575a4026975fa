"""Rows of the torch LLM step with the decoupled policy end once, and are counted once, whatever becomes of them."""

from __future__ import annotations

import importlib.util
import threading
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import triton_python_backend_utils as pb_utils

from tests.unit.executor_requests import Sender

STEP = Path(__file__).parents[2] / "templates/torch/tensorrt_llm/1"
ROW = SimpleNamespace(streaming=False)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(STEP))
    spec = importlib.util.spec_from_file_location("torch_llm_step", STEP / "model.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def begun(module: Any, sender: Any, rows: int) -> tuple[Any, Any]:
    """The step without its model, which answers with nothing, and the stream of a request that it has admitted."""
    step = module.TritonPythonModel()
    step.lock, step.rows, step.running = threading.Lock(), rows, defaultdict(set)
    step._whole = lambda row, cancelled: []
    stream = module.Stream(sender, rows, "id", {"output_ids"}, step._row_done)
    stream.batch_index = lambda index: []
    step.running["id"].add(stream)
    return step, stream


@pytest.mark.parametrize("memory", [0, 1, 2])
def test_rows_end_however_many_responses_fit_into_shared_memory(module: Any, memory: int) -> None:
    sender = Sender()
    sender.memory = memory
    step, stream = begun(module, sender, 2)
    for index in range(2):
        assert step.rows == 2 - index and not sender.done.is_set()
        step._run(stream, index, ROW)
    assert step.rows == 0 and not step.running
    assert sender.done.is_set() and len(sender.responses) == memory


def test_a_row_that_fails_tells_its_client_and_counts_once(module: Any) -> None:
    sender = Sender()
    step, stream = begun(module, sender, 1)
    step._whole = lambda row, cancelled: 1 / 0
    step._run(stream, 0, ROW)
    assert step.rows == 0 and not step.running and sender.done.is_set()
    [response] = sender.responses
    assert "internal error" in response.error().message()


def test_a_row_no_longer_counts_when_its_client_has_its_answer(module: Any) -> None:
    """Who has the answer may ask again at once."""
    sender = Sender()
    step, stream = begun(module, sender, 1)
    counted, kept = [], sender.send

    def send(response: Any = None, flags: int = 0) -> None:
        counted.append((step.rows, flags))
        kept(response, flags)

    sender.send = send  # type: ignore[method-assign]
    step._run(stream, 0, ROW)
    assert counted == [(0, 0), (0, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)]
