"""Keep a repository served in the foreground: start the server again when it or one of its Python steps has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from generator import processes
from generator.findings import EXIT_USAGE, Refused, error
from generator.server import Server, ServerError, died, running

RESTARTS = 3
STEADY_SECONDS = 300.0  # a server that served so long is not one that ends again and again
LONGEST_PAUSE = 30.0
LAST_WORDS_SECONDS = 5.0  # for requests that can do without the step that has ended
POLL_SECONDS = 0.2
GOING_SECONDS = 5.0  # a killed server: its steps may be seen to have left it well before the kernel is done with it


class Face:
    """What stands before the server and is told how it fares. This one says where it is; nothing else stands there."""

    name = "gen-repo serve"

    def ready(self, server: Server) -> None:
        """The server answers, for the first time or again."""
        print(f"ready: http {server.http}, grpc {server.grpc}, metrics {server.metrics}", flush=True)

    def gone(self, seconds: float) -> None:
        """It does not answer any more; if it may be started again, it will in about so many seconds."""

    def leave(self) -> None:
        """The user has had enough, and the server still runs: it ends after this."""


def serve(
    repository: Path,
    *,
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    address: str = "127.0.0.1",
    timeout: float = 1800.0,
    exit_timeout: int = 30,
    restarts: int = RESTARTS,
    arguments: Sequence[str] = (),
) -> int:
    """Serve `repository` in the foreground until SIGINT or SIGTERM; returns 0.

    Prints one line with the addresses when ready, then the server's log on stderr. Requests that run may end within
    `exit_timeout` seconds after a signal; a second signal ends the server at once. It is kept up as keep() does.
    Raises Refused when there is no model repository, ServerError when the server does not start, or ends once more.
    """
    if not any(repository.glob("*/config.pbtxt")):
        what = "the folder holds no model repository" if repository.is_dir() else "there is no such folder"
        remedy = "give the folder that gen-repo wrote"
        raise Refused(error("no-repository", what, repository, remedy), exit_code=EXIT_USAGE)
    start = partial(
        running,
        repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        address=address,
        timeout=timeout,
        exit_timeout=exit_timeout,
        arguments=arguments,
    )
    with interruptible():
        try:
            keep(start, Face(), restarts=restarts)
        except KeyboardInterrupt:
            return 0


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt. A shell's & may have had the first ignored;
    who ignores the last, as nohup does, goes on when the terminal is closed."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def keep(
    start: Callable[[], contextlib.AbstractContextManager[Server]], face: Face, *, restarts: int = RESTARTS
) -> NoReturn:
    """Keep the server up that `start` starts, and copy its log to stderr, until KeyboardInterrupt.

    When the server or one of its Python steps ends by itself, everything is started again after 2, 4, 8, ... seconds,
    at most `restarts` times in a row; a server that was ready for STEADY_SECONDS begins the count anew.
    Raises ServerError when the server does not start, or ends once more.
    """
    failures = 0
    while True:
        began, ready = time.monotonic(), None
        try:
            with start() as server, server.log.open(errors="replace") as log:
                ready = time.monotonic()
                steps = processes.steps(server.process.pid)
                face.ready(server)
                try:
                    problem = _followed(server, steps, log)
                except KeyboardInterrupt:
                    face.leave()
                    raise
                if time.monotonic() - ready > STEADY_SECONDS:
                    failures = 0
                face.gone(_pause(failures + 1) + ready - began)
                _end(server.process)
                raise problem
        except ServerError as error:
            if ready is None and not failures:
                raise  # what never started will not start the next time
            failures += 1
            if failures > restarts:
                raise
            pause = _pause(failures)
            note = f"starting again in {pause:.0f} s ({failures} of {restarts} times in a row)"
            print(f"{face.name}: {error.message}\n{face.name}: {note}", file=sys.stderr, flush=True)
            time.sleep(pause)


def _pause(failures: int) -> float:
    return min(2.0**failures, LONGEST_PAUSE)


def _followed(server: Server, steps: dict[int, processes.Step], log: TextIO) -> ServerError:
    """Copy its log to stderr as long as it and its `steps` run; what it was that ended that."""
    log.seek(0, os.SEEK_END)
    while server.process.poll() is None:
        gone = processes.ended(server.process.pid, steps)
        if gone and not _is_ending(server.process, gone):
            names = ", ".join(f"{step.model} (process {step.pid}, {step.how})" for step in gone)
            return ServerError(
                f"Python step ended: {names}; Triton does not start it again, and still says that it is ready",
                "look in the log above for its last words; SIGKILL often means too little memory",
            )
        _copy(log)
        time.sleep(POLL_SECONDS)
    _copy(log)
    return died(server.process, server.log)


def _is_ending(process: subprocess.Popen[bytes], gone: Sequence[processes.Step]) -> bool:
    """Whether the server itself has ended: its steps then leave it for another parent, and it has no chance to wait.

    A step that ends under a living server stays its child, of which the system still knows how it ended.
    """
    if any(step.how != processes.GONE for step in gone):
        return process.poll() is not None
    try:
        process.wait(GOING_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """From here on nobody takes the server for ready. It cannot end in order: it would wait for the step."""
    process.terminate()
    try:
        process.wait(LAST_WORDS_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _copy(log: TextIO) -> None:
    sys.stderr.write(log.read())
    sys.stderr.flush()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
