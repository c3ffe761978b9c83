"""Ask this host's service for an environment. Stdlib only, and quick: this is part of every job's start."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runnerctl import errors
from runnerctl.envs.wire import ALIVE_SECONDS, LONGEST_ANSWER, LONGEST_REQUEST, SOCKET, encode_request

__all__ = ["SECONDS", "ask", "is_there"]

SECONDS = 3 * 3600.0  # longer than the service's own deadline of a build, and some time in its queue
SILENCE_SECONDS = 6 * ALIVE_SECONDS  # without a line: it hangs
CONNECT_SECONDS = 10.0
AGAIN = 5  # times that a request is put to the successor of a service that stopped
AGAIN_PAUSE_SECONDS = 0.5
MOST_ROUNDS = 8  # of files asked for: one that names another, and so on
_UNIT = "systemctl status runnerctl-env.socket runnerctl-env.service"
_QUEUE_PAUSE_SECONDS = 0.02
_PIECE = 64 * 1024
_CODES = {
    error.exit_code: error
    for error in (
        *(errors.UsageError, errors.DataError, errors.UnavailableError),
        *(errors.TryAgainError, errors.AccessError, errors.ConfigError),
    )
}
OnEvent = Callable[[Mapping[str, Any]], None]
Read = Callable[[str], str]


class _GoneError(Exception):
    """The service went away, or asked to be asked again; the text says why."""


def is_there(socket_path: str = SOCKET) -> bool:
    """Whether this host has the service's socket."""
    try:
        return (os.stat(socket_path).st_mode & 0o170000) == 0o140000  # S_ISSOCK without importing stat
    except OSError:
        return False


def ask(
    op: str,
    payload: dict[str, Any],
    *,
    socket_path: str = SOCKET,
    deadline: float = SECONDS,
    on_event: OnEvent | None = None,
    read: Read | None = None,
) -> dict[str, Any]:
    """Put a question to the service and return what its ``ready`` line holds (`wire` lists the questions).

    ``deadline``: seconds for all of it. ``on_event`` gets each event's fields as they come. ``read`` gives
    the content of a file that the service needs to know, by the name that ``environment.yml`` or one of
    those files gives it. Raises the service's own errors under their exit codes, UnavailableError when it is
    not there, says nothing or goes away.
    """
    end = time.monotonic() + deadline
    gone = rounds = 0
    while True:
        try:
            answer = _once(op, payload, socket_path=socket_path, end=end, on_event=on_event)
        except _GoneError as error:
            gone += 1
            if gone > AGAIN or time.monotonic() + AGAIN_PAUSE_SECONDS > end:
                raise _unavailable(str(error), socket_path) from None
            time.sleep(AGAIN_PAUSE_SECONDS)
            continue
        names = answer.get("needs_files")
        if names is None:
            ready: dict[str, Any] = answer["ready"]
            return ready
        rounds += 1
        if read is None or rounds > MOST_ROUNDS:
            raise errors.DataError("needs files that were not given", where=", ".join(map(str, names)))
        payload = _with_files(payload, names, read)


def _with_files(payload: dict[str, Any], names: Mapping[str, Any], read: Read) -> dict[str, Any]:
    """The payload with these files. Raises DataError that says where the file is named."""
    request, files = payload["request"], {}
    for name, said in names.items():
        try:
            files[name] = read(name)
        except errors.DataError as error:
            what = f"the file {name!r} {error.what}"
            raise errors.DataError(what, where=str(said), remedy="commit it, or drop the line") from None
    return {**payload, "request": {**request, "files": {**request.get("files", {}), **files}}}


def _once(
    op: str, payload: dict[str, Any], *, socket_path: str, end: float, on_event: OnEvent | None
) -> dict[str, Any]:
    line = encode_request(op, payload)
    if len(line) > LONGEST_REQUEST:
        size = f"{len(line) / 1e6:.0f} MB are too much to ask at once"
        raise errors.DataError(size, where=_subject(payload), remedy="shorten the file, or what it names")
    with _connected(socket_path, end) as stream:
        try:
            stream.settimeout(CONNECT_SECONDS)
            stream.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have said why
        except OSError as error:
            raise _unavailable(f"does not listen: {error}", socket_path) from None
        for text in _lines(stream, end, socket_path):
            answer = _parse(text, socket_path)
            if "event" in answer:
                if on_event is not None:
                    on_event(answer["event"])
            elif "alive" not in answer:
                return _checked(answer, socket_path)
    raise _GoneError("went away before it had answered")


def _subject(payload: dict[str, Any]) -> str:
    request = payload.get("request")
    return str(request.get("where", "")) if isinstance(request, dict) else ""


def _connected(socket_path: str, end: float) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(stream, socket_path, min(end, time.monotonic() + CONNECT_SECONDS))
    except FileNotFoundError:
        stream.close()
        raise _unavailable("is not there: this host has no environment store", socket_path) from None
    except ConnectionRefusedError:
        stream.close()
        raise _unavailable("nobody listens there", socket_path) from None
    except OSError as error:
        stream.close()
        raise _unavailable(f"cannot be reached: {error.strerror or error}", socket_path) from None
    return stream


def _connect(stream: socket.socket, socket_path: str, end: float) -> None:
    """Connect; a queue that is full (EAGAIN, unix(7)) is waited for. Raises OSError."""
    while True:
        stream.settimeout(max(end - time.monotonic(), 0.001))
        try:
            stream.connect(socket_path)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_QUEUE_PAUSE_SECONDS)


def _lines(stream: socket.socket, end: float, socket_path: str) -> Iterator[bytes]:
    data = b""
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise errors.TryAgainError(
                "has not finished in the time there was", where=socket_path, remedy="run it again: it goes on"
            )
        stream.settimeout(min(left, SILENCE_SECONDS))
        try:
            piece = stream.recv(_PIECE)
        except TimeoutError:
            if left > SILENCE_SECONDS:
                raise _unavailable(f"is silent for {SILENCE_SECONDS:.0f} s", socket_path) from None
            continue
        except ConnectionResetError:
            piece = b""
        if not piece:
            return
        *whole, data = (data + piece).split(b"\n")
        yield from whole
        if len(data) > LONGEST_ANSWER:
            raise _unavailable("answers with more than an answer can be", socket_path)


def _parse(line: bytes, socket_path: str) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _unavailable("does not speak as the environment store does", socket_path)
    return answer


def _checked(answer: dict[str, Any], socket_path: str) -> dict[str, Any]:
    """An answer that ends the question. Raises what it says went wrong."""
    if isinstance(answer.get("ready"), dict) or isinstance(answer.get("needs_files"), dict):
        return answer
    if "again" in answer:
        raise _GoneError(str(answer["again"]))
    error = answer.get("error")
    if not isinstance(error, dict):
        raise _unavailable("does not speak as the environment store does", socket_path)
    kind = _CODES.get(error.get("exit_code", 0), errors.BugError)
    texts = {name: str(error.get(name, "")) for name in ("where", "remedy")}
    raise kind(str(error.get("what", "")), **texts)


def _unavailable(what: str, socket_path: str) -> errors.UnavailableError:
    return errors.UnavailableError(what, where=socket_path, remedy=f"see {_UNIT}")
