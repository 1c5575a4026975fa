"""Hosts of the internet for tests of fetching: real servers on this machine, names that lead where a test says."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.unit.serving import file

BODY = file(3)


class Pages(http.server.BaseHTTPRequestHandler):
    """What a host may answer, by path; `server.redirects` are paths that lead elsewhere."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.seen.append((self.path, self.headers["Host"]))
        if self.path in server.redirects:
            status, location = server.redirects[self.path]
            self.send_response(status)
            self.send_header("Location", location)
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/slow-head":
            self.flush_headers()
            for number in range(100):
                self.send_header(f"X-{number}", "x")
                self.flush_headers()
                time.sleep(0.05)
        if self.path == "/gzip":
            self.send_header("Content-Encoding", "gzip")
        if self.path == "/short":
            self.send_header("Content-Length", str(len(BODY) + 10))
        if self.path == "/announced":
            self.send_header("Content-Length", str(1 << 40))
        if self.path == "/liar":
            self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.path == "/slow":
            for byte in BODY:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        elif self.path == "/endless":
            while True:
                self.wfile.write(bytes(1 << 16))
        elif self.path == "/page.png":
            self.wfile.write(b"<html>no image</html>")
        else:
            self.wfile.write(BODY)

    def handle(self) -> None:
        with suppress(OSError):  # the client had enough
            super().handle()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Any]:
    """A server on a free port of 127.0.0.1, with `seen` (path, Host) and `redirects` (path: status, location)."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    server.seen, server.redirects = [], {}  # type: ignore[attr-defined]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Names:
    """A resolver: each name has a list of answers, given in turn, the last one for ever. `asked` notes the names."""

    def __init__(self, patch: pytest.MonkeyPatch, answers: Mapping[str, list[list[str]]]) -> None:
        self.asked: list[str] = []
        self._answers = {name: list(turns) for name, turns in answers.items()}
        self._system = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self._resolve)

    def _resolve(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host in ("127.0.0.1", "127.0.0.2"):  # dialled, not looked up
            return self._system(host, port, *args, **options)
        self.asked.append(host)
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        turns = self._answers[host]
        addresses = turns.pop(0) if len(turns) > 1 else turns[0]
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in a], socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]
