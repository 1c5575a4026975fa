"""The one place of the repository that fetches an image from a URL: only from hosts that its owner listed.

A client that could name any address would read the server's own network. So: listed hosts only, no redirects,
no credentials, and the address that was checked to be public is the address that is dialled.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from tensors import RequestError

CHUNK = 1 << 16
URL_SIGNS = "%/:=&?~+!$,;'@()*[]"  # left as they are; what else a client wrote unquoted is quoted
PORTS = {"http": 80, "https": 443}
# IPv6 ranges that carry an IPv4 address inside: that they are global says nothing about where they lead
TRANSLATED = [ipaddress.IPv6Network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Fetcher:
    """Fetches files of at most `max_bytes` bytes, each within `seconds`, from the listed hosts.

    A host is written `images.example.com`, `host:8443`, or with its scheme; plain http must be written out.
    An empty list refuses every URL.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        seconds: float = 10.0,
        may_dial: Callable[[str], bool] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`may_dial` judges a resolved address; `tls` is the system's trust by default."""
        self._origins = {_origin(urlsplit(host if "://" in host else f"https://{host}")) for host in hosts}
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._may_dial = may_dial or is_public
        self._tls = tls or ssl.create_default_context()

    def __call__(self, url: str) -> bytes:
        """The body at `url`. Raises RequestError when it is refused, too large, too slow, or fails."""
        parts, origin = self._allowed(url)
        try:
            return self._get(parts, origin)
        except TimeoutError:
            raise RequestError(self._too_slow(origin)) from None
        except (OSError, http.client.HTTPException) as error:
            kind = type(error).__name__
            raise RequestError(f"{origin.host} cannot be read ({kind}): send the file itself") from None

    def _allowed(self, url: str) -> tuple[SplitResult, Origin]:
        try:
            parts = urlsplit(url)
            origin = _origin(parts)
        except ValueError:
            raise RequestError("the URL is malformed: send https://HOST/PATH") from None
        if parts.username is not None or parts.password is not None:
            raise RequestError("the URL holds a user name or password: send the file itself")
        if origin not in self._origins:
            raise RequestError(
                f"{origin.scheme}://{origin.host}:{origin.port} is not among the image hosts of this server: "
                "send the file in image_encoded_input or as a data URI"
            )
        return parts, origin

    def _get(self, parts: SplitResult, origin: Origin) -> bytes:
        connection = http.client.HTTPConnection(origin.host, origin.port)
        if origin.scheme == "https":
            connection = http.client.HTTPSConnection(origin.host, origin.port, context=self._tls)
        connection.sock = dialled = self._dial(origin)
        expired = threading.Event()

        def expire() -> None:  # a socket's timeout restarts with each byte, this one does not
            expired.set()
            with suppress(OSError):
                socket.socket.shutdown(dialled, socket.SHUT_RDWR)

        timer = threading.Timer(self._seconds, expire)
        timer.start()
        try:
            if isinstance(dialled, ssl.SSLSocket):
                dialled.do_handshake()
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", quote(target, safe=URL_SIGNS), headers={"Accept-Encoding": "identity"})
            body = self._body(connection.getresponse(), origin.host)
        except (OSError, http.client.HTTPException, RequestError):
            if not expired.is_set():  # else the error is only how the cut looks from here
                raise
        finally:
            timer.cancel()
            connection.close()
        if expired.is_set():
            raise TimeoutError
        return body

    def _dial(self, origin: Origin) -> socket.socket:
        resolved = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        addresses = [str(sockaddr[0]) for *_, sockaddr in resolved]
        if not all(self._may_dial(address) for address in addresses):
            raise RequestError(f"{origin.host} is not a public address: send the file itself")
        plain = socket.create_connection((addresses[0], origin.port), timeout=self._seconds)
        if origin.scheme == "http":
            return plain
        return self._tls.wrap_socket(plain, server_hostname=origin.host, do_handshake_on_connect=False)

    def _body(self, response: http.client.HTTPResponse, host: str) -> bytes:
        if 300 <= response.status < 400:
            raise RequestError(f"{host} redirects, which is not followed: send the final address")
        if response.status != 200:
            raise RequestError(f"{host} answers with status {response.status}: check the URL")
        if response.getheader("Content-Encoding", "identity") != "identity":
            raise RequestError(f"{host} sends a compressed body, which is refused: send the file itself")
        body = bytearray()
        while chunk := response.read(CHUNK):
            body += chunk
            if len(body) > self._max_bytes:
                raise RequestError(f"the file is larger than {self._max_bytes} bytes: send a smaller one")
        if response.length:
            raise RequestError(f"{host} broke off before the end of the file: send it again")
        return bytes(body)

    def _too_slow(self, origin: Origin) -> str:
        return f"{origin.host} did not deliver within {self._seconds:g} s: send the file itself"


def is_public(address: str) -> bool:
    """Whether the IP address is of the public internet: not private, loopback, link-local or multicast."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if any(parsed in net for net in TRANSLATED):
            return False
    return parsed.is_global and not parsed.is_multicast


def _origin(parts: SplitResult) -> Origin:
    """Raises ValueError when the URL is not http(s) with a host and a valid port."""
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("not an http(s) URL")
    return Origin(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme])
