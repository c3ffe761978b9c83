"""A directory of our own on the controller, for one process at a time."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runnerctl.errors import TryAgainError, UnavailableError

__all__ = ["locked"]

POLL_SECONDS = 0.05
EVERYBODY, ALL_OTHERS = 0o002, 0o022


@contextmanager
def locked(
    directory: Path, *, seconds: float, name: str = "lock", group_may_write: bool = True
) -> Iterator[None]:
    """Hold the lock ``name`` in ``directory``, which is made where it is missing (mode 0700).

    The other workers of a play wait for it, at most ``seconds``. What others can write to proves nothing:
    raises UnavailableError for a directory of another user, or one that everybody, or with
    ``group_may_write`` false a group, may write to; TryAgainError when another run holds it too long.
    """
    with os.fdopen(_opened(directory, name, EVERYBODY if group_may_write else ALL_OTHERS), "w") as file:
        deadline = time.monotonic() + seconds
        while not _taken(file.fileno()):
            if time.monotonic() > deadline:
                what = f"is locked by another run for more than {seconds:.0f} s"
                raise TryAgainError(what, where=str(directory / name), remedy="wait for that run, or end it")
            time.sleep(POLL_SECONDS)
        yield


def _opened(directory: Path, name: str, writers: int) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & writers:
            what = "belongs to another user, or others may write to it: what stands there proves nothing"
            remedy = "set XDG_CACHE_HOME to a directory of yours"
            raise UnavailableError(what, where=str(directory), remedy=remedy)
        return os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        remedy = "set XDG_CACHE_HOME to a directory that can be written"
        what = f"cannot be written: {error.strerror}"
        raise UnavailableError(what, where=str(directory), remedy=remedy) from None


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
