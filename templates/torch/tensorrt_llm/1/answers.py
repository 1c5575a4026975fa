"""The output tensors of the LLM backend's contract, made from generated tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from decoding import Token, kept
from llm_request import LlmRequest
from numpy.typing import NDArray

PAD = -1  # fills beams of unequal length, in ids and in log probabilities


class Answers:
    """Makes responses; the logits get the type that config.pbtxt declares for them (FP32 or FP16)."""

    def __init__(self, config: dict[str, Any]) -> None:
        declared = {output["name"]: output["data_type"] for output in config["output"]}
        self.types = {name: pb_utils.triton_string_to_numpy(kind) for name, kind in declared.items()}

    def tensors(
        self,
        row: LlmRequest,
        beams: Sequence[Sequence[Token]],
        context: torch.Tensor | None,
        prefix: Sequence[int],
    ) -> list[pb_utils.Tensor]:
        """The tensors of one response: what `row` asked for, of the tokens in `beams`.

        `prefix` is put before the ids of each beam; `context` are the logits [L, V] of the prompt, if wanted.
        """
        answers = [kept(beam) for beam in beams]
        ids = [[*prefix, *(token.id for token in answer)] for answer in answers]
        tensors = [
            pb_utils.Tensor("output_ids", _padded(ids, np.int32)[None]),
            pb_utils.Tensor("sequence_length", np.array([[len(own) for own in ids]], dtype=np.int32)),
        ]
        if row.log_probs:
            cumulative = [beam[-1].cum_log_prob if beam else 0.0 for beam in beams]
            log_probs = [[token.log_prob for token in answer] for answer in answers]
            tensors.append(pb_utils.Tensor("cum_log_probs", np.array([cumulative], dtype=np.float32)))
            tensors.append(pb_utils.Tensor("output_log_probs", _padded(log_probs, np.float32)[None]))
        if context is not None:
            tensors.append(self._logits("context_logits", context.cpu().numpy()[None]))
        if row.generation_logits:
            tensors.append(self._logits("generation_logits", _stacked(answers)[None]))
        return tensors

    @staticmethod
    def index_tensor(name: str, index: int) -> pb_utils.Tensor:
        """An INT32 output of shape [1, 1]."""
        return pb_utils.Tensor(name, np.array([[index]], dtype=np.int32))

    def _logits(self, name: str, logits: NDArray[Any]) -> pb_utils.Tensor:
        return pb_utils.Tensor(name, logits.astype(self.types.get(name, np.float32)))


def _padded(rows: Sequence[Sequence[float]], dtype: Any) -> NDArray[Any]:
    padded = np.full((len(rows), max(map(len, rows))), PAD, dtype=dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _stacked(answers: Sequence[Sequence[Token]]) -> NDArray[Any]:
    """Raw logits [beams, longest, V]; zeros where a beam is shorter."""
    rows = [[token.logits.numpy() for token in answer if token.logits is not None] for answer in answers]
    width = next((len(logits) for row in rows for logits in row), 0)
    stacked = np.zeros((len(rows), max(map(len, rows)), width), dtype=np.float32)
    for target, row in zip(stacked, rows, strict=True):
        for position, logits in enumerate(row):
            target[position] = logits
    return stacked
