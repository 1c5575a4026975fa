"""Requests that are being answered: all share the executor, which batches them in flight; one thread hands out what
it brings."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import triton_python_backend_utils as pb_utils
from executor_calls import Answers
from tensorrt_llm.bindings import executor as trtllm
from tensors import failed

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
POLL = datetime.timedelta(milliseconds=20)  # until the thread looks for cancelled requests, and for the end


class Stream:
    """The responses of one request. The final flag follows the last of all its rows in a call of its own: a sender that
    was told to send it counts as closed even where it fails, as it does when shared memory cannot grow."""

    def __init__(self, sender: Any, rows: int, request_id: str) -> None:
        self.sender = sender
        self.rows = rows
        self.pending = rows
        self.request_id = request_id

    def send(self, response: pb_utils.InferenceResponse, last: bool) -> bool:
        """Send one response; `last` means the last one of its row.

        False if that failed: the log has why, the client gets an error if it can still be told, and the row is over.
        """
        try:
            self.sender.send(response)
        except Exception as error:
            sent = False
            self._try(failed(error))
        else:
            sent = True
        if last or not sent:
            self.pending -= 1
            if self.pending == 0:
                self._try(None, FINAL)
        return sent

    def cancelled(self) -> bool:
        """Whether the client has gone; False while that cannot be asked."""
        try:
            return bool(self.sender.is_cancelled())
        except Exception as error:
            pb_utils.Logger.log_warn(f"request {self.request_id!r}: cannot tell whether it was cancelled: {error!r}")
            return False

    def _try(self, response: pb_utils.InferenceResponse | None, flags: int = 0) -> None:
        """Not decoupled, a request takes no error after the answer that failed, only its end: Triton makes that one."""
        try:
            self.sender.send(response, flags=flags)
        except Exception as error:
            pb_utils.Logger.log_error(f"request {self.request_id!r} could not be told how it ended: {error!r}")


class Row(NamedTuple):
    stream: Stream
    place: int  # among the rows of its request


class InFlight:
    """Safe to use from several threads."""

    def __init__(self, executor: trtllm.Executor, answers: Answers, cancellation_seconds: float) -> None:
        self._executor = executor
        self._answers = answers
        self._cancellation_seconds = cancellation_seconds
        self._running: dict[int, Row] = {}
        self._lock = threading.Lock()
        self._failed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="await_responses", daemon=True)
        self._thread.start()

    def start(self, requests: Sequence[trtllm.Request], stream: Stream) -> None:
        """Begin to answer the rows of one request. Raises RuntimeError when the executor is gone."""
        with self._lock:  # no result is handed out before its row is known
            if self._failed:
                raise RuntimeError("the executor has failed: see the server's log, and load the model again")
            numbers = self._executor.enqueue_requests(list(requests))
            self._running.update((number, Row(stream, place)) for place, number in enumerate(numbers))

    def stop(self, request_id: str) -> None:
        """Cancel what runs for the request with this id, if anything does."""
        with self._lock:
            numbers = [number for number, row in self._running.items() if row.stream.request_id == request_id]
        self._cancel(numbers)

    def close(self) -> None:
        """Cancel what runs, wait until it has been answered, and free the engine."""
        with self._lock:
            numbers = list(self._running)
        self._cancel(numbers)
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()

    def _watch(self) -> None:
        due = time.monotonic() + self._cancellation_seconds
        try:
            while self._running or not self._closing.is_set():
                for response in self._executor.await_responses(timeout=POLL):
                    self._hand_out(response)
                if time.monotonic() >= due:
                    self._cancel_abandoned()
                    due = time.monotonic() + self._cancellation_seconds
        except Exception as error:
            self._fail(error)

    def _hand_out(self, response: trtllm.Response) -> None:
        """Send one response of the executor to the client that waits for it; what fails here is that row's alone."""
        number = response.request_id
        last = response.has_error() or response.result.is_final
        with self._lock:
            row = self._running.pop(number, None) if last else self._running.get(number)
        if row is None:  # of a row that ended when a response of it could not be sent
            return
        try:
            made = self._made(response, row)
        except Exception as error:
            made = failed(error)
        if not row.stream.send(made, last) and not last:
            with self._lock:
                del self._running[number]
            self._cancel([number])

    def _made(self, response: trtllm.Response, row: Row) -> pb_utils.InferenceResponse:
        """Raises RuntimeError with what the executor says, which may show the inside of it: it is for the log."""
        if response.has_error():
            raise RuntimeError(f"the executor on its request {response.request_id}: {response.error_msg}")
        return pb_utils.InferenceResponse(self._answers.tensors(response.result, row.place, row.stream.rows))

    def _cancel_abandoned(self) -> None:
        """Cancel the rows whose client has gone."""
        with self._lock:
            streams = {row.stream for row in self._running.values()}
        left = {stream for stream in streams if stream.cancelled()}
        if left:
            with self._lock:
                numbers = [number for number, row in self._running.items() if row.stream in left]
            self._cancel(numbers)

    def _cancel(self, numbers: Sequence[int]) -> None:
        """The executor answers a cancelled request with what it has, and with nothing after its end."""
        for number in numbers:
            self._executor.cancel_request(number)

    def _fail(self, error: Exception) -> None:
        """Nothing more will come: answer what runs, so that no client waits for ever."""
        pb_utils.Logger.log_error(f"the executor failed, load the model again: {error!r}")
        with self._lock:  # no row is taken on after this, since nobody would answer it
            self._failed = True
            rows, self._running = list(self._running.values()), {}
        for row in rows:
            row.stream.send(failed(error), last=True)
