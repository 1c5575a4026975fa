"""Fetching images from URLs: real sockets, redirects, rebinding, TLS and slow hosts, all on this machine."""

from __future__ import annotations

import ast
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import images
import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
import trustme
from dial import is_public
from fetch import MAX_REDIRECTS, Fetcher
from media import Source
from tensors import RequestError

from tests.unit.hosts import BODY, Names, serving
from tests.unit.serving import ROOT, SMALL_PIXELS, load_step, make_request, settings, texts, words

HERE = {"127.0.0.1"}  # what passes for public in these tests


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def forget(host: Any) -> None:
    host.seen.clear()
    host.redirects.clear()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(
        monkeypatch,
        {
            "a.test": [["127.0.0.1"]],
            "b.test": [["127.0.0.1"]],
            "inside.test": [["10.0.0.5"]],
            "mixed.test": [["127.0.0.1", "10.0.0.5"]],
            "rebinding.test": [["127.0.0.1"], ["10.0.0.5"]],
            "two.test": [["127.0.0.2", "127.0.0.1"]],
        },
    )


def fetcher(host: Any, *listed: str, **options: Any) -> Fetcher:
    """A fetcher of hosts that are names of the server, which needs no listing of its port."""
    port = host.server_address[1]
    hosts = [f"{name}:{port}" for name in listed or ("http://a.test",)]
    return Fetcher(hosts, 1 << 20, **{"may_dial": HERE.__contains__, **options})


def url(host: Any, path: str, name: str = "http://a.test") -> str:
    return f"{name}:{host.server_address[1]}{path}"


def refusal(fetch: Fetcher, address: str) -> str:
    with pytest.raises(RequestError) as refused:
        fetch(address)
    return str(refused.value)


def test_fetch_reads_a_file(host: Any, names: Names) -> None:
    assert fetcher(host)(url(host, "/a b/é.png?size=1#part")) == BODY
    assert host.seen == [("/a%20b/%C3%A9.png?size=1", url(host, "").removeprefix("http://"))]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "a.test answers with status 404"),
        ("/gzip", "compressed body"),
        ("/short", "broke off before the end"),
        ("/announced", "larger than 1048576 bytes"),
        ("/endless", "larger than 1048576 bytes"),
    ],
)
def test_fetch_refusals(host: Any, names: Names, path: str, message: str) -> None:
    assert message in refusal(fetcher(host), url(host, path))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("-1", "larger than 1048576 bytes"),
        ("7fffffff", "larger than 1048576 bytes"),
        ("-8", "cannot be read (ValueError)"),
    ],
)
def test_a_chunk_that_lies_about_its_size_is_not_read_beyond_the_limit(names: Names, size: str, message: str) -> None:
    sent = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            peer, _ = listening.accept()
            with peer, suppress(OSError):
                peer.recv(9999)
                peer.sendall(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n".encode())
                for _ in range(100):
                    peer.sendall(bytes(1 << 20))
                    sent.append(1 << 20)

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://a.test:{listening.getsockname()[1]}"
        fetch = Fetcher([address], 1 << 20, may_dial=HERE.__contains__)
        assert message in refusal(fetch, address)
    assert sum(sent) < 32 << 20, "what the system's buffers hold, and no more"


def test_a_body_in_chunks_is_read(names: Names) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(9999)
                chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:100], BODY[100:], b""))
                peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://a.test:{listening.getsockname()[1]}"
        assert Fetcher([address], 1 << 20, may_dial=HERE.__contains__)(address) == BODY


