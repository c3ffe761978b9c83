"""One process at a time, also when the other one was left behind by a killed run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from .errors import HostError

__all__ = ["exclusive"]


@contextlib.contextmanager
def exclusive(path: str, *, seconds: float) -> Iterator[int]:
    """Hold a lock on the file ``path`` (made 0600 when missing); yields its descriptor.

    A child that inherits the descriptor keeps the lock. Raises HostError after ``seconds``.
    """
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _wait(descriptor, path, time.monotonic() + seconds)
        yield descriptor
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: str, deadline: float) -> None:
    started = time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            waited = f"held by another run for more than {deadline - started:.0f} s"
            raise HostError(waited, where=path, remedy="wait for that run to end, then run again")
        time.sleep(0.1)
