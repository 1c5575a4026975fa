"""One client's request from admission to its final flag, and the watch for clients that go away."""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import triton_python_backend_utils as pb_utils
from bls_calls import StepError
from tensors import ERROR_ID, error_response, failed

PATHS = re.compile(r" ?\(?(/[\w.+-]+){2,}(:\d+)?\)?")
STOP_AGAIN_SECONDS = 0.1  # a stop that overtakes its request finds nothing to stop; then ever more rarely
READY_AGAIN_SECONDS = 0.5

Stop: TypeAlias = "Callable[[str, Sequence[pb_utils.Tensor]], None]"


@dataclass
class Run:
    """One row in the LLM: what a `stop` for it carries, when the next may go and how long the one after that waits."""

    stop_inputs: Sequence[pb_utils.Tensor]
    complete: bool = False
    next_stop: float = 0.0
    pause: float = STOP_AGAIN_SECONDS


class Ticket:
    """Sends the responses of one request, from any thread; one error and one final flag at most.

    Once the client has cancelled or a row has failed, nothing but the end is sent. `on_finish` runs just before it.
    """

    def __init__(
        self,
        sender: pb_utils.InferenceResponseSender,
        rows: int,
        wanted: Collection[str],
        on_finish: Callable[[Ticket], None],
    ) -> None:
        self.rows = rows
        self._wanted = wanted
        self._sender = sender
        self._on_finish = on_finish
        self._lock = threading.Lock()
        self._rows_left = rows
        self._over = False
        self._cancelled = False
        self._error: Exception | None = None
        self._runs: dict[str, Run] = {}

    @property
    def given_up(self) -> bool:
        """Nobody waits for more: the client cancelled, or an error has ended the answer."""
        return self._cancelled or self._error is not None

    def send(self, tensors: Sequence[pb_utils.Tensor]) -> None:
        """Send what the client wants of `tensors`: the server before 24.12 would drop the others in an unsafe way."""
        tensors = [tensor for tensor in tensors if tensor.name() in self._wanted]
        with self._lock:
            if not (self._over or self.given_up):
                self._sender.send(pb_utils.InferenceResponse(output_tensors=tensors))

    def fail(self, error: Exception) -> None:
        """End the answer with `error`; the first one counts."""
        with self._lock:
            self._error = self._error or error

    def row_done(self) -> None:
        """One row has nothing more to send; the last one ends the answer."""
        with self._lock:
            self._rows_left -= 1
        if self._rows_left == 0:
            self.finish()

    def finish(self) -> None:
        """Send the error if there is one, and the final flag in any case; only the first call does so."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self._on_finish(self)
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            if self._error is None or self._cancelled:
                self._sender.send(flags=flags)
            else:
                self._sender.send(_error_response(self._error), flags=flags)

    def started(self, request_id: str, stop_inputs: Sequence[pb_utils.Tensor]) -> None:
        """The LLM works on `request_id`; a `stop` for it carries `stop_inputs`."""
        self._runs[request_id] = Run(stop_inputs)

    def complete(self, request_id: str) -> None:
        """The client gets no more than what the LLM has sent for `request_id`: it shall stop."""
        self._runs[request_id].complete = True

    def ended(self, request_id: str) -> None:
        self._runs.pop(request_id, None)

    def watch(self, stop: Stop) -> None:
        """Look whether the client has cancelled; stop the LLM when nobody waits for it."""
        with self._lock:  # the sender must not be asked after the final flag, when the server has let go of it
            if not (self._over or self._cancelled):
                self._cancelled = self._sender.is_cancelled()
        now = time.monotonic()
        for request_id, run in dict(self._runs).items():
            if (self.given_up or run.complete) and now >= run.next_stop:
                run.next_stop, run.pause = now + run.pause, 2 * run.pause
                stop(request_id, run.stop_inputs)


class StoppingError(StepError):
    def __init__(self) -> None:
        message = "it is stopping, or the LLM was unloaded: send the request again when it is ready"
        super().__init__("the server", pb_utils.TritonError(message, pb_utils.TritonError.UNAVAILABLE))


def _error_response(error: Exception) -> pb_utils.InferenceResponse:
    """A step's own error has its id already; what Triton or a C++ backend says gets one here, and loses the paths and
    call stacks that may be in it."""
    if not isinstance(error, StepError):
        return failed(error)
    message = str(error)
    if ERROR_ID.search(message):
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, error.code))
    return error_response(PATHS.sub("", message.strip().splitlines()[0]), error.code, message)


class Watch:
    """One thread that watches every ticket, at most once per `poll_seconds`; it sleeps while there is none.

    A server that stops takes no more requests, those that bring the LLM's responses included, and says nothing to the
    ensemble that sends them: when `ready` says no, every answer ends with an error.
    """

    def __init__(self, poll_seconds: float, stop: Stop, ready: Callable[[], bool]) -> None:
        self._poll_seconds = poll_seconds
        self._stop = stop
        self._ready = ready
        self._next_look = 0.0
        self._tickets: set[Ticket] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def add(self, ticket: Ticket) -> None:
        with self._changed:
            self._tickets.add(ticket)
            self._changed.notify()

    def remove(self, ticket: Ticket) -> None:
        with self._changed:
            self._tickets.discard(ticket)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tickets or self._closed)
                if self._closed:
                    return
                tickets = list(self._tickets)
            stopping = self._stopping()
            for ticket in tickets:
                try:
                    ticket.watch(self._stop)
                    if stopping:
                        ticket.fail(StoppingError())
                        ticket.finish()
                except Exception:  # the watch outlives whatever happens to one request
                    pb_utils.Logger.log_error(f"watching a request failed\n{traceback.format_exc()}")
            time.sleep(self._poll_seconds)

    def _stopping(self) -> bool:
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + READY_AGAIN_SECONDS
        return not self._ready()
