"""How attempts are listed, run and told: one JSON line each, behind a mark, on standard output."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["CONFIG", "MARK", "ReachedError", "attempt", "config", "in_child", "run"]

MARK = "@@hostile "
CONFIG = "HOSTILE_CONFIG"
_SECONDS = 20
_ATTEMPTS: dict[str, list[tuple[str, Callable[[], str | None]]]] = {}


class ReachedError(Exception):
    """The attempt got what no job may get."""


class _TooLongError(Exception):
    """The attempt hung."""


def attempt(
    identity: str, phase: str = "attack"
) -> Callable[[Callable[[], str | None]], Callable[[], str | None]]:
    """Enter a function in the list. It raises ReachedError, or OSError, or returns what happened."""

    def enter(function: Callable[[], str | None]) -> Callable[[], str | None]:
        _ATTEMPTS.setdefault(phase, []).append((identity, function))
        return function

    return enter


def config() -> dict[str, Any]:
    """What the job knows of the host: what anybody could guess, or find out in the documentation."""
    loaded: dict[str, Any] = json.loads(os.environ[CONFIG])
    return loaded


def run(phase: str) -> None:
    """Try everything of a phase, in the order of the list."""
    signal.signal(signal.SIGALRM, _too_long)
    for identity, function in _ATTEMPTS.get(phase, []):
        began = time.monotonic()
        signal.alarm(_SECONDS)
        try:
            outcome, detail = "stopped", function() or "nothing got"
        except ReachedError as reached:
            outcome, detail = "reached", str(reached)
        except OSError as error:
            outcome, detail = "stopped", errno.errorcode.get(error.errno or 0, str(error))
        except Exception as error:
            outcome, detail = "broken", f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        took = round(time.monotonic() - began, 2)
        line = {"id": identity, "outcome": outcome, "detail": detail[:300], "seconds": took}
        sys.stdout.write(f"{MARK}{json.dumps(line)}\n")
        sys.stdout.flush()


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise _TooLongError(f"not over after {_SECONDS} s")


def in_child(function: Callable[[], int]) -> int:
    """Run something in a process of its own; its wait status. What it may break is its own."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        signal.alarm(_SECONDS - 2)
        os._exit(function())
    except BaseException:
        os._exit(99)
