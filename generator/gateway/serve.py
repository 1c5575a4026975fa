"""`gen-repo openai`: the gateway beside a running server, or with a server of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from generator import manifest, server
from generator.gateway.messages import ChatFormat
from generator.server import ServerError

AGAIN = "generate the repository again with this gen-repo, or give the host:port of a server"


@dataclass(frozen=True)
class Target:
    """What the gateway stands before.

    Attributes:
        names: Triton model per role. chat: None = the repository's files are not at hand.
    """

    model: str
    names: dict[str, str]
    chat: ChatFormat | None


def target(repository: Path) -> Target:
    """Of a generated repository. Raises ServerError when it is not one of ours."""
    content = manifest.read(repository)
    if content is None:
        raise ServerError(f"{repository} holds no manifest of gen-repo", AGAIN)
    try:
        chat = ChatFormat.read(repository)
    except (OSError, ValueError, KeyError) as error:
        raise ServerError(f"{repository} has no readable chat.json: {error}", AGAIN) from error
    return Target(str(content["variant"]), dict(content["models"]), chat)


def run(where: str, *, url: str | None, host: str, port: int, model: str | None) -> int:
    """Serve until SIGINT or SIGTERM; returns 0.

    Args:
        where: a repository's folder, or host:port of a server's gRPC service.
        url: gRPC service of a server that has the folder's repository loaded; None = start one.
        model: name for clients; None = the repository's variant.

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
        roles = ("ensemble", "tensorrt_llm_bls", "preprocessing")
        known = Target("ensemble", {role: role for role in roles}, None)
    else:
        raise ServerError(f"{where} is neither a folder nor host:port", "give a repository, or host:port of a server")
    with _triton(folder, url) as grpc:
        names = known.names
        front = names.get("tensorrt_llm_bls", "tensorrt_llm_bls")
        triton = Triton(grpc, names["ensemble"], front, names["preprocessing"])
        served = model or known.model
        application = app.create(triton, served, known.chat)
        print(f"{served} at http://{host}:{port}/v1, a page to try it at http://{host}:{port}/", flush=True)
        uvicorn.run(application, host=host, port=port, log_level="warning")
    return 0


@contextlib.contextmanager
def _triton(repository: Path, url: str | None) -> Iterator[str]:
    """host:port of the gRPC service: the given one, else that of a server started for the time of the block."""
    if url is not None:
        yield url
        return
    with server.running(repository, timeout=1800.0) as started:
        yield started.grpc
