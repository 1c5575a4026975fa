"""Fetching images from URLs, from a real server on this machine."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fetch import Fetcher, is_public
from tensors import RequestError

from tests.unit.serving import file


class Pages(http.server.BaseHTTPRequestHandler):
    """What a host may answer, by path."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/ok.png")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        body = file(3)
        self.send_response(200)
        if self.path == "/gzip":
            self.send_header("Content-Encoding", "gzip")
        if self.path == "/short":
            self.send_header("Content-Length", str(len(body) + 10))
        self.end_headers()
        try:
            if self.path == "/slow":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            elif self.path == "/endless":
                while True:
                    self.wfile.write(bytes(1 << 16))
            else:
                self.wfile.write(body)
        except OSError:  # the client had enough
            pass

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetcher(host: http.server.ThreadingHTTPServer, **options: Any) -> tuple[Fetcher, str]:
    origin = f"http://localhost:{host.server_address[1]}"
    return Fetcher([origin], 1 << 20, **{"may_dial": lambda address: True, **options}), origin


def test_fetch_reads_a_file(host: Any) -> None:
    fetch, origin = fetcher(host)
    assert fetch(f"{origin}/a b/é.png?size=1#part") == file(3)
    assert host.seen[-1] == ("/a%20b/%C3%A9.png?size=1", origin.removeprefix("http://"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/redirect", "localhost redirects, which is not followed"),
        ("/missing", "localhost answers with status 404"),
        ("/gzip", "compressed body"),
        ("/short", "broke off before the end"),
        ("/endless", "larger than 1048576 bytes"),
    ],
)
def test_fetch_refusals(host: Any, path: str, message: str) -> None:
    fetch, origin = fetcher(host)
    with pytest.raises(RequestError, match=message):
        fetch(origin + path)


def test_fetch_ends_in_time_though_bytes_trickle_in(host: Any) -> None:
    fetch, origin = fetcher(host, seconds=0.4)
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"localhost did not deliver within 0.4 s"):
        fetch(f"{origin}/slow")
    assert time.monotonic() - start < 2


def test_fetch_dials_public_addresses_only(host: Any) -> None:
    origin = f"http://localhost:{host.server_address[1]}"
    before = len(host.seen)
    with pytest.raises(RequestError, match="localhost is not a public address"):
        Fetcher([origin], 1 << 20)(f"{origin}/ok.png")
    assert len(host.seen) == before


def test_fetch_dials_the_address_that_was_checked(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to something else the second time must not matter."""
    resolutions: list[str] = []
    resolve = socket.getaddrinfo

    def counting(name: Any, *args: Any, **options: Any) -> Any:
        resolutions.append(name)
        return resolve(name, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", counting)
    fetch, origin = fetcher(host)
    assert fetch(f"{origin}/ok.png") == file(3)
    assert resolutions.count("localhost") == 1


def test_listed_hosts_are_exact() -> None:
    fetch = Fetcher(["images.example.com", "http://plain.example.com", "odd.example.com:8443"], 100)
    allowed = ["https://images.example.com/a", "HTTPS://IMAGES.EXAMPLE.COM:443/a", "http://plain.example.com/a",
               "https://odd.example.com:8443/a"]  # fmt: skip
    refused = ["http://images.example.com/a", "https://images.example.com:444/a", "https://plain.example.com/a",
               "https://images.example.com.evil.test/a", "https://evil.test/images.example.com",
               "https://example.com/a", "https://odd.example.com/a"]  # fmt: skip
    for url in allowed:
        assert fetch._allowed(url)
    for url in refused:
        with pytest.raises(RequestError, match="is not among the image hosts"):
            fetch._allowed(url)


def test_public_addresses() -> None:
    assert all(map(is_public, ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]))
    private = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
               "0.1.2.3", "224.0.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
               "2002:a00:1::", "2001:0:a00:1::", "::", "ff02::1"]  # fmt: skip
    assert [address for address in private if is_public(address)] == []
