"""What `keepalive` saw in earlier runs, in a file of the operator's own on the controller."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from runnerctl.core.parked import Sighting
from runnerctl.errors import DataError, TryAgainError, UnavailableError

__all__ = ["Memory", "remembered", "state_file"]

SCHEMA = "runnerctl.keepalive_state/1"
LOCK_SECONDS = 20.0
FORGOTTEN_SECONDS = 60 * 86400.0  # far beyond what GitHub keeps


class Memory(msgspec.Struct):
    """Sightings by scope and runner name, both lower-cased: ``https://github.com/acme gpu-1-main``."""

    schema: str = SCHEMA
    runners: dict[str, Sighting] = {}


def state_file(env: Mapping[str, str]) -> Path:
    """``keepalive.json`` in the user's state directory (XDG base directories). Raises UnavailableError."""
    given = env.get("XDG_STATE_HOME", "").strip()
    home = env.get("HOME", "").strip()
    if not given.startswith("/") and not home:
        raise UnavailableError(
            "there is no place for what was seen", where="keepalive", remedy="set XDG_STATE_HOME or HOME"
        )
    base = Path(given) if given.startswith("/") else Path(home) / ".local/state"
    return base / "runnerctl/keepalive.json"


@contextlib.contextmanager
def remembered(path: Path, *, now: float) -> Iterator[Memory]:
    """What was seen; what the caller changed is written when it ends well. One process at a time.

    Raises TryAgainError when another one takes too long, DataError for a damaged file, UnavailableError when
    it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        _lock(descriptor, path)
        memory = _read(path)
        before = msgspec.json.encode(memory)
        yield memory
        old = [key for key, each in memory.runners.items() if now - each.seen_at > FORGOTTEN_SECONDS]
        for key in old:
            del memory.runners[key]
        if msgspec.json.encode(memory) != before:
            _write(path, msgspec.json.format(msgspec.json.encode(memory), indent=1))
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            raise TryAgainError("is in use by another run", where=str(path), remedy="wait until it has ended")
        time.sleep(0.1)


def _read(path: Path) -> Memory:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Memory)
    except FileNotFoundError:
        return Memory()
    except OSError as error:
        raise UnavailableError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except msgspec.DecodeError as error:
        raise DataError(
            f"is damaged: {error}", where=str(path), remedy="remove it; what was seen so far is lost with it"
        ) from None


def _write(path: Path, data: bytes) -> None:
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".keepalive.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"cannot be written: {error.strerror}",
        where=str(path),
        remedy="set XDG_STATE_HOME to another place",
    )