def test_hosts_that_hang_hold_up_a_batch_for_one_deadline(host: Any, names: Names, tmp_path: Path) -> None:
    """Six requests of three files each on hanging hosts, one whose host answers, one of text alone."""
    step = load_step("preprocessing", tmp_path, settings(pixels=SMALL_PIXELS))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = f"http://a.test:{silent.getsockname()[1]}/".encode()
        step.read._fetch = Fetcher([hanging.decode(), url(host, "")], 1 << 20, 1.0, HERE.__contains__)
        bad = make_request(
            text_input=texts("<image><image><image>"),
            image_url_input=words([hanging + name for name in (b"1", b"2", b"3")]),
        )
        good = make_request(text_input=texts("x"), image_url_input=words([url(host, "/ok.png").encode()]))
        start = time.monotonic()
        responses = step.execute([*[bad] * 6, good, make_request(text_input=texts("hello"))])
        took = time.monotonic() - start
    assert 1 <= took < 2, took
    errors = [response.error() for response in responses]
    assert [error is None for error in errors] == [False] * 6 + [True] * 2
    assert all("did not deliver within 1 s" in error.message() for error in errors[:6])


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_url_input": words([b"http://a.test/"] * 5)},  # four images are allowed
        {"image_url_input": np.full((1, 1, 1), b"http://a.test/", np.object_)},
        {"image_url_input": words([b"http://\xff"])},
        {"image_url_input": np.full((9, 1), b"http://a.test/", np.object_), "text_input": texts(*"123456789")},
    ],
)
def test_nothing_is_fetched_for_requests_that_are_refused_anyway(
    host: Any, names: Names, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    step = load_step("preprocessing", tmp_path, settings(pixels=SMALL_PIXELS))
    step.read._fetch = fetch = fetcher(host)
    request = make_request(**{"text_input": texts("x"), **wrong})
    assert list(step.read._urls(request)) == []
    good = make_request(text_input=texts("x"), image_url_input=words([url(host, "/ok.png").encode()]))
    refused, answered = step.execute([request, good])
    assert refused.error().code() == pb_utils.TritonError.INVALID_ARG
    assert not answered.has_error() and fetch._begun == {}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_listed_hosts_are_followed(host: Any, names: Names, status: int) -> None:
    host.redirects["/old"] = (status, url(host, "/new?x=1", "http://b.test"))
    host.redirects["/new?x=1"] = (status, "final.png")  # relative: to the host that says it
    assert fetcher(host, "http://a.test", "http://b.test")(url(host, "/old")) == BODY
    a, b = (url(host, "", name).removeprefix("http://") for name in ("http://a.test", "http://b.test"))
    assert host.seen == [("/old", a), ("/new?x=1", b), ("/final.png", b)]
    assert names.asked == ["a.test", "b.test", "b.test"], "each hop is resolved anew, once"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://a.test:1/x", "a.test redirects: http://a.test:1 is not among the image hosts"),
        ("http://a.test/x", "a.test redirects: http://a.test:80 is not among the image hosts"),
        ("https://a.test/x", "a.test redirects: https://a.test:443 is not among the image hosts"),
        ("http://other.test/x", "a.test redirects: http://other.test:80 is not among"),
        ("//169.254.169.254/latest/meta-data", "http://169.254.169.254:80 is not among"),
        ("http://[::ffff:127.0.0.1]/x", "http://::ffff:127.0.0.1:80 is not among"),
        ("http://user:word@a.test/x", "a.test redirects: the URL holds a user name"),
        ("file:///etc/passwd", "a.test redirects: the URL is malformed"),
        ("gopher://a.test/x", "a.test redirects: the URL is malformed"),
        ("http://a.test:999999/x", "a.test redirects: the URL is malformed"),
        ("http://[bad", "a.test redirects: the URL is malformed"),
        ("//[x", "a.test redirects: the URL is malformed"),
        ("http://a]b/", "a.test redirects: the URL is malformed"),
    ],
)
def test_every_hop_is_judged_as_the_first(host: Any, names: Names, location: str, message: str) -> None:
    host.redirects["/old"] = (302, location)
    assert message in refusal(fetcher(host), url(host, "/old"))
    assert [path for path, _ in host.seen] == ["/old"]


