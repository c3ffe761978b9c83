"""Verified downloads and unpacking: the whole thing under its final name, or nothing.

Work in progress lives beside its destination as ``.<name>.<random>.partial`` and is locked by the process
that makes it, so that what a killed run left can be told from what another run is making.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from .atomic import sync_directory
from .errors import HostError

__all__ = [
    "DownloadError",
    "Timeouts",
    "fetch",
    "fetch_bytes",
    "fetch_text",
    "file_sha256",
    "need_space",
    "remove_stale_partials",
    "working_directory",
]

BLOCK = 1 << 20
PARTIAL = ".partial"
REMEDY = "check the address, the proxy variables of this host and its way to that server"


class DownloadError(HostError):
    """A file could not be had, or is not the one that was asked for."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds: for one silent moment of the connection, and for the whole transfer."""

    idle: float = 30
    total: float = 1800


def fetch(
    url: str,
    dest: str | os.PathLike[str],
    sha256: str,
    *,
    timeouts: Timeouts | None = None,
    headers: Mapping[str, str] | None = None,
) -> bool:
    """Bring ``url`` (http, https, file or a plain path) to ``dest`` if its SHA-256 is ``sha256``.

    Returns whether anything had to be fetched. Raises DownloadError; then ``dest`` is as it was. ``headers``
    are sent to the first server only, never to one that it redirects to.
    """
    expected, dest = sha256.lower(), os.path.abspath(dest)
    directory, name = os.path.split(dest)
    remove_stale_partials(directory, name)
    if os.path.isfile(dest) and file_sha256(dest) == expected:
        return False
    with _failures(url), _open(url, timeouts or Timeouts(), headers or {}) as source:
        length = source.headers.get("Content-Length") or "0"
        need_space(directory, int(length) if length.isdigit() else 0, what=name)
        found = _store(source, dest, expected, _deadline(timeouts))
    if found != expected:
        remedy = (
            "the file was changed on its way or the checksum belongs to another version: nothing was kept"
        )
        where = _without_secrets(url)
        raise DownloadError(f"SHA-256 is {found}, expected {expected}", where=where, remedy=remedy)
    return True


def fetch_text(url: str, *, limit_bytes: int = 65536, timeouts: Timeouts | None = None) -> str:
    """The text of a small file at ``url``. Raises DownloadError."""
    return fetch_bytes(url, limit_bytes=limit_bytes, timeouts=timeouts).decode("utf-8", "replace")


def fetch_bytes(url: str, *, limit_bytes: int = 65536, timeouts: Timeouts | None = None) -> bytes:
    """What a small file at ``url`` holds. Raises DownloadError."""
    timeouts = timeouts or Timeouts(total=60)
    data = b""
    with _failures(url), _open(url, timeouts, {}) as source:
        for block in _blocks(source, _deadline(timeouts)):
            data += block
            if len(data) > limit_bytes:
                what = f"has more than {limit_bytes} bytes"
                raise DownloadError(what, where=_without_secrets(url), remedy="check the address")
    return data


def file_sha256(path: str) -> str:
    """The SHA-256 of a file, in lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def need_space(directory: str, size_bytes: int, *, what: str) -> None:
    """Raise DownloadError unless the file system of ``directory`` has room for that and a little more."""
    while not os.path.isdir(directory):  # asked before it is made, in check mode too
        directory = os.path.dirname(directory) or "/"
    free = shutil.disk_usage(directory).free
    needed = size_bytes + 64 * BLOCK
    if free < needed:
        remedy = f"free {_megabytes(needed - free)} there"
        raise DownloadError(
            f"no space for {what}: needs {_megabytes(needed)}, {_megabytes(free)} are free",
            where=directory,
            remedy=remedy,
        )


def remove_stale_partials(directory: str, name: str) -> list[str]:
    """Remove what killed runs left of ``name`` in ``directory``; returns the paths removed."""
    removed = []
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return []
    for entry in entries:
        if not (entry.startswith(f".{name}.") and entry.endswith(PARTIAL)):
            continue
        path = os.path.join(directory, entry)
        if _abandoned(path):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            removed.append(path)
    return removed


@contextlib.contextmanager
def working_directory(dest: str) -> Iterator[str]:
    """A root-only directory beside ``dest``, locked while in use and removed afterwards if still there."""
    directory, name = os.path.split(os.path.abspath(dest))
    os.makedirs(directory, 0o755, exist_ok=True)
    remove_stale_partials(directory, name)
    path = tempfile.mkdtemp(prefix=f".{name}.", suffix=PARTIAL, dir=directory)
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _abandoned(path: str) -> bool:
    """Nobody holds its lock: whoever made it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _deadline(timeouts: Timeouts | None) -> float:
    return time.monotonic() + (timeouts or Timeouts()).total


