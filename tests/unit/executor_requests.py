"""Requests to the LLM step over the executor's bindings, and their answers, outside of a server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from torch.utils import dlpack

from tests.unit import serving

SIDE, ROWS, VOCAB, HIDDEN = 42, 11, 1024, 64  # nine patches between their two rows
TOKENS = 6
FINAL = 1


class Tensor(pb_utils.Tensor):
    """A tensor that is passed on by DLPack, as every bf16 one must be."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self._name, self.tensor = name, tensor

    def to_dlpack(self) -> Any:
        return dlpack.to_dlpack(self.tensor)

    def as_numpy(self) -> Any:
        raise AssertionError(f"{self._name} was copied to the host")


class Sender:
    """As the server's: told to send the final flag it is closed first, whether it then fails or not."""

    def __init__(self) -> None:
        self.responses: list[Any] = []
        self.cancelled = False
        self.done = threading.Event()
        self.memory = 1 << 20
        """How many more responses fit into shared memory; the final flag alone always does."""

    def send(self, response: Any = None, flags: int = 0) -> None:
        assert not self.done.is_set(), "sent after the final response"
        if response is not None:
            self._sent(response, closing=bool(flags & FINAL))
        if flags & FINAL:
            self.done.set()

    def _sent(self, response: Any, *, closing: bool) -> None:
        if self.memory == 0:
            assert not closing, "a response that fails takes the final flag with it: nothing ends this request any more"
            raise pb_utils.TritonModelException("Failed to increase the shared memory pool size")
        self.memory -= 1
        self.responses.append(response)

    def is_cancelled(self) -> bool:
        if self.memory == 0:
            raise pb_utils.TritonModelException("Failed to increase the shared memory pool size")
        return self.cancelled


class Request(pb_utils.InferenceRequest):
    def __init__(self, inputs: Sequence[Any], request_id: str) -> None:
        super().__init__("step", [], inputs, request_id)
        self.sender = Sender()

    def requested_output_names(self) -> list[str]:
        return ["output_ids", "sequence_length"]

    def get_response_sender(self) -> Sender:
        return self.sender

    def answers(self) -> list[dict[str, Any]]:
        """The outputs of every response, once the last is there."""
        assert self.sender.done.wait(30)
        return [serving.outputs(response) for response in self.sender.responses]

    def message(self) -> str:
        assert self.sender.done.wait(30)
        return str(self.sender.responses[-1].error().message())


def table(seed: int = 0, rows: int = ROWS, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn((1, rows, HIDDEN), generator=torch.Generator().manual_seed(seed)).to(dtype)


TEXT = [300, 17, 555, 902]
PROMPT = [1, *range(VOCAB, VOCAB + ROWS), *TEXT]
PLACES = [0, 1, *[2] * 9, 3, 4, 5, 6, 7]


def request(
    *prompts: Sequence[int],
    tokens: int = TOKENS,
    tables: torch.Tensor | None = None,
    request_id: str = "",
    **more: Any,
) -> Request:
    """One request, a row for each prompt, right padded; `more` are further inputs by name."""
    prompts = prompts or (PROMPT,)
    longest = max(map(len, prompts))
    rows = len(prompts)
    ids = np.array([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], np.int32)
    values: dict[str, Any] = {
        "input_ids": ids,
        "input_lengths": np.array([[len(prompt)] for prompt in prompts], np.int32),
        "request_output_len": np.full((rows, 1), tokens, np.int32),
        "end_id": np.full((rows, 1), 2, np.int32),
        "pad_id": np.zeros((rows, 1), np.int32),
        **more,
    }
    made: list[Any] = [pb_utils.Tensor(name, value) for name, value in values.items()]
    given = torch.cat([table(row) for row in range(rows)]) if tables is None else tables
    return Request([*made, Tensor("prompt_embedding_table", given)], request_id)


def ids(answer: dict[str, Any]) -> list[int]:
    length = int(answer["sequence_length"][0, 0])
    found: list[int] = answer["output_ids"][0, 0, :length].tolist()
    return found


def run(model: Any, *requests: Request) -> None:
    assert model.execute(list(requests)) is None
