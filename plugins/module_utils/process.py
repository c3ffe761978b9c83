"""Run a command with a deadline; nothing it started outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import HostError

__all__ = ["Result", "run"]


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
            process.wait()
    return Result(process.returncode, out, err)
