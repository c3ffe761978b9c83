"""A server, or a proxy in its place, that means no good: every call ends in one clear error, and in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from runnerctl.errors import RunnerctlError
from runnerctl.github.client import GitHubClient
from runnerctl.github.connect import Connector
from runnerctl.github.models import Runner

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

Reply = Callable[[socket.socket], None]
MOMENT = 0.3  # seconds a call may take here


@contextmanager
def served(reply: Reply) -> Iterator[str]:
    """A server that gives one reply to everything; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, reply), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket, reply: Reply) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(65536)
                reply(connection)


def whole(status: str, body: bytes = b"{}", **headers: str) -> Reply:
    """A reply that is sent at once."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    return lambda connection: connection.sendall(data)


def dripping(start: bytes, piece: bytes) -> Reply:
    """A reply that never ends, a bit at a time: no single read ever waits long."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(100):
            connection.sendall(piece)
            time.sleep(0.02)

    return reply


def listed(reply: Reply) -> tuple[str, list[float]]:
    """What listing runners fails with there, and what it slept."""
    slept: list[float] = []
    with served(reply) as url:
        client = GitHubClient(url, sleep=slept.append, deadline_seconds=MOMENT)
        with pytest.raises(RunnerctlError) as failed:
            client.listing("/orgs/acme/actions/runners", Runner, key="runners", what="list the runners")
    return str(failed.value), slept


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    ],
    ids=["head", "continue", "chunk", "trailer", "body"],
)
def test_whatever_drips_meets_the_deadline(start: bytes, piece: bytes) -> None:
    begin = time.monotonic()
    error, _ = listed(dripping(start, piece))
    assert time.monotonic() - begin < 3 * MOMENT
    assert "cannot list the runners: " in error


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (whole("429 x", Retry_After="9" * 40), "rate limit is used up until 20"),
        (whole("429 x", Retry_After="9" * 5000), "rate limit is used up until 20"),
        (whole("429 x", Retry_After="\xb2"), "rate limit is used up until 20"),
        (whole("429 x", Retry_After="600", Date="Fri, 31 Dec 9999 23:59:59 GMT"), "beyond the calendar"),
        (whole("403 x", x_ratelimit_remaining="0", x_ratelimit_reset="9" * 30), "is used up until 20"),
        (whole("403 x", x_ratelimit_remaining="0", x_ratelimit_reset="\xb2"), "no credential was given"),
        (whole("200 x", x_ratelimit_remaining="\xb2", x_ratelimit_limit="9" * 5000), "no list of objects"),
        (whole("302 x", Location="https://["), "leads to what is no address"),
        (whole("403 x", b"[" * 100_000), "no credential was given"),
    ],
)
def test_a_header_or_body_of_any_kind_is_one_clear_error(reply: Reply, expected: str) -> None:
    assert expected in listed(reply)[0]


def test_a_next_page_that_is_no_address() -> None:
    page = whole("200 x", b'{"total_count": 2, "runners": []}', Link='<https://[>; rel="next"', ETag='"a"')
    assert "the next page is on another host" in listed(page)[0]


def test_an_answer_of_endless_depth() -> None:
    with served(whole("200 x", b"[" * 100_000)) as url, pytest.raises(RunnerctlError, match="cannot be read"):
        GitHubClient(url).get("/meta").json()


def test_the_body_of_a_redirect_is_bounded_too() -> None:
    """requests would read all of it, to use the connection again."""
    endless = dripping(b"HTTP/1.1 302 x\r\nLocation: /elsewhere\r\nContent-Length: 9999999999\r\n\r\n", b"x")
    begin = time.monotonic()
    listed(endless)
    assert time.monotonic() - begin < 3 * MOMENT


def test_a_real_reset_is_waited_for() -> None:
    """What bounds nonsense leaves GitHub's own numbers alone."""
    date, reset = "Sun, 22 Nov 2026 12:00:00 GMT", str(1795348800 + 30)
    _, slept = listed(whole("403 x", x_ratelimit_remaining="0", x_ratelimit_reset=reset, Date=date))
    assert 30.0 <= slept[0] < 31.0


def test_an_api_url_that_is_none_is_one_clear_error() -> None:
    for url in ("https://[", "https://", "ftp://x", ""):
        with pytest.raises(RunnerctlError, match="is not an http"):
            Connector({}, url)


@pytest.mark.parametrize("proxy", ["http://[", "http://me:secret-word@[::1", "foo", "://", "http://a:b"])
def test_a_proxy_that_is_none_is_one_clear_error(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(RunnerctlError) as failed:
        GitHubClient("http://127.0.0.1:1", sleep=lambda _: None).get("/meta")
    assert "roxy" in str(failed.value) and "secret-word" not in str(failed.value)
