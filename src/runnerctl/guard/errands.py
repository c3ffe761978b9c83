"""What takes time or can hang, done in children while the guard goes on; every one has a deadline."""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runnerctl.probes.child import Call, Child, kill_group, start

__all__ = ["Errands", "Outcome"]

MOST = 32  # children at a time
MOST_PATIENT = 16  # of those that nobody waits for
MOST_WAITING = 256  # patient ones; then the host cannot keep up, and has to do without
_GRACE_SECONDS = 0.5  # for a killed child to disappear; then it is left behind
_LARGEST = 4 * 1024 * 1024  # bytes that a child may say


@dataclass(frozen=True)
class Outcome:
    """What became of an errand: its answer, or why there is none."""

    value: Any = None
    failure: str = ""


Then = Callable[[Outcome], None]


@dataclass(eq=False)
class _Errand:
    name: str
    call: Call
    seconds: float
    then: Then
    patient: bool = False
    child: Child | None = None
    read: int = 0


class Errands:
    """The children of the guard. ``then`` of each is called once, from `turn` or `turn_all`."""

    def __init__(self, selector: selectors.BaseSelector, clock: Callable[[], float] = time.monotonic) -> None:
        self._selector, self._clock = selector, clock
        self._running: list[_Errand] = []
        self._waiting: deque[_Errand] = deque()

    def start(self, name: str, call: Call, *, seconds: float, then: Then, patient: bool = False) -> None:
        """Have ``call`` done in a child of its own; its deadline begins when it starts.

        ``patient``: no job waits for it; so however many of these there are, none waits because of them.
        """
        if patient and sum(errand.patient for errand in self._waiting) >= MOST_WAITING:
            then(Outcome(failure="the guard has too much else to do"))
            return
        self._waiting.append(_Errand(name, call, seconds, then, patient))
        self._begin()

    def __contains__(self, name: str) -> bool:
        """Whether an errand of that name is on its way."""
        return any(errand.name == name for errand in (*self._running, *self._waiting))

    def next_at(self) -> float | None:
        """When `turn_all` should be called next, if no child says anything before."""
        times = [_due(errand.child) for errand in self._running if errand.child]
        return min(times) if times else None

    def heard(self, errand: Any) -> None:
        """A child has said something. ``errand``: the data of its key in the selector."""
        child = errand.child
        if child is not None:
            child.drain(self._clock())
            if child.closed_at is not None or len(child.buffer) > _LARGEST:
                self._selector.unregister(child.read)
                child.closed_at = child.closed_at or self._clock()

    def turn_all(self) -> None:
        """Collect what has ended, end what is late."""
        now = self._clock()
        for errand in list(self._running):
            self._step(errand, now)
        self._begin()

    def close(self) -> None:
        """End them all; nobody is told."""
        for errand in self._running:
            if errand.child:
                kill_group(errand.child.pid)
                self._forget(errand.child)
        self._running.clear()
        self._waiting.clear()

    def _begin(self) -> None:
        while (errand := self._next()) is not None:
            self._waiting.remove(errand)
            now = self._clock()
            try:
                errand.child = start(errand.call, now=now, deadline=now + errand.seconds)
            except OSError as error:
                errand.then(Outcome(failure=f"no process could be started: {error.strerror}"))
                continue
            self._running.append(errand)
            self._selector.register(errand.child.read, selectors.EVENT_READ, errand)

    def _next(self) -> _Errand | None:
        """The one that may start now."""
        if len(self._running) >= MOST:
            return None
        full = sum(errand.patient for errand in self._running) >= MOST_PATIENT
        return next((errand for errand in self._waiting if not (errand.patient and full)), None)

    def _step(self, errand: _Errand, now: float) -> None:
        child = errand.child
        if child is None:
            return
        ended = child.closed_at is not None or child.killed_at is not None
        status = child.reaped() if ended else None
        if status is not None:
            child.drain(now)
            self._end(errand, _outcome(child))
        elif child.killed_at is not None and now >= child.killed_at + _GRACE_SECONDS:
            self._end(errand, Outcome(failure=f"{_late(child)}; its process cannot be killed"))
        elif child.killed_at is None and now >= child.deadline:
            child.killed_at = now
            kill_group(child.pid)

    def _end(self, errand: _Errand, outcome: Outcome) -> None:
        self._running.remove(errand)
        if errand.child:
            self._forget(errand.child)
        errand.then(outcome)

    def _forget(self, child: Child) -> None:
        if child.read in self._selector.get_map():
            self._selector.unregister(child.read)
        os.close(child.read)


def _due(child: Child) -> float:
    if child.closed_at is not None:
        return child.closed_at + 0.002
    return child.killed_at + 0.01 if child.killed_at is not None else child.deadline


def _outcome(child: Child) -> Outcome:
    if child.answered:
        return Outcome(value=child.value)
    if child.failed is not None:
        return Outcome(failure=child.failed)
    return Outcome(failure=_late(child) if child.killed_at is not None else "it ended without an answer")


def _late(child: Child) -> str:
    at = f" in {child.stage}" if child.stage else ""
    return f"it took longer than {child.deadline - child.started:.0f} s{at}"
