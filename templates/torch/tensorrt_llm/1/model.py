"""The LLM step run by torch under the contract of the Triton `tensorrtllm` backend.

A reference and a try-out: each request row runs alone. Decoupled models answer from a pool of threads, so
that a `stop` request reaches the rows that run; others answer inside execute(), in turn. Rows that wait for a thread
keep their tables, so their number is bounded.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llm_loading
import torch_device
import triton_python_backend_utils as pb_utils
from answers import Answers
from decoding import Decoder
from llm_request import Limits, LlmRequest, is_stop, parse
from tensors import RequestError, answer_each, failed

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Load the language model. ValueError, with the remedy, when settings and checkpoint disagree."""
        settings: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
        config = json.loads(args["model_config"])
        self.decoupled: bool = pb_utils.using_decoupled_model_transaction_policy(config)
        if self.decoupled != settings["decoupled"]:
            raise ValueError(
                f"config.pbtxt says decoupled: {self.decoupled}, settings.json says {settings['decoupled']}: "
                "generate the repository again, with or without --streaming, instead of editing one of them"
            )
        device = torch_device.prepare(settings, args)
        model = llm_loading.load(settings, device)
        self.limits = Limits(
            vocab_size=settings["vocab_size"],
            hidden_size=settings["hidden_size"],
            max_seq_len=settings["max_seq_len"],
            dtype=model.get_input_embeddings().weight.dtype,
            decoupled=self.decoupled,
            exclude_input=_exclude_input(config, settings),
            carries=settings["carries"],
            decoder_start_id=settings["decoder_start_id"],
            max_beam_width=settings.get("max_beam_width", 8),  # each beam costs a row of its own, and its cache
        )
        form = importlib.import_module(settings["prompt"]["module"]).PromptForm(model, settings, device)
        self.decoder = Decoder(model, form, settings["vocab_size"], device)
        self.answers = Answers(config)
        threads: int = settings.get("max_concurrent_rows", 4)
        self.pool = ThreadPoolExecutor(threads) if self.decoupled else None
        self.max_rows: int = threads + settings.get("max_waiting_rows", 64)
        self.rows = 0  # that run or wait
        self.running: defaultdict[str, set[Stream]] = defaultdict(set)
        self.lock = threading.Lock()

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse] | None:
        """One response per request; nothing when decoupled: then responses go out through their senders."""
        if self.pool is None:
            return answer_each(requests, self._answer)
        for request in requests:
            self._start(request, self.pool)
        return None

    def finalize(self) -> None:
        """Stop what runs, so that unloading the model does not wait for long answers."""
        with self.lock:
            for stream in set().union(*self.running.values()):
                stream.stopped.set()
        if self.pool is not None:
            self.pool.shutdown()

    def _answer(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        if is_stop(request):
            _check_id(request)
            return []
        (row,) = parse(request, self.limits)
        tensors = self._whole(row, request.is_cancelled)
        if request.is_cancelled():
            raise RequestError("the request was cancelled")
        return tensors

    def _whole(self, row: LlmRequest, cancelled: Any) -> list[pb_utils.Tensor]:
        """The tensors of the only response to a row that does not stream."""
        if row.beam_width > 1:
            beams = self.decoder.beams(row, cancelled)
        else:
            beams = [list(self.decoder.tokens(row, cancelled))]
        context = self.decoder.context_logits(row) if row.context_logits else None
        return self.answers.tensors(row, beams, context, [] if row.exclude_input else row.history)

    def _start(self, request: pb_utils.InferenceRequest, pool: ThreadPoolExecutor) -> None:
        """Read a request and hand its rows to the pool; errors and stop requests are answered at once."""
        sender = request.get_response_sender()
        try:
            if is_stop(request):
                request_id = _check_id(request)
                with self.lock:
                    for stream in self.running.get(request_id, ()):
                        stream.stopped.set()
                sender.send(flags=FINAL)
                return
            rows = parse(request, self.limits)
            self._admit(len(rows))
        except Exception as error:  # belongs to this request alone
            _send(sender, failed(error))
            _send(sender, None, FINAL)
            return
        wanted = set(request.requested_output_names())
        stream = Stream(sender, len(rows), request.request_id(), wanted, self._row_done)
        with self.lock:
            self.running[stream.request_id].add(stream)
        for index, row in enumerate(rows):
            pool.submit(self._run, stream, index, row)

    def _admit(self, rows: int) -> None:
        with self.lock:
            if self.rows + rows > self.max_rows:
                raise RequestError(
                    f"{rows} row(s) wanted, {self.rows} run or wait of at most {self.max_rows}: send again later"
                )
            self.rows += rows

    def _row_done(self) -> None:
        with self.lock:
            self.rows -= 1

    def _run(self, stream: Stream, index: int, row: LlmRequest) -> None:
        """Answer one row of a decoupled request."""
        try:
            if row.streaming:
                self._stream(stream, index, row)
            else:
                tensors = self._whole(row, stream.cancelled)
                stream.send(index, pb_utils.InferenceResponse(tensors + stream.batch_index(index)), last=True)
        except Exception as error:  # belongs to this row alone
            stream.fail(index, error)
        finally:
            if stream.end(index):
                with self.lock:
                    self.running[stream.request_id].discard(stream)
                    if not self.running[stream.request_id]:
                        del self.running[stream.request_id]

    def _stream(self, stream: Stream, index: int, row: LlmRequest) -> None:
        """One response per token; the last has none when the end token or a cancellation ended the row."""
        context = self.decoder.context_logits(row) if row.context_logits else None
        last = False
        for token in self.decoder.tokens(row, stream.cancelled):
            tensors = self.answers.tensors(row, [[token]], context, prefix=[])
            stream.send(index, pb_utils.InferenceResponse(tensors + stream.batch_index(index)), token.last)
            context, last = None, token.last
        if not last:
            tensors = self.answers.tensors(row, [[]], None, prefix=[])
            stream.send(index, pb_utils.InferenceResponse(tensors + stream.batch_index(index)), last=True)


class Stream:
    """The responses of one decoupled request.

    The final flag follows the last of all its rows in a call of its own: a sender that was told to send it counts as
    closed even where it fails, as it does when shared memory cannot grow. `row_done` is called once for each row,
    before its last response goes out: a client may send its next request then.
    """

    def __init__(
        self, sender: Any, rows: int, request_id: str, wanted: Collection[str], row_done: Callable[[], None]
    ) -> None:
        self.sender = sender
        self.wanted = wanted
        self.rows = rows
        self.pending = set(range(rows))  # rows that are not over
        self.counted = set(range(rows))  # rows that row_done was not called for
        self.request_id = request_id
        self.row_done = row_done
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    def cancelled(self) -> bool:
        """Whether a stop request or the client's own cancellation ended this request."""
        return self.stopped.is_set() or self.sender.is_cancelled()

    def send(self, row: int, response: pb_utils.InferenceResponse, last: bool) -> None:
        """Send what the client wants of one response of `row`; `last` means its last one. Raises if that fails.

        The server before 24.12 would drop the other outputs without the interpreter's lock, and end this step so.
        """
        if last:
            self._discount(row)
        tensors = [tensor for tensor in response.output_tensors() if tensor.name() in self.wanted]
        with self.lock:
            self.sender.send(pb_utils.InferenceResponse(tensors))

    def fail(self, row: int, error: Exception) -> None:
        """Tell the client that `row` failed, if it can still be told."""
        self._discount(row)
        with self.lock:
            _send(self.sender, failed(error))

    def end(self, row: int) -> bool:
        """`row` is over, however it ended; True if it was the last one of the request."""
        with self.lock:
            self.pending.discard(row)
            if not self.pending:
                _send(self.sender, None, FINAL)
            return not self.pending

    def _discount(self, row: int) -> None:
        """Call row_done for `row`, once."""
        with self.lock:
            first = row in self.counted
            self.counted.discard(row)
        if first:
            self.row_done()

    def batch_index(self, index: int) -> list[pb_utils.Tensor]:
        """The output that tells the rows of a request apart; the backend leaves it out for a single row."""
        return [Answers.index_tensor("batch_index", index)] if self.rows > 1 else []


def _send(sender: Any, response: pb_utils.InferenceResponse | None, flags: int = 0) -> None:
    """Send what nobody else can answer for: a failure is for the log."""
    try:
        sender.send(response, flags=flags)
    except Exception as error:
        pb_utils.Logger.log_error(f"a response could not be sent: {error!r}")


def _check_id(request: pb_utils.InferenceRequest) -> str:
    request_id: str = request.request_id()
    if not request_id:
        raise RequestError("Trying to stop a request but request ID is not provided")
    return request_id


def _exclude_input(config: dict[str, Any], settings: dict[str, Any]) -> bool:
    """The parameter of config.pbtxt, if it holds one of the backend's spellings, or else the setting."""
    value = config.get("parameters", {}).get("exclude_input_in_output", {}).get("string_value", "")
    if value in ("True", "true", "TRUE", "1"):
        return True
    if value in ("False", "false", "FALSE", "0"):
        return False
    return bool(settings.get("exclude_input_in_output", True))
