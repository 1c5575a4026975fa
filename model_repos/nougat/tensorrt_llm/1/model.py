"""The LLM step of an encoder-decoder under the contract of the `tensorrtllm` backend, which cannot run it.

All requests of a dynamic batch whose tokens are chosen alike are decoded together, by one call of the engines; the
next batch waits for the longest answer of it. Answers are whole: nothing streams.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import enc_dec_calls
import torch
import triton_python_backend_utils as pb_utils
from enc_dec_engine import EncDecEngine
from llm_request import Limits, LlmRequest, is_stop, parse
from tensors import failed


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the engines. On the ranks beside rank 0 this lasts until rank 0 unloads the model."""
        settings: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
        self.settings = settings
        self.limits = Limits(
            vocab_size=settings["vocab_size"],
            hidden_size=settings["hidden_size"],
            max_seq_len=settings["max_seq_len"],
            dtype=getattr(torch, settings["dtype"]),
            decoupled=False,
            exclude_input=True,
            carries=settings["carries"],
            decoder_start_id=settings["decoder_start_id"],
            step="the route python_enc_dec",
            remedy="leave it out",
        )
        self.engine = EncDecEngine(settings)
        if self.engine.rank > 0:
            self.engine.follow()

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """One response per request, in order. A bad request fails alone, a failed call with all that shared it."""
        rows: dict[int, LlmRequest] = {}
        responses: dict[int, pb_utils.InferenceResponse] = {}
        for index, request in enumerate(requests):
            try:
                if is_stop(request):  # what could be stopped has been answered before this is read
                    responses[index] = pb_utils.InferenceResponse([])
                    continue
                [row] = parse(request, self.limits)
                enc_dec_calls.check(row, self.settings)
                rows[index] = row
            except Exception as error:
                responses[index] = failed(error)
        for members in enc_dec_calls.batches(rows, self.settings["max_batch"]):
            responses |= self._decoded({index: rows[index] for index in members})
        return [responses[index] for index in range(len(requests))]

    def finalize(self) -> None:
        self.engine.close()

    def _decoded(self, rows: dict[int, LlmRequest]) -> dict[int, pb_utils.InferenceResponse]:
        """The responses to rows that share a call."""
        try:
            found = self.engine(enc_dec_calls.call(list(rows.values())))
            return {
                index: pb_utils.InferenceResponse(enc_dec_calls.answer(row, beams))
                for (index, row), beams in zip(rows.items(), found, strict=True)
            }
        except Exception as error:
            return {index: failed(error) for index in rows}