def test_a_listed_host_inside_is_not_dialled_after_a_redirect(host: Any, names: Names) -> None:
    host.redirects["/old"] = (302, url(host, "/secret", "http://inside.test"))
    fetch = fetcher(host, "http://a.test", "http://inside.test")
    assert "inside.test is not a public address" in refusal(fetch, url(host, "/old"))
    assert [path for path, _ in host.seen] == ["/old"]


def test_redirects_are_counted(host: Any, names: Names) -> None:
    for number in range(9):
        host.redirects[f"/{number}"] = (302, f"/{number + 1}")
    assert fetcher(host)(url(host, f"/{9 - MAX_REDIRECTS}")) == BODY
    host.seen.clear()
    assert f"redirects more than {MAX_REDIRECTS} times" in refusal(fetcher(host), url(host, "/0"))
    assert len(host.seen) == 1 + MAX_REDIRECTS


@pytest.mark.parametrize("path", ["/slow", "/slow-head"])
def test_fetch_ends_in_time_though_bytes_trickle_in(host: Any, names: Names, path: str) -> None:
    start = time.monotonic()
    assert "a.test did not deliver within 0.4 s" in refusal(fetcher(host, seconds=0.4), url(host, path))
    assert time.monotonic() - start < 2


def test_hops_share_the_time(host: Any, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        host.redirects[f"/{number}"] = (302, f"/{number + 1}")
    lookup = socket.getaddrinfo

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.25)
        return lookup(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert "did not deliver within 0.7 s" in refusal(fetcher(host, seconds=0.7), url(host, "/0"))
    assert 1 <= len(host.seen) <= 2


def test_a_resolver_that_never_answers_ends_in_time(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: never.wait(5) and [])
    start = time.monotonic()
    assert "did not deliver within 0.3 s" in refusal(fetcher(host, seconds=0.3), url(host, "/"))
    assert time.monotonic() - start < 2
    never.set()


def test_fetch_dials_public_addresses_only(host: Any, names: Names) -> None:
    assert "a.test is not a public address" in refusal(fetcher(host, may_dial=None), url(host, "/ok.png"))
    assert "mixed.test is not a public" in refusal(
        fetcher(host, "http://mixed.test"), url(host, "/", "http://mixed.test")
    )
    assert host.seen == []


def test_fetch_dials_the_address_that_was_checked(host: Any, names: Names) -> None:
    """A name that leads somewhere else the second time must not matter; a new fetch asks, and checks, again."""
    fetch, address = fetcher(host, "http://rebinding.test"), url(host, "/ok.png", "http://rebinding.test")
    assert fetch(address) == BODY
    assert names.asked == ["rebinding.test"]
    assert "rebinding.test is not a public address" in refusal(fetch, address)
    assert len(host.seen) == 1


def test_another_address_of_the_name_is_tried(host: Any, names: Names) -> None:
    """Nothing listens at the first of its two addresses."""
    fetch = fetcher(host, "http://two.test", may_dial={"127.0.0.1", "127.0.0.2"}.__contains__)
    assert fetch(url(host, "/ok.png", "http://two.test")) == BODY


def test_an_unknown_name_is_an_error_of_that_request(host: Any, names: Names) -> None:
    fetch = fetcher(host, "http://nowhere.test")
    assert "nowhere.test cannot be read (OSError)" in refusal(fetch, url(host, "/", "http://nowhere.test"))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> Iterator[Any]:
    """The server of a.test over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("a.test").configure_cert(context)
    with serving(context) as server:
        yield server


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_https_checks_the_certificate_of_the_name(secure: Any, names: Names, trust: ssl.SSLContext) -> None:
    assert fetcher(secure, "a.test", tls=trust)(url(secure, "/ok.png", "https://a.test")) == BODY
    other = fetcher(secure, "b.test", tls=trust)
    assert "SSLCertVerificationError" in refusal(other, url(secure, "/ok.png", "https://b.test"))
    stranger = fetcher(secure, "a.test")  # the system does not know the authority
    assert "SSLCertVerificationError" in refusal(stranger, url(secure, "/ok.png", "https://a.test"))


def test_https_never_leads_to_http(secure: Any, host: Any, names: Names, trust: ssl.SSLContext) -> None:
    secure.redirects["/old"] = (302, url(host, "/ok.png"))
    listed = [f"a.test:{secure.server_address[1]}", f"http://a.test:{host.server_address[1]}"]
    fetch = Fetcher(listed, 1 << 20, may_dial=HERE.__contains__, tls=trust)
    assert "redirects from https to http" in refusal(fetch, url(secure, "/old", "https://a.test"))
    assert host.seen == []
    host.redirects["/up"] = (302, url(secure, "/ok.png", "https://a.test"))
    assert fetch(url(host, "/up")) == BODY


def test_a_slow_body_over_tls_is_cut(secure: Any, names: Names, trust: ssl.SSLContext) -> None:
    fetch = fetcher(secure, "a.test", tls=trust, seconds=0.6)
    assert "did not deliver within 0.6 s" in refusal(fetch, url(secure, "/slow", "https://a.test"))


def test_a_handshake_that_never_ends_is_cut(names: Names, trust: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fetch = Fetcher([f"a.test:{silent.getsockname()[1]}"], 100, seconds=0.4, may_dial=HERE.__contains__, tls=trust)
        start = time.monotonic()
        assert "did not deliver within 0.4 s" in refusal(fetch, f"https://a.test:{silent.getsockname()[1]}/")
        assert time.monotonic() - start < 2


def test_what_a_file_is_says_its_content(host: Any, names: Names) -> None:
    """Neither the name in the URL nor the type that the host states counts."""
    read = images.ImageReader(settings()["limits"], [])
    read._fetch = fetcher(host)
    address = url(host, "/liar").encode()
    assert read(Source(images.URL, "image 0", address)).size == (12, 10)
    with pytest.raises(RequestError, match="image 0: not a readable JPEG, PNG or WebP file"):
        read(Source(images.URL, "image 0", url(host, "/page.png").encode()))


def test_listed_hosts_are_exact() -> None:
    fetch = Fetcher(["images.example.com", "http://plain.example.com", "odd.example.com:8443"], 100)
    allowed = ["https://images.example.com/a", "HTTPS://IMAGES.EXAMPLE.COM:443/a", "http://plain.example.com/a",
               "https://odd.example.com:8443/a"]  # fmt: skip
    refused = ["http://images.example.com/a", "https://images.example.com:444/a", "https://plain.example.com/a",
               "https://images.example.com.evil.test/a", "https://evil.test/images.example.com",
               "https://images.example.com./a", "https://evil.test#@images.example.com/a",
               "https://evil.test\\@images.example.com/a",
               "https://example.com/a", "https://odd.example.com/a"]  # fmt: skip
    for address in allowed:
        assert fetch._allowed(address)
    for address in refused:
        with pytest.raises(RequestError, match="is not among the image hosts|user name"):
            fetch._allowed(address)


def test_public_addresses() -> None:
    assert all(map(is_public, ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"]))
    private = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
               "0.1.2.3", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1", "198.18.0.1", "192.0.2.1",
               "::1", "fe80::1%eth0", "fec0::1", "fd00::1", "::", "ff02::1", "2001:db8::1", "3fff::1",
               "::ffff:10.0.0.1", "::ffff:0:10.0.0.1", "::a00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1",
               "2002:a00:1::", "2001:0:a00:1::"]  # fmt: skip
    assert [address for address in private if is_public(address)] == []


NETWORK = {"socket", "ssl", "http", "urllib", "ftplib", "asyncio", "requests", "httpx", "aiohttp", "urllib3"}


def test_nothing_else_of_a_repository_reaches_the_network() -> None:
    found = {
        path.relative_to(ROOT / "templates").as_posix(): names
        for path in (ROOT / "templates").rglob("*.py")
        if (names := network_modules(path))
    }
    assert set(found) == {"preprocessing/1/fetch.py", "preprocessing/1/dial.py"}, found


def network_modules(path: Path) -> set[str]:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    return imported & NETWORK