def _store(source: IO[bytes], dest: str, expected: str, deadline: float) -> str:
    """Stream to a partial file and rename it if its SHA-256 is the expected one; returns what was found."""
    directory, name = os.path.split(dest)
    descriptor, partial = tempfile.mkstemp(prefix=f".{name}.", suffix=PARTIAL, dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _copy(source, file, deadline)
            if found == expected:
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
                os.rename(partial, dest)
                sync_directory(directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    return found


def _copy(source: IO[bytes], file: IO[bytes], deadline: float) -> str:
    digest = hashlib.sha256()
    for block in _blocks(source, deadline):
        digest.update(block)
        file.write(block)
    file.flush()
    return digest.hexdigest()


def _blocks(source: IO[bytes], deadline: float) -> Iterator[bytes]:
    """Everything that ``source`` sends, as it comes. Raises TimeoutError and IncompleteRead."""
    # `read1` returns what has arrived: a trickling server cannot hold us past the deadline.
    read = getattr(source, "read1", source.read)
    while block := read(BLOCK):
        if time.monotonic() > deadline:
            raise TimeoutError("the transfer took too long")
        yield block
    left = getattr(source, "length", None)
    if left:
        raise http.client.IncompleteRead(b"", left)


class _Request(urllib.request.Request):
    """A request whose private headers stay with the server they were meant for."""

    def __init__(self, address: str, private: Mapping[str, str]) -> None:
        super().__init__(address, headers={"User-Agent": "runnerctl"})
        for name, value in private.items():
            self.add_unredirected_header(name, value)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keep https to https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = urllib.parse.urlsplit(newurl).scheme
        if urllib.parse.urlsplit(req.full_url).scheme == "https" and new != "https":
            raise urllib.error.URLError(f"redirects from https to {new}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, timeouts: Timeouts, headers: Mapping[str, str]) -> Any:
    address = url
    if url.startswith("/"):
        address = "file://" + urllib.parse.quote(url)
    elif urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise DownloadError(
            "is no http, https or file address", where=_without_secrets(url), remedy="check the address"
        )
    # The default opener reads http_proxy, https_proxy and no_proxy from the environment.
    opener = urllib.request.build_opener(_Redirects)
    return opener.open(_Request(address, headers), timeout=timeouts.idle)


@contextlib.contextmanager
def _failures(url: str) -> Iterator[None]:
    """Say every way a transfer can fail as one line."""
    shown = _without_secrets(url)
    try:
        yield
    except HostError:
        raise
    except urllib.error.HTTPError as error:
        raise DownloadError(f"answered {error.code} {error.reason}", where=shown, remedy=REMEDY) from error
    except urllib.error.URLError as error:
        raise DownloadError(_reason(error.reason), where=shown, remedy=REMEDY) from error
    except http.client.HTTPException as error:
        reason = f"broke off ({type(error).__name__})"
        raise DownloadError(reason, where=shown, remedy="run again") from error
    except OSError as error:
        remedy = "free some space on this host" if error.errno == errno.ENOSPC else REMEDY
        raise DownloadError(_reason(error), where=shown, remedy=remedy) from error


def _reason(reason: object) -> str:
    if isinstance(reason, (TimeoutError, socket.timeout)):
        return f"did not answer in time ({reason})"
    if isinstance(reason, OSError) and reason.strerror:
        return f"cannot be fetched: {reason.strerror}"
    return f"cannot be fetched: {reason}"


def _without_secrets(url: str) -> str:
    """The address without a user, a password or a query, which may hold a token."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(
        parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
