"""Faults on request: ``GHA_STAND_IN_FAULT=NAME[:NUMBER]``, as a rule a line of ``.env``.

=====================  ===================================================================================
exit1-after-listening  the version is refused: "Listening for Jobs", one error, exit 1. NUMBER: seconds later
exit7                  the same with exit 7
session-conflict       another process holds the session: the message, retries for 240 s, exit 5
hang                   "Listening for Jobs", one poll, then nothing; process and connection stay
hang-after-ack         takes a job, then does nothing more: no worker, no poll
exit2                  exits 2 at once, NUMBER times (default 10; counted in ``_diag``), then works
exit0-wiped            the record is gone: cleans its own files up and exits 0. NUMBER: seconds later
oom-child              the first step of a job grows to NUMBER MiB (default 64) and is killed; the job fails
crash                  kills itself with SIGKILL. NUMBER: seconds after "Listening for Jobs"
worker-crash           the worker dies by SIGKILL before the first step
=====================  ===================================================================================

All waits, these included, are divided by ``GHA_STAND_IN_TIME_SCALE``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .context import RunnerError

NAMES = (
    "exit1-after-listening",
    "exit7",
    "session-conflict",
    "hang",
    "hang-after-ack",
    "exit2",
    "exit0-wiped",
    "oom-child",
    "crash",
    "worker-crash",
)


class Fault(NamedTuple):
    """The fault asked for; the empty name is none."""

    name: str
    number: float | None

    def number_or(self, default: float) -> float:
        """The number given, or ``default``."""
        return default if self.number is None else self.number


def requested() -> Fault:
    """Read the environment. Raises RunnerError for a name that is no fault."""
    text = os.environ.get("GHA_STAND_IN_FAULT", "").strip()
    name, _, number = text.partition(":")
    if name and name not in NAMES:
        raise RunnerError(f"GHA_STAND_IN_FAULT: {name!r} is no fault; known: {', '.join(NAMES)}")
    try:
        return Fault(name, float(number) if number else None)
    except ValueError as error:
        raise RunnerError(f"GHA_STAND_IN_FAULT: {number!r} is no number") from error


def exits_left(root: Path, wanted: int) -> bool:
    """Count one more early exit; False once ``wanted`` of them have happened."""
    counter = root / "_diag" / ".stand-in-exits"
    done = int(counter.read_text(encoding="ascii")) if counter.exists() else 0
    if done >= wanted:
        return False
    counter.write_text(str(done + 1), encoding="ascii")
    return True
