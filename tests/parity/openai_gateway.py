"""`gen-repo openai` for tests, and OpenAI's own client asking it."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

from tests.parity.client import MAX_TOKENS


def uri(image: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(image).decode()


def message(text: str, images: tuple[bytes, ...] = ()) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": uri(image)}} for image in images]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


@contextlib.contextmanager
def gateway(where: Path | str, grpc: str | None = None) -> Iterator[str]:
    """The gateway before the server of a repository at `grpc`, or with a server of its own; yields its base URL.

    `where` is the repository, or the gRPC address of a server alone.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "generator", "openai", str(where), "--port", str(port)]
    command += [] if grpc is None else ["--url", grpc]
    with (
        tempfile.TemporaryFile("w+b") as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except OSError:
                    assert process.poll() is None, said.seek(0) or said.read().decode()
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def client_of(url: str) -> tuple[openai.OpenAI, str]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    [model] = client.models.list().data
    return client, model.id


def whole(client: openai.OpenAI, model: str, messages: list[Any], **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages, **{"max_tokens": MAX_TOKENS, **options})


def streamed(client: openai.OpenAI, model: str, messages: list[Any], **options: Any) -> tuple[list[str], Any]:
    """The pieces of the first choice, and the usage."""
    pieces, usage = [], None
    for chunk in whole(client, model, messages, stream=True, stream_options={"include_usage": True}, **options):
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        usage = chunk.usage or usage
    return pieces, usage
