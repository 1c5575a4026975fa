"""The LLM step under the contract of the Triton `tensorrtllm` backend, over the same executor, positions included.

Requests are only read here; they are batched in flight by the executor and answered by a thread of `in_flight`, so
execute() never waits for an answer, whether the model is decoupled or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import executor_loading
import torch
import triton_python_backend_utils as pb_utils
from executor_calls import Answers, Calls
from in_flight import FINAL, InFlight, Stream
from llm_request import Limits, is_stop, parse
from tensors import RequestError, failed

CANCELLATION_MS = 100


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine. On the ranks beside rank 0 this lasts until rank 0 unloads the model.

        ValueError, with the remedy, when settings and config.pbtxt disagree.
        """
        settings: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
        config = json.loads(args["model_config"])
        decoupled: bool = pb_utils.using_decoupled_model_transaction_policy(config)
        if decoupled != settings["decoupled"]:
            raise ValueError(
                f"config.pbtxt says decoupled: {decoupled}, settings.json says {settings['decoupled']}: "
                "generate the repository again, with or without --streaming, instead of editing one of them"
            )
        parameters = executor_loading.Parameters(config)
        exclude_input = parameters.get("exclude_input_in_output", executor_loading.boolean)
        self.limits = Limits(
            vocab_size=settings["vocab_size"],
            hidden_size=settings["hidden_size"],
            max_seq_len=settings["max_seq_len"],
            dtype=getattr(torch, settings["dtype"]),
            decoupled=decoupled,
            exclude_input=True if exclude_input is None else exclude_input,
            max_beam_width=parameters.get("max_beam_width", int) or 1,  # as the executor takes its absence
            step="the route python_executor",
            remedy="leave it out",
        )
        self.calls = Calls(settings)
        executor = executor_loading.load(settings["engine"], parameters)
        self.in_flight: InFlight | None = None
        if executor.can_enqueue_requests():
            period = parameters.get("cancellation_check_period_ms", int) or CANCELLATION_MS
            self.in_flight = InFlight(executor, Answers(config), period / 1000)
        else:
            executor.shutdown()  # of a further rank: waits until the first has shut down

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        """Nothing is returned: responses go out through the requests' senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._start(request, sender)
            except Exception as error:  # belongs to this request alone
                Stream(sender, 1, request.request_id()).send(failed(error), last=True)

    def finalize(self) -> None:
        if self.in_flight is not None:
            self.in_flight.close()

    def _start(self, request: pb_utils.InferenceRequest, sender: Any) -> None:
        if self.in_flight is None:
            raise RuntimeError("this process is not rank 0, which answers")
        if is_stop(request):
            if not request.request_id():
                raise RequestError("Trying to stop a request but request ID is not provided")
            self.in_flight.stop(request.request_id())
            # In one response: a front that waits must not get one before the end.
            sender.send(pb_utils.InferenceResponse([]), flags=FINAL)
            return
        rows = parse(request, self.limits)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # the tables are copies; the executor has its own stream
        calls = [self.calls.request(row) for row in rows]
        self.in_flight.start(calls, Stream(sender, len(rows), request.request_id()))
