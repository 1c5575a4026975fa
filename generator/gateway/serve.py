"""`gen-repo openai`: the gateway beside a running server, or with a server of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from generator import ask, loaded, manifest, server, supervise
from generator.gateway.messages import ChatFormat
from generator.server import ServerError

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
    """Of a generated repository. Raises Refused when it is not one of ours, ServerError when a file cannot be read."""
    content = manifest.of(repository, manifest.OR_SERVER)
    names = dict(content["models"])
    file = repository / names["preprocessing"] / "1/settings.json"
    try:
        chat = ChatFormat.read(repository)
        limits = dict(json.loads(file.read_text("utf-8"))["limits"])
    except (OSError, ValueError, KeyError) as error:
        raise ServerError(f"{repository} has no readable chat.json or {file.name}: {error}", AGAIN) from error
    return Target(str(content["variant"]), names, chat, limits)


def _compare(folder: Path, known: Target, url: str) -> None:
    try:
        client = ask.connect(url)
    except ServerError:
        return  # it may come later; requests get 503 until then
    with client:
        loaded.must_be(folder, known.names.values(), url, client)


def run(
    where: str,
    *,
    url: str | None,
    host: str,
    port: int,
    model: str | None,
    max_body: int,
    restarts: int = supervise.RESTARTS,
) -> int:
    """Serve until SIGINT or SIGTERM; returns 0.

    A server of its own is kept up as `gen-repo serve` does; requests get 503 while it is started again.

    Args:
        where: a repository's folder, or host:port of a server's gRPC service.
        url: gRPC service of a server that has the folder's repository loaded; None = start one.
        model: name for clients; None = the repository's variant. max_body: of a request, in bytes.
        restarts: how often in a row the server is started again.

    Raises:
        ServerError: a package is missing, the folder is none of ours or not the one loaded at `url`, the port
            is taken, or the server does not start or has ended once more.
    """
    try:
        from generator.gateway import app
        from generator.gateway.triton import Nowhere, Place, Triton
        from generator.gateway.web import Web
    except ImportError as error:
        remedy = "pip install 'gen-repo[openai]'"
        raise ServerError(f"the Python package {error.name} is not installed", remedy) from None
    folder = Path(where)
    if url is None and ":" in where and not folder.is_dir():
        url = where
        known = Target("ensemble", {})
    else:
        known = target(folder)
        if url is not None:
            _compare(folder, known, url)
    served = app.Model(
        model or known.model, known.chat, known.limits.get("default_max_tokens"), known.limits.get("max_seq_len")
    )
    triton = Triton(Nowhere(1), known.names)
    with supervise.interruptible():
        web = Web(app.create(triton, served, max_body=max_body), triton, host, port, served.name)
        try:
            if url is None:
                supervise.keep(partial(server.running, folder, timeout=1800.0), web, restarts=restarts)
            web.stand_before(Place(url))
            web.wait()
        except KeyboardInterrupt:
            pass
        finally:
            web.leave()
    return 0
