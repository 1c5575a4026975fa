"""A real Triton for tests: the server that `gen-repo serve` starts, on free ports of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from generator.server import Server, running


@contextlib.contextmanager
def triton(repository: Path, *, timeout: float = 180.0, arguments: Sequence[str] = ()) -> Iterator[Server]:
    """Serve `repository`; yields an object with .http, .grpc and .metrics ('host:port'), .process and .log.

    Raises generator.server.ServerError, holding the models' own messages, when it does not become ready.
    """
    with running(repository, timeout=timeout, arguments=arguments) as server:
        yield server
