"""Connections to hosts of the public internet, within a time that holds whatever the other side does."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# What Python may call global and is no host of the internet: 6to4, which carries an IPv4 address inside, and its
# relays (NAT64 lies outside of 2000::/3, Teredo is not global), and what is kept for documentation.
REFUSED = [ipaddress.ip_network(net) for net in ("2002::/16", "3fff::/20", "192.88.99.0/24")]


class Deadline:
    """Cuts the watched connection when the time is over: a socket's own timeout restarts with each byte."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._watched: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._timer.cancel()

    def left(self) -> float:
        """Seconds, more than 0. Raises TimeoutError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def watch(self, dialled: socket.socket | None) -> None:
        """From now on this connection is the one to cut. Raises TimeoutError, and closes it, when it is too late."""
        with self._lock:
            self._watched = dialled
            if not self.over or dialled is None:
                return
        dialled.close()
        raise TimeoutError

    def _cut(self) -> None:
        with self._lock, suppress(OSError):
            self.over = True
            if self._watched is not None:
                socket.socket.shutdown(self._watched, socket.SHUT_RDWR)


def resolved(host: str, port: int, deadline: Deadline) -> list[str]:
    """Every address of the host. In a thread, because nothing bounds the time that a resolver takes."""
    answer: queue.Queue[list[str] | OSError] = queue.Queue()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.put([str(sockaddr[0]) for *_, sockaddr in found])
        except (OSError, UnicodeError) as error:  # a name that is no host name fails to be encoded
            answer.put(OSError(str(error)))

    threading.Thread(target=resolve, daemon=True).start()
    try:
        addresses = answer.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(addresses, OSError):
        raise addresses
    return addresses


def connected(addresses: Sequence[str], port: int, deadline: Deadline) -> socket.socket:
    """A connection to the first of the addresses that takes one. Raises OSError."""
    failure = OSError("no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=deadline.left())
        except OSError as error:
            failure = error
    raise failure


def is_public(address: str) -> bool:
    """Whether the IP address is a host of the public internet: not private, loopback, link-local, shared or multicast.

    Sources: IANA's special-purpose address registries, as Python knows them, and REFUSED.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if parsed not in GLOBAL_UNICAST:
            return False
    return parsed.is_global and not parsed.is_multicast and not any(parsed in net for net in REFUSED)
