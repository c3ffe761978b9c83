"""The socket: HTTP/1.1 with keep-alive, one thread for each connection."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import msgspec

from tests.fakes.github_api.control import Control
from tests.fakes.github_api.site import Site
from tests.fakes.github_api.wire import Answer, Request, error_body

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GithubApi"]

API_PREFIX = "/api/v3"
_IDLE_SECONDS = 300
_SAVE_SECONDS = 0.2
_SLOW_PIECES = 10
_NO_BODY = (204, 304)


class _Server(ThreadingHTTPServer):
    """Listens for one stand-in; knows its open connections, so that an outage can close them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], site: Site, tls: ssl.SSLContext | None = None) -> None:
        self.site = site
        self.scheme = "https" if tls else "http"
        self.connections: set[socket.socket] = set()
        super().__init__(address, _Handler)
        if tls is not None:  # each connection's own thread shakes hands, at its first read
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def close_all(self) -> None:
        """Stop listening and cut every connection."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    timeout = _IDLE_SECONDS
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def version_string(self) -> str:
        return "GitHub.com"

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(self.server.site.store.now() if timestamp is None else timestamp, usegmt=True)

    def log_message(self, *_args: object, **_named: object) -> None:
        """Requests are in the journal."""

    def _serve(self) -> None:
        try:
            answer = self.server.site.handle(self._request())
        except Exception as error:  # a bug of the stand-in: the test must see it, not a closed connection
            answer = Answer(500, error_body(500, f"the stand-in failed: {type(error).__name__}: {error}"))
        self._send(answer)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """One way for every HTTP method: the base class looks for ``do_GET`` and its like."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        prefix = API_PREFIX if parts.path.startswith(API_PREFIX + "/") else ""
        length = int(self.headers.get("Content-Length") or 0)
        host = self.headers.get("Host") or "{}:{}".format(*self.server.server_address[:2])
        return Request(
            method=self.command,
            path=parts.path[len(prefix) :],
            prefix=prefix,
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(length) if length else b"",
            origin=f"{self.server.scheme}://{host}",
            client_gone=self._client_gone,
        )

    def _client_gone(self) -> bool:
        """Whether the other side has closed while it waited for an answer."""
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    def _send(self, answer: Answer) -> None:
        if answer.drop:
            self._drop()
            return
        body = answer.raw if answer.raw is not None else b""
        if answer.raw is None and answer.body is not None and answer.status not in _NO_BODY:
            body = msgspec.json.encode(answer.body)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if body:
            self.send_header("Content-Type", answer.content_type)
        if answer.status not in _NO_BODY:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._write(body, seconds=answer.slow_seconds)

    def _write(self, body: bytes, *, seconds: float) -> None:
        if not seconds:
            self.wfile.write(body)
            self.wfile.flush()
            return
        size = max(len(body) // _SLOW_PIECES, 1)
        for start in range(0, len(body), size):
            self.wfile.flush()
            time.sleep(seconds / _SLOW_PIECES)
            self.wfile.write(body[start : start + size])
        self.wfile.flush()

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class GithubApi:
    """The stand-in in this process: ``with GithubApi() as github: ... github.url``.

    ``state`` names a file that keeps the records over a restart; ``port`` 0 takes a free one; ``tls`` is a
    server's context: then it speaks HTTPS only.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        state: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        self.host = host
        self.port = port
        self.site = Site(state)
        self.site.faults.refuse = self.refuse
        self._server: _Server | None = None
        self._ended = threading.Event()
        self._saver: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base URL; the API is under ``/`` and under ``/api/v3``."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    @property
    def control(self) -> Control:
        """A client for the control desk."""
        return Control(self.url)

    def start(self) -> Self:
        """Listen. Raises OSError when the port is taken."""
        self.site.jobs.stopping = False
        self._ended.clear()
        self._listen()
        self._saver = threading.Thread(target=self._save_often, name="github-api-saver", daemon=True)
        self._saver.start()
        return self

    def _listen(self) -> None:
        server = self._server = _Server((self.host, self.port), self.site, self.tls)
        self.port = int(server.server_address[1])
        loop = threading.Thread(target=server.serve_forever, args=(0.05,), name="github-api", daemon=True)
        loop.start()

    def _save_often(self) -> None:
        while not self._ended.wait(_SAVE_SECONDS):
            if self.site.dirty.is_set():
                self.site.dirty.clear()
                self.site.store.save()

    def stop(self) -> None:
        """Stop listening, cut the connections, write the state file."""
        self.site.jobs.stopping = True
        self._ended.set()
        if self._server is not None:
            self._server.close_all()
            self._server = None
        if self._saver is not None:
            self._saver.join(timeout=5)
        self.site.store.save()

    def refuse(self, seconds: float) -> None:
        """Refuse connections for a time: nothing listens on the port."""
        threading.Thread(target=self._refuse, args=(seconds,), daemon=True).start()

    def _refuse(self, seconds: float) -> None:
        time.sleep(0.05)  # let the answer to the request that asked for it leave first
        if self._server is not None:
            self._server.close_all()
            self._server = None
        if not self._ended.wait(seconds):
            self._listen()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
