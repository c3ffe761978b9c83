"""A lock of a store: one holder at a time, among processes and threads; whoever dies lets go."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runnerctl.envs.model import Event
from runnerctl.envs.ports import Tell
from runnerctl.errors import TryAgainError, UnavailableError

__all__ = ["locked", "silent"]

POLL_SECONDS = (0.02, 0.25)  # the first pause and the longest


def silent(event: Event) -> None:
    """Tells nobody."""


@contextmanager
def locked(
    path: Path,
    *,
    seconds: float,
    what: str,
    tell: Tell = silent,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold ``path``. While another does, ``tell`` hears once that we wait, and for ``what``.

    Raises TryAgainError after ``seconds``; UnavailableError where no lock can be made (a read-only disk).
    """
    deadline, pause, told = clock() + seconds, POLL_SECONDS[0], False
    while (descriptor := _taken(path)) is None:
        if not told:
            tell(Event("wait", f"{what}: another run does that now"))
            told = True
        if clock() > deadline:
            remedy = "wait for the other run, or give more time"
            raise TryAgainError(f"{what}: another run took more than {seconds:.0f} s", remedy=remedy)
        sleep(pause)
        pause = min(pause * 1.5, POLL_SECONDS[1])
    try:
        yield
    finally:
        os.close(descriptor)


def _taken(path: Path) -> int | None:
    """The descriptor that holds the lock, or None. Old locks may be removed: the file there now counts."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        remedy = "see who owns the store, and whether its disk is full or read-only"
        raise UnavailableError(
            f"cannot be locked: {error.strerror}", where=str(path), remedy=remedy
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except FileNotFoundError:
        pass
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        remedy = "put the store on a local disk"
        raise UnavailableError(
            f"cannot be locked: {error.strerror}", where=str(path), remedy=remedy
        ) from None
    os.close(descriptor)
    return None
