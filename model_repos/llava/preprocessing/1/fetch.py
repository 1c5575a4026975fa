"""The one place of the repository that fetches a file from a URL: only from hosts that its owner listed.

A client that could name any address would read the server's own network. So: listed hosts only, at every redirect
anew, no credentials, no proxy, and the address that was checked to be public is the address that is dialled.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from dial import Deadline, connected, is_public, resolved
from tensors import RequestError

CHUNK = 1 << 16
LONGEST_HOST = 253  # of any name of the DNS; errors quote it
MAX_REDIRECTS = 3
AT_ONCE = 64  # fetches of one process, in threads that only wait; further ones are begun as these end
REDIRECTS = (301, 302, 303, 307, 308)
URL_SIGNS = "%/:=&?~+!$,;'@()*[]"  # left as they are; what else a client wrote unquoted is quoted
PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


class Arrived(io.RawIOBase):
    """The bytes of `stream`. Raises RequestError(`message`) when there are more than `most`."""

    def __init__(self, stream: io.BufferedReader, most: int, message: str) -> None:
        self._stream = stream
        self._left = most
        self._message = message

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto1(buffer)
        self._left -= count
        if self._left < 0:
            raise RequestError(self._message)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class Fetcher:
    """Fetches files of at most `max_bytes` bytes, each within `seconds` in all, from the listed hosts.

    A host is written `images.example.com`, `host:8443`, or with its scheme; plain http must be written out.
    An empty list refuses every URL. What is begun together shares the time of one file.
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
        self._threads = ThreadPoolExecutor(AT_ONCE, "fetch")
        self._begun: dict[str, Future[bytes]] = {}

    def __call__(self, url: str) -> bytes:
        """The body at `url`. Raises RequestError when it is refused, too large, too slow, or fails."""
        begun = self._begun.get(url)
        return begun.result() if begun else self._file(url, time.monotonic() + self._seconds)

    @contextmanager
    def begun(self, urls: Iterable[str]) -> Iterator[None]:
        """While it is open, all of `urls` are fetched side by side until one deadline; a call waits for its own."""
        end = time.monotonic() + self._seconds
        self._begun = {url: self._threads.submit(self._file, url, end) for url in dict.fromkeys(urls)}
        try:
            yield
        finally:
            for fetch in self._begun.values():
                fetch.cancel()  # nobody asks for it any more
            self._begun = {}

    def _file(self, url: str, end: float) -> bytes:
        """As __call__; `end`, on the clock of time.monotonic, is when it is too slow."""
        parts, origin = self._allowed(url)
        with Deadline(end - time.monotonic()) as deadline:
            for _ in range(1 + MAX_REDIRECTS):
                found = self._answer(parts, origin, deadline)
                if isinstance(found, bytes):
                    return found
                parts, origin = self._next(parts, origin, found)
        raise RequestError(f"{origin.host} redirects more than {MAX_REDIRECTS} times: send the final address")

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
                f"{origin} is not among the image hosts of this server: "
                "send the file in image_encoded_input or as a data URI"
            )
        return parts, origin

    def _next(self, here: SplitResult, origin: Origin, location: str) -> tuple[SplitResult, Origin]:
        """Where a redirect leads, judged as the first URL was."""
        try:
            parts, following = self._allowed(urljoin(here.geturl(), location))
        except RequestError as error:
            raise RequestError(f"{origin.host} redirects: {error}") from None
        except ValueError:  # urljoin's own
            raise RequestError(f"{origin.host} redirects: the URL is malformed: send the final address") from None
        if (origin.scheme, following.scheme) == ("https", "http"):
            raise RequestError(f"{origin.host} redirects from https to http: send the final address")
        return parts, following

    def _answer(self, parts: SplitResult, origin: Origin, deadline: Deadline) -> bytes | str:
        """The body, or the address that the host redirects to."""
        slow = RequestError(f"{origin.host} did not deliver within {self._seconds:g} s: send the file itself")
        try:
            found = self._get(parts, origin, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: RequestError, and odd chunks
            if deadline.over or isinstance(error, TimeoutError):  # the error is only how the cut looks from here
                raise slow from None
            if isinstance(error, RequestError):
                raise
            kind = type(error).__name__
            raise RequestError(f"{origin.host} cannot be read ({kind}): send the file itself") from None
        if deadline.over:  # a body without a length just ends where it is cut
            raise slow
        return found

    def _get(self, parts: SplitResult, origin: Origin, deadline: Deadline) -> bytes | str:
        connection = http.client.HTTPConnection(origin.host, origin.port)
        if origin.scheme == "https":
            connection = http.client.HTTPSConnection(origin.host, origin.port, context=self._tls)
        try:
            connection.sock = dialled = self._dial(origin, deadline)
            if isinstance(dialled, ssl.SSLSocket):
                dialled.do_handshake()
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", quote(target, safe=URL_SIGNS), headers={"Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status in REDIRECTS:
                return response.getheader("Location") or ""
            return self._body(response, origin.host)
        finally:
            deadline.watch(None)
            connection.close()

    def _dial(self, origin: Origin, deadline: Deadline) -> socket.socket:
        """A connection to a checked address, whose end the deadline may bring; TLS is not shaken hands on yet."""
        addresses = resolved(origin.host, origin.port, deadline)
        if not all(self._may_dial(address) for address in addresses):
            raise RequestError(f"{origin.host} is not a public address: send the file itself")
        plain = connected(addresses, origin.port, deadline)
        deadline.watch(plain)
        if origin.scheme == "http":
            return plain
        wrapped = self._tls.wrap_socket(plain, server_hostname=origin.host, do_handshake_on_connect=False)
        deadline.watch(wrapped)
        return wrapped

    def _body(self, response: http.client.HTTPResponse, host: str) -> bytes:
        if response.status != 200:
            raise RequestError(f"{host} answers with status {response.status}: check the URL")
        if response.getheader("Content-Encoding", "identity") != "identity":
            raise RequestError(f"{host} sends a compressed body, which is refused: send the file itself")
        too_large = f"the file is larger than {self._max_bytes} bytes: send a smaller one"
        if (response.length or 0) > self._max_bytes:
            raise RequestError(too_large)
        # http.client believes a chunk that says it has -1 bytes, and reads on: what arrives is counted under it.
        arrived: Any = io.BufferedReader(Arrived(response.fp, 2 * self._max_bytes + CHUNK, too_large))
        response.fp = arrived  # twice: chunks have headers of their own, which are small unless somebody plays
        body = bytearray()
        while chunk := response.read(CHUNK):
            body += chunk
            if len(body) > self._max_bytes:
                raise RequestError(too_large)
        if response.length:
            raise RequestError(f"{host} broke off before the end of the file: send it again")
        return bytes(body)


def _origin(parts: SplitResult) -> Origin:
    """Raises ValueError when the URL is not http(s) with a host and a valid port."""
    if parts.scheme not in PORTS or not parts.hostname or len(parts.hostname) > LONGEST_HOST:
        raise ValueError("not an http(s) URL")
    return Origin(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme])
