"""A deadline for everything that a server sends: no read of an answer, its head included, lasts beyond it.

A socket's own timeout is for one read: a head that drips, or ``100 Continue`` again and again, would renew it
for ever.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter

__all__ = ["BoundedAdapter", "BoundedAnswer", "deadline"]

_HERE = threading.local()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Answers that this thread reads within the block come in so many seconds altogether, or TimeoutError."""
    before = getattr(_HERE, "ends", None)
    _HERE.ends = time.monotonic() + seconds
    try:
        yield
    finally:
        _HERE.ends = before


class _Bounded(io.RawIOBase):
    """What comes from a socket, read by read against the thread's deadline."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket) -> None:
        self._stream, self._socket = stream, sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        ends = getattr(_HERE, "ends", None)
        if ends is None:
            return self._stream.readinto(buffer)
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        timeout = self._socket.gettimeout()
        self._socket.settimeout(left if timeout is None else min(timeout, left))
        try:
            return self._stream.readinto(buffer)
        finally:  # the next request on this connection has a deadline of its own
            with suppress(OSError):
                self._socket.settimeout(timeout)

    def close(self) -> None:
        self._stream.close()
        super().close()


class BoundedAnswer(http.client.HTTPResponse):
    """An answer, or a proxy's to CONNECT, that is read within the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        stream: Any = self.fp
        self.fp = io.BufferedReader(_Bounded(stream.detach(), sock))


class _Connection(urllib3.connection.HTTPConnection):
    response_class = BoundedAnswer


class _TlsConnection(urllib3.connection.HTTPSConnection):
    response_class = BoundedAnswer


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class BoundedAdapter(HTTPAdapter):
    """An adapter whose answers keep to `deadline`, with and without a proxy."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See requests."""
        super().init_poolmanager(*args, **options)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """See requests."""
        manager = super().proxy_manager_for(proxy, **options)
        _bound(manager)
        return manager


def _bound(manager: Any) -> None:
    if not _is_socks(manager):
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def _is_socks(manager: Any) -> bool:
    """Whether a manager has pools of its own, as one for SOCKS has."""
    return bool(type(manager).__module__.endswith(".socks"))
