"""`gen-repo openai`: the gateway beside a running server, or with a server of its own."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from generator import manifest, server
from generator.gateway.messages import ChatFormat
from generator.server import ServerError

LEAVE_SECONDS = 5  # for answers that are still being sent when the gateway is told to end
AGAIN = "generate the repository again with this gen-repo, or give the host:port of a server"


@dataclass(frozen=True)
class Target:
    """What the gateway stands before.

    Attributes:
        names: Triton model per role. chat: None = the repository's files are not at hand. limits: preprocessing's.
    """

    model: str
    names: dict[str, str]
    chat: ChatFormat | None = None
    limits: dict[str, int | None] = field(default_factory=dict)


def target(repository: Path) -> Target:
    """Of a generated repository. Raises ServerError when it is not one of ours."""
    content = manifest.read(repository)
    if content is None:
        raise ServerError(f"{repository} holds no manifest of gen-repo", AGAIN)
    names = dict(content["models"])
    file = repository / names["preprocessing"] / "1/settings.json"
    try:
        chat = ChatFormat.read(repository)
        limits = dict(json.loads(file.read_text("utf-8"))["limits"])
    except (OSError, ValueError, KeyError) as error:
        raise ServerError(f"{repository} has no readable chat.json or {file.name}: {error}", AGAIN) from error
    return Target(str(content["variant"]), names, chat, limits)


def run(where: str, *, url: str | None, host: str, port: int, model: str | None, max_body: int) -> int:
    """Serve until SIGINT or SIGTERM; returns 0.

    Args:
        where: a repository's folder, or host:port of a server's gRPC service.
        url: gRPC service of a server that has the folder's repository loaded; None = start one.
        model: name for clients; None = the repository's variant. max_body: of a request, in bytes.

    Raises:
        ServerError: a package is missing, the folder is none of ours, or the server does not start.
    """
    try:
        import uvicorn

        from generator.gateway import app
        from generator.gateway.triton import Triton
    except ImportError as error:
        remedy = "pip install 'gen-repo[openai]'"
        raise ServerError(f"the Python package {error.name} is not installed", remedy) from None
    folder = Path(where)
    if folder.is_dir():
        known = target(folder)
    elif ":" in where and url is None:
        url = where
        known = Target("ensemble", {})
    else:
        raise ServerError(f"{where} is neither a folder nor host:port", "give a repository, or host:port of a server")
    # Else SIGTERM, which uvicorn raises again after it has closed, would end us and leave the server behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with _server(folder, url) as (grpc, metrics):
        served = app.Model(
            model or known.model, known.chat, known.limits.get("default_max_tokens"), known.limits.get("max_seq_len")
        )
        application = app.create(Triton(grpc, known.names, metrics), served, max_body=max_body)
        print(f"{served.name} at http://{host}:{port}/v1, a page to try it at http://{host}:{port}/", flush=True)
        uvicorn.run(application, host=host, port=port, log_level="warning", timeout_graceful_shutdown=LEAVE_SECONDS)
    return 0


@contextlib.contextmanager
def _server(repository: Path, url: str | None) -> Iterator[tuple[str, str | None]]:
    """host:port of the gRPC service and of the metrics: the given server's, whose metrics are not known, else those of
    a server started for the time of the block."""
    if url is not None:
        yield url, None
        return
    with server.running(repository, timeout=1800.0) as started:
        yield started.grpc, started.metrics
