"""Run what can hang in child processes, all at once, and never wait longer than their deadlines.

A driver call that hangs cannot be interrupted from within: a signal handler of Python runs only after the
call returned. So each task gets a child process with a session of its own. The child writes lines of JSON to
a pipe: the stage it enters, parts of its answer, and at last the answer. At the deadline its whole group is
killed. A child in uninterruptible sleep survives even that: it is left behind, reported and written down
(`runnerctl.probes.stuck`), not waited for. A task that can go on behind a call that crashed or stalled says
how (`Task.resume`), and gets what is left of its time.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runnerctl.core.reading import Unavailable
from runnerctl.probes.child import Call, Child, Report, kill_group, start
from runnerctl.probes.stuck import Guard, state_of, wchan_of

__all__ = ["Call", "Outcome", "Report", "Task", "run_all"]

_GRACE_SECONDS = 0.2  # how long a killed child may take to disappear before it is left behind
_STALL_SHARE = 0.4  # of the deadline: a single call that takes so long is given up if others wait behind it
_POLL_SECONDS = 0.004  # between looks at a child that is about to end

Resume = Callable[[Sequence[Any], Unavailable], Sequence[Call]]


@dataclass(frozen=True)
class Task:
    """Something that may hang. ``call`` gets a `Report` and returns plain data (what JSON can carry).

    ``resume`` gets the parts so far and what stopped the child, and says what to do in the time that is
    left: calls that run at the same time, in a child each, and are not resumed again. ``patience``: seconds
    that a stage of that name may take at least before what waits behind it is preferred. ``guard`` names the
    marker of a child that cannot be killed; without a name none is written.
    """

    call: Call
    deadline_seconds: float
    resume: Resume | None = None
    patience: Mapping[str, float] = field(default_factory=dict)
    guard: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its answer or its failure, and the parts that came before either.

    ``failure`` is the first of the ``interruptions``, of which a task with `Task.resume` may have several,
    and an answer besides. ``repeated``: nothing was asked, because the child of an earlier run is stuck;
    the parts are those of then.
    """

    value: Any = None
    parts: tuple[Any, ...] = ()
    failure: Unavailable | None = None
    seconds: float = 0.0
    interruptions: tuple[Unavailable, ...] = ()
    repeated: bool = False


@dataclass
class _Run:
    """One task on its way."""

    task: Task
    started: float
    ended: float
    value: Any = None
    parts: list[Any] = field(default_factory=list)
    interruptions: list[Unavailable] = field(default_factory=list)
    repeated: bool = False
    resumed: bool = False

    @property
    def deadline(self) -> float:
        return self.started + self.task.deadline_seconds

    def outcome(self) -> Outcome:
        return Outcome(
            value=self.value,
            parts=tuple(self.parts),
            failure=self.interruptions[0] if self.interruptions else None,
            seconds=self.ended - self.started,
            interruptions=tuple(self.interruptions),
            repeated=self.repeated,
        )


def run_all(
    tasks: Mapping[str, Task],
    *,
    guard: Guard | None = None,
    kill: Callable[[int], None] = kill_group,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Outcome]:
    """Run the tasks at the same time; returns when each has answered, failed, or met its deadline.

    No task takes more than a fifth of a second beyond its deadline, however many of them hang. ``kill`` sends
    SIGKILL to a process and its group.
    """
    watch = _Watch(guard, kill, clock)
    try:
        runs = {name: watch.begin(task) for name, task in tasks.items()}
        while watch.busy:
            watch.turn()
    finally:
        watch.close()
    return {name: run.outcome() for name, run in runs.items()}


