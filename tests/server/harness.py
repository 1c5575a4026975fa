"""A real Triton for tests: the server that `gen-repo serve` starts, on free ports of this machine."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tritonclient.grpc import InferenceServerClient

from generator.server import Server, running

SETTLED = 1.0  # seconds


class Kept(contextlib.ExitStack):
    """A server that is started again, on other ports, when it is asked for after it has ended.

    Triton 2.51 takes a Python step that gets no CPU for a second for dead and may end with it; on a busy machine that
    would fail every test that shares the server.
    """

    def __init__(self, repository: Path, timeout: float, arguments: Sequence[str]) -> None:
        super().__init__()
        self._repository, self._timeout, self._arguments = repository, timeout, arguments
        self._server: Server | None = None

    def server(self) -> Server:
        if self._server is None or self._server.process.poll() is not None:
            self.close()
            started = running(self._repository, timeout=self._timeout, arguments=self._arguments)
            self._server = self.enter_context(started)
        return self._server

    @property
    def grpc(self) -> str:
        return self.server().grpc

    @property
    def http(self) -> str:
        return self.server().http

    @property
    def metrics(self) -> str:
        return self.server().metrics

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Of the latest server, which may have ended."""
        assert self._server is not None
        return self._server.process

    @property
    def log(self) -> Path:
        assert self._server is not None
        return self._server.log


@contextlib.contextmanager
def triton(repository: Path, *, timeout: float = 180.0, arguments: Sequence[str] = ()) -> Iterator[Kept]:
    """Serve `repository`; yields an object with .http, .grpc and .metrics ('host:port'), .process and .log.

    Raises generator.server.ServerError, holding the models' own messages, when it does not become ready.
    """
    with Kept(repository, timeout, arguments) as kept:
        kept.server()
        yield kept


def executions(client: InferenceServerClient, model: str) -> int:
    """How often the server has called the model, once it has stopped counting: it counts after it has answered."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < SETTLED:
        count = int(client.get_inference_statistics(model).model_stats[0].execution_count)
        if count != seen:
            seen, since = count, time.monotonic()
        time.sleep(SETTLED / 10)
    return seen
