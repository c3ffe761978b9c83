"""One child process: how it is started, what it says, how it is ended. See `runnerctl.probes.bounded`."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

__all__ = ["Call", "Child", "Report", "kill_group", "start"]

_ALARM_SECONDS = 5  # a child ends itself this long after its deadline, if the parent died meanwhile


class Report:
    """How a task says where it is. Used in the child only."""

    def __init__(self, write: int) -> None:
        self._write = write

    def stage(self, call: str, gpu: int | None = None) -> None:
        """Name the call that comes next, and its GPU: if it never returns, that is the verdict."""
        self._send({"stage": call, "gpu": gpu})

    def part(self, value: Any) -> None:
        """Hand over a part of the answer, which survives whatever happens next."""
        self._send({"part": value})

    def answer(self, value: Any) -> None:
        """Hand over the answer; `run_all` does it with what the task returned."""
        self._send({"answer": value})

    def failed(self, reason: str) -> None:
        """Say why there will be no answer; `run_all` does it with an exception."""
        self._send({"failed": reason})

    def _send(self, line: dict[str, Any]) -> None:
        data = msgspec.json.encode(line) + b"\n"
        while data:
            data = data[os.write(self._write, data) :]


Call = Callable[[Report], Any]


@dataclass
class Child:
    """The parent's view of one child. Times are the clock's of `run_all`, in seconds.

    ``touched``: when it last entered a stage; ``closed_at``: when it closed its pipe; ``killed_at``: when it
    was killed, ``stalled`` because of one call that took too long, or else because its deadline had passed.
    """

    pid: int
    read: int
    started: float
    deadline: float
    touched: float
    buffer: bytes = b""
    stage: str = ""
    gpu: int | None = None
    parts: list[Any] = field(default_factory=list)
    answered: bool = False
    value: Any = None
    failed: str | None = None
    closed_at: float | None = None
    killed_at: float | None = None
    stalled: bool = False
    patient: bool = False

    def drain(self, now: float) -> None:
        """Read what is there."""
        while self.closed_at is None:
            try:
                data = os.read(self.read, 65536)
            except BlockingIOError:
                return
            if not data:
                self.closed_at = now
            *lines, self.buffer = (self.buffer + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(msgspec.DecodeError):  # a line cut by a crash
                    self._line(msgspec.json.decode(line), now)

    def _line(self, line: dict[str, Any], now: float) -> None:
        if "stage" in line:
            self.stage, self.gpu = line["stage"], line["gpu"]
            self.touched, self.patient = now, False
        elif "part" in line:
            self.parts.append(line["part"])
        elif "answer" in line:
            self.answered, self.value = True, line["answer"]
        elif "failed" in line:
            self.failed = line["failed"]

    def reaped(self) -> int | None:
        """Its wait status once it has ended, else None. Does not wait."""
        try:
            done, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        return status if done else None


def start(call: Call, *, now: float, deadline: float) -> Child:
    """Start a child that does ``call`` until ``deadline``. Raises OSError when none can be started."""
    read, write = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(read)
        os.close(write)
        raise
    if pid == 0:
        _in_child(call, deadline - now, read, write)
    os.close(write)
    os.set_blocking(read, False)
    return Child(pid=pid, read=read, started=now, deadline=deadline, touched=now)


def _in_child(call: Call, seconds: float, read: int, write: int) -> None:
    """Do the task and leave, whatever happens: nothing of the parent's code may run on in the child."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        # The default action needs no Python to run, so it ends a call that hangs, too.
        signal.alarm(int(max(seconds, 0)) + _ALARM_SECONDS)
        # A crash is an answer here: no core file, no dump of Python's stack.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        os.close(read)
        _silence()
        report = Report(write)
        try:
            report.answer(call(report))
        except Exception as error:  # of whatever library was asked: its text is the answer
            report.failed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    finally:
        os._exit(0)


def _silence() -> None:
    """Libraries that print before they abort must not write into the user's answer."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    if null > 2:
        os.close(null)


def kill_group(pid: int) -> None:
    """Send SIGKILL to a child and everything that it started. Does not wait."""
    for kill in (os.killpg, os.kill):  # the child may not have made its group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
