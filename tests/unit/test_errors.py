"""What a client reads of an error, what the log has of it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from tensors import RequestError, failed

from tests.unit.serving import ERROR_ID, INTERNAL_ERROR, ROOT


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The front's modules, imported as Triton does."""
    monkeypatch.syspath_prepend(ROOT / "templates/tensorrt_llm_bls/1")
    for name in ("bls_calls", "client_ticket"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("client_ticket")


def said(response: pb_utils.InferenceResponse) -> tuple[str, int]:
    error = response.error()
    assert error is not None
    return error.message(), error.code()


def logged() -> tuple[str, str]:
    level, message = vars(pb_utils.Logger)["messages"][-1]
    return level, message


def test_a_mistake_of_the_client() -> None:
    message, code = said(failed(RequestError("9 images, allowed are 2: send fewer")))
    assert re.fullmatch(rf"9 images, allowed are 2: send fewer {ERROR_ID}", message)
    assert code == pb_utils.TritonError.INVALID_ARG
    level, line = logged()
    [mark] = re.findall(ERROR_ID, message)
    assert level == "info" and line.startswith(mark)
    assert said(failed(RequestError("again")))[0][-14:] != message[-14:]


def test_a_defect_shows_nothing_of_the_inside() -> None:
    try:
        Path("/secret/place").read_bytes()
    except OSError as error:
        message, code = said(failed(error))
    assert re.fullmatch(INTERNAL_ERROR, message) and "secret" not in message
    assert code == pb_utils.TritonError.INTERNAL
    level, line = logged()
    assert level == "error" and "/secret/place" in line and "Traceback" in line and message[-16:] in line


def test_a_steps_own_error_keeps_its_id(front: Any) -> None:
    error = front.StepError(
        "preprocessing", pb_utils.TritonError("bad text [error 0123abcd]", pb_utils.TritonError.INVALID_ARG)
    )
    assert said(front._error_response(error)) == (
        "preprocessing: bad text [error 0123abcd]",
        pb_utils.TritonError.INVALID_ARG,
    )


def test_a_backends_error_loses_its_paths_and_gets_an_id(front: Any) -> None:
    text = "beam width 4 exceeds 1 (/src/cpp/runtime/decoder.cpp:123)\n1  0x7f /opt/lib/libllm.so(+0x12)"
    message, code = said(front._error_response(front.StepError("tensorrt_llm", pb_utils.TritonError(text, 1))))
    assert re.fullmatch(rf"tensorrt_llm: beam width 4 exceeds 1 {ERROR_ID}", message) and code == 1
    level, line = logged()
    assert level == "error" and "decoder.cpp:123" in line and "libllm.so" in line and message[-16:] in line


def test_only_wanted_outputs_are_sent(front: Any) -> None:
    sent: list[list[str]] = []

    class Sender:
        def send(self, response: Any, flags: int = 0) -> None:
            sent.append([tensor.name() for tensor in response.output_tensors()])

    ticket = front.Ticket(Sender(), 1, {"text_output"}, lambda ticket: None)
    ticket.send([pb_utils.Tensor("text_output", np.zeros(1)), pb_utils.Tensor("batch_index", np.zeros(1))])
    assert sent == [["text_output"]]
