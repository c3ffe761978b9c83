"""Run a command with a deadline, and tell whether processes still use a directory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import HostError

__all__ = ["Result", "in_use", "run"]

REAP_SECONDS = 5.0  # how long a killed command may take to disappear


@dataclass(frozen=True)
class Result:
    """How a command ended: exit status (negative: the signal) and what it wrote."""

    rc: int
    out: str
    err: str


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str | None] | None = None,
    stdin: str | None = None,
    cwd: str | None = None,
    keep_open: Sequence[int] = (),
) -> Result:
    """Run ``argv`` for at most ``timeout`` seconds, in a session of its own, speaking plain English.

    ``env`` is added to this process's environment; None takes a variable out of it. ``keep_open`` are
    descriptors that the command inherits. Raises HostError when the program is missing or the deadline ends;
    then the whole session is killed.
    """
    settings = {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", **(env or {})}
    surroundings = {name: value for name, value in settings.items() if value is not None}
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=surroundings,
            cwd=cwd,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            pass_fds=keep_open,
        )
    except OSError as error:
        raise HostError(f"cannot be run: {error.strerror}", where=argv[0]) from error
    try:
        out, err = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"did not end within {timeout:.0f} s", where=" ".join(argv[:3])) from error
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # One in uninterruptible sleep outlives SIGKILL: it is left behind, not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=REAP_SECONDS)
    return Result(process.returncode, out, err)


def in_use(directory: str, *, proc: str = "/proc") -> bool:
    """Whether a process runs from ``directory``, stands in it, or names it in its command or environment."""
    own = str(os.getpid())
    pids = [entry for entry in os.listdir(proc) if entry.isdigit() and entry != own]
    return any(_uses(os.path.join(proc, pid), directory) for pid in pids)


def _uses(process: str, directory: str) -> bool:
    needle = f"{directory}/"
    try:
        places = [os.readlink(os.path.join(process, name)) for name in ("exe", "cwd")]
        if any(f"{place}/".startswith(needle) for place in places):
            return True
        for name in ("cmdline", "environ"):
            with open(os.path.join(process, name), "rb") as file:
                if needle.encode() in file.read():
                    return True
    except OSError:
        return False  # it ended while we looked, or is the kernel's
    return False