class _Watch:
    """The children and what they do, from the parent's side. Nothing here waits for a single child."""

    def __init__(self, guard: Guard | None, kill: Callable[[int], None], clock: Callable[[], float]) -> None:
        self._guard, self._kill, self._clock = guard, kill, clock
        self._selector = selectors.DefaultSelector()
        self._children: list[tuple[Child, _Run]] = []

    @property
    def busy(self) -> bool:
        """Whether there is anything left to wait for."""
        return bool(self._children)

    def begin(self, task: Task) -> _Run:
        """Start a task, unless an earlier child of the same guard is still stuck."""
        now = self._clock()
        run = _Run(task, started=now, ended=now)
        stuck = self._guard.standing(task.guard) if self._guard and task.guard else None
        if stuck:
            run.repeated = True
            run.parts.extend(stuck.parts)
            run.interruptions.append(stuck.again())
        else:
            self._start(run, task.call)
        return run

    def _start(self, run: _Run, call: Call) -> None:
        try:
            child = start(call, now=self._clock(), deadline=run.deadline)
        except OSError as error:
            run.interruptions.append(Unavailable(f"no process could be started: {error.strerror}"))
            return
        self._children.append((child, run))
        self._selector.register(child.read, selectors.EVENT_READ, child)

    def turn(self) -> None:
        """Wait for the next thing to happen, and act on it."""
        now = self._clock()
        pause = min(self._next(child, run) for child, run in self._children) - now
        for key, _ in self._selector.select(max(pause, 0)):
            child: Child = key.data
            child.drain(self._clock())
            if child.closed_at is not None:
                self._selector.unregister(child.read)
        for child, run in list(self._children):
            self._step(child, run)

    def _next(self, child: Child, run: _Run) -> float:
        """When to look at a child again, if it says nothing before."""
        if child.killed_at is not None or child.closed_at is not None:
            return self._clock() + _POLL_SECONDS
        if run.task.resume and not run.resumed and not child.patient:
            return min(child.deadline, child.touched + self._stall(child, run))
        return child.deadline

    def _step(self, child: Child, run: _Run) -> None:
        now = self._clock()
        if child.killed_at is not None or child.closed_at is not None:
            status = child.reaped()
            if status is not None:
                self._ended(child, run, status)
                return
            if now >= self._patience(child):
                self._left_behind(child, run)
                return
        if child.killed_at is None and (now >= child.deadline or self._stalls(child, run, now)):
            child.killed_at, child.stalled = now, now < child.deadline
            self._kill(child.pid)

    @staticmethod
    def _patience(child: Child) -> float:
        """Until when a child may take to disappear: one that has answered keeps nobody waiting."""
        if child.answered and child.closed_at is not None:
            return child.closed_at + _GRACE_SECONDS
        return child.deadline + _GRACE_SECONDS

    @staticmethod
    def _stall(child: Child, run: _Run) -> float:
        return max(_STALL_SHARE * run.task.deadline_seconds, run.task.patience.get(child.stage, 0.0))

    def _stalls(self, child: Child, run: _Run, now: float) -> bool:
        """Whether a call takes long while there is something behind it that could be asked instead."""
        resume = run.task.resume
        if resume is None or run.resumed or child.patient or child.closed_at is not None:
            return False
        if now < child.touched + self._stall(child, run):
            return False
        child.patient = not resume(child.parts, _timeout(child, now))
        return not child.patient

    def _ended(self, child: Child, run: _Run, status: int) -> None:
        child.drain(self._clock())
        self._collect(child, run)
        if child.answered:
            run.value = child.value
            return
        late = child.killed_at is not None
        why = _timeout(child, child.killed_at or 0.0) if late else _crash(child, status)
        run.interruptions.append(why)
        if run.task.resume and not run.resumed and self._clock() < run.deadline:
            calls, run.resumed = run.task.resume(run.parts, why), True
            for call in calls:
                self._start(run, call)

    def _left_behind(self, child: Child, run: _Run) -> None:
        """It cannot be killed: say where it sleeps, and write it down for the probes to come."""
        child.drain(self._clock())
        call, gpu = ("the end of its process", None) if child.answered else (child.stage, child.gpu)
        note = ""
        if self._guard and run.task.guard:
            known = [*run.parts, *child.parts]
            note = self._guard.record(run.task.guard, child.pid, call=call, gpu=gpu, parts=known)
        self._collect(child, run)
        if child.answered:
            run.value = child.value
            return
        told = _timeout(child, child.killed_at or self._clock())
        left = f"; process {child.pid} cannot be killed and was left behind ({_waits_in(child.pid)})"
        reason = "; ".join(filter(None, (told.reason + left, note)))
        run.interruptions.append(Unavailable(reason, call=told.call, gpu=told.gpu, kind="timeout"))

    def _collect(self, child: Child, run: _Run) -> None:
        """Take over what a child said; it is not watched any more."""
        run.parts.extend(child.parts)
        run.ended = max(run.ended, self._clock())
        self._forget(child)
        self._children.remove((child, run))

    def _forget(self, child: Child) -> None:
        if child.read in self._selector.get_map():
            self._selector.unregister(child.read)
        os.close(child.read)

    def close(self) -> None:
        """Leave nothing behind when a run was interrupted."""
        for child, _ in self._children:
            self._kill(child.pid)
        end = time.monotonic() + _GRACE_SECONDS
        for child, _ in self._children:
            while child.reaped() is None and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
            self._forget(child)
        self._selector.close()


def _crash(child: Child, status: int) -> Unavailable:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        reason = f"{_where(child)} ended the process ({name})"
        return Unavailable(reason, call=child.stage, gpu=child.gpu, kind="crash")
    reason = child.failed or "the probe ended without an answer"
    return Unavailable(reason, call=child.stage, gpu=child.gpu)


def _timeout(child: Child, now: float) -> Unavailable:
    """A call that took long, or a driver that is slow in all its calls, which is not the last one's fault."""
    whole = child.deadline - child.started
    if child.stalled or now - child.touched >= _STALL_SHARE * whole:
        seconds = now - (child.touched if child.stalled else child.started)
        reason = f"{_where(child)} did not return within {seconds:.1f} s"
        return Unavailable(reason, call=child.stage, gpu=child.gpu, kind="timeout")
    reason = f"the deadline of {whole:.1f} s passed during {_where(child)}"
    return Unavailable(reason, call=child.stage, gpu=child.gpu, kind="slow")


def _where(child: Child) -> str:
    on = f" on GPU {child.gpu}" if child.gpu is not None else ""
    return f"{child.stage or 'the probe'}{on}"


def _waits_in(pid: int) -> str:
    """Where in the kernel a process sleeps, as far as /proc tells."""
    state, where = state_of(pid) or "unknown", wchan_of(pid)
    return f"state {state}, in {where}" if where else f"state {state}"
