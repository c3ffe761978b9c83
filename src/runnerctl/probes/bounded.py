"""Run what can hang in child processes, all at once, and never wait longer than their deadlines.

A driver call that hangs cannot be interrupted from within: a signal handler of Python runs only after the
call returned. So each task gets a child process with a session of its own. The child writes lines of JSON to
a pipe: the stage it enters, parts of its answer, and at last the answer. At the deadline its whole group is
killed. A child in uninterruptible sleep survives even that: it is left behind and reported, not waited for.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.snapshot import Unavailable

__all__ = ["Outcome", "Report", "Task", "run_all"]

_REAP_SECONDS = 0.5  # how long a killed child may take to disappear before it is left behind
_ALARM_SECONDS = 5  # a child ends itself this long after its deadline, if the parent died meanwhile


@dataclass(frozen=True)
class Task:
    """Something that may hang. ``call`` gets a `Report` and returns plain data (what JSON can carry)."""

    call: Callable[[Report], Any]
    deadline_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its answer or its failure, and the parts that came before either."""

    value: Any = None
    parts: tuple[Any, ...] = ()
    failure: Unavailable | None = None
    seconds: float = 0.0


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


@dataclass
class _Child:
    """The parent's view of one child."""

    pid: int
    read: int
    deadline: float
    started: float
    buffer: bytes = b""
    stage: str = ""
    gpu: int | None = None
    parts: list[Any] = field(default_factory=list)
    answered: bool = False
    value: Any = None
    failed: str | None = None

    def take(self, data: bytes) -> None:
        """Read the lines that are complete by now."""
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):  # a line cut by a crash
                self._line(msgspec.json.decode(line))

    def _line(self, line: dict[str, Any]) -> None:
        if "stage" in line:
            self.stage, self.gpu = line["stage"], line["gpu"]
        elif "part" in line:
            self.parts.append(line["part"])
        elif "answer" in line:
            self.answered, self.value = True, line["answer"]
        elif "failed" in line:
            self.failed = line["failed"]


def run_all(tasks: Mapping[str, Task], *, clock: Callable[[], float] = time.monotonic) -> dict[str, Outcome]:
    """Run the tasks at the same time; returns when each has answered, failed, or met its deadline."""
    children: dict[str, _Child] = {}
    outcomes: dict[str, Outcome] = {}
    try:
        for name, task in tasks.items():
            try:
                children[name] = _start(task, now=clock())
            except OSError as error:
                reason = f"no process could be started: {error.strerror}"
                outcomes[name] = Outcome(failure=Unavailable(reason))
        for name, child, late in _finished(children, clock):
            outcomes[name] = _outcome(child, late=late, seconds=clock() - child.started)
    finally:
        for name, child in children.items():
            if name not in outcomes:  # interrupted: leave nothing behind
                _kill(child.pid)
            os.close(child.read)
    return outcomes


def _start(task: Task, *, now: float) -> _Child:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _in_child(task, read, write)
    os.close(write)
    os.set_blocking(read, False)
    return _Child(pid=pid, read=read, deadline=now + task.deadline_seconds, started=now)


def _in_child(task: Task, read: int, write: int) -> None:
    """Do the task and leave, whatever happens: nothing of the parent's code may run on in the child."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        # The default action needs no Python to run, so it ends a call that hangs, too.
        signal.alarm(int(task.deadline_seconds) + _ALARM_SECONDS)
        # A crash is an answer here: no core file, no dump of Python's stack.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        os.close(read)
        _silence()
        report = Report(write)
        try:
            report.answer(task.call(report))
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


def _finished(
    children: Mapping[str, _Child], clock: Callable[[], float]
) -> Iterator[tuple[str, _Child, bool]]:
    """Yield each child when it closed its pipe, or met its deadline (then the last value is True)."""
    with selectors.DefaultSelector() as selector:
        for name, child in children.items():
            selector.register(child.read, selectors.EVENT_READ, name)
        while selector.get_map():
            waiting = [str(key.data) for key in selector.get_map().values()]
            pause = min(children[name].deadline for name in waiting) - clock()
            for key, _ in selector.select(max(pause, 0)):
                if _drain(children[key.data]):
                    selector.unregister(key.fd)
                    yield key.data, children[key.data], False
            for key in list(selector.get_map().values()):
                if clock() >= children[key.data].deadline:
                    selector.unregister(key.fd)
                    yield key.data, children[key.data], True


def _drain(child: _Child) -> bool:
    """Read what is there; True when the child has closed its end."""
    while True:
        try:
            data = os.read(child.read, 65536)
        except BlockingIOError:
            return False
        if not data:
            return True
        child.take(data)


def _outcome(child: _Child, *, late: bool, seconds: float) -> Outcome:
    parts = tuple(child.parts)
    if late:
        _drain(child)
        left = _kill(child.pid)
        if not child.answered:
            return Outcome(parts=tuple(child.parts), failure=_timeout(child, seconds, left), seconds=seconds)
    status = None if late else _reap(child.pid)
    if child.answered:
        return Outcome(value=child.value, parts=parts, seconds=seconds)
    return Outcome(parts=parts, failure=_ended(child, status), seconds=seconds)


def _ended(child: _Child, status: int | None) -> Unavailable:
    if status is not None and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        on = f" on GPU {child.gpu}" if child.gpu is not None else ""
        reason = f"{child.stage or 'the probe'}{on} ended the process ({name})"
        return Unavailable(reason, call=child.stage, gpu=child.gpu, kind="crash")
    reason = child.failed or "the probe ended without an answer"
    return Unavailable(reason, call=child.stage, gpu=child.gpu)


def _timeout(child: _Child, seconds: float, left_behind: str) -> Unavailable:
    stage = child.stage or "the probe"
    on = f" on GPU {child.gpu}" if child.gpu is not None else ""
    reason = f"{stage}{on} did not return within {seconds:.1f} s{left_behind}"
    return Unavailable(reason, call=child.stage, gpu=child.gpu, kind="timeout")


def _kill(pid: int) -> str:
    """Kill the child's group; returns an empty text, or what to say when it does not die."""
    for kill in (os.killpg, os.kill):  # the child may not have made its group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    if _reap(pid) is not None:
        return ""
    return f"; process {pid} cannot be killed and was left behind ({_waits_in(pid)})"


def _reap(pid: int) -> int | None:
    """The wait status of a child that has ended, or None when it does not end. Never waits unboundedly."""
    end = time.monotonic() + _REAP_SECONDS
    while True:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if done:
            return status
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


def _waits_in(pid: int) -> str:
    """Where in the kernel a process sleeps, as far as /proc tells."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        where = Path(f"/proc/{pid}/wchan").read_text().strip()
    except (OSError, IndexError):
        return "state unknown"
    return f"state {state}, in {where}" if where not in ("", "0") else f"state {state}"
