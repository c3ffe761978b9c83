"""Writes jobs down, in their order and one at a time: the database may be slow, the guard must not be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from runnerctl.guard import work
from runnerctl.guard.errands import Errands, Outcome
from runnerctl.guard.job import Job, JobFiles
from runnerctl.guard.ports import Ledger

__all__ = ["Books"]

SECONDS = 20.0
TRIES = 5
PAUSES = (0.5, 2.0, 10.0, 60.0)


@dataclass
class _Entry:
    job: Job
    busy: bool = False
    due: bool = False
    last: bool = False
    tries: int = 0
    again_at: float | None = None


@dataclass
class Books:
    """The ledger, as the loop sees it. A job's file stays until its last entry has been written."""

    errands: Errands
    files: JobFiles
    ledger: Callable[[], Ledger]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    entries: dict[str, _Entry] = field(default_factory=dict)

    def note(self, job: Job, *, last: bool = False) -> None:
        """Write down what is known of a job by now; ``last``: it has ended, and all is known."""
        self.files.save(job)
        entry = self.entries.setdefault(job.key, _Entry(job))
        entry.due, entry.last = True, entry.last or last
        self._go(entry)

    def _go(self, entry: _Entry) -> None:
        if entry.busy or not entry.due or entry.again_at is not None:
            return
        entry.busy, entry.due = True, False
        report, number = entry.job.report(), entry.job.kept.number
        call = (
            partial(work.begin, ledger=self.ledger, job=report)
            if number is None
            else partial(work.update, ledger=self.ledger, number=number, job=report)
        )
        then = partial(self._done, entry)
        self.errands.start(f"ledger {entry.job.key}", call, seconds=SECONDS, then=then, patient=True)

    def _done(self, entry: _Entry, outcome: Outcome) -> None:
        entry.busy = False
        if outcome.failure:
            self._failed(entry, outcome.failure)
            return
        entry.tries = 0
        if entry.job.kept.number is None:
            entry.job.kept.number = int(outcome.value)
            entry.due = entry.due or entry.last  # `begin` knows of no end
            self.files.save(entry.job)
        if entry.due:
            self._go(entry)
        elif entry.last:
            self.files.drop(entry.job)
            self.entries.pop(entry.job.key, None)

    def _failed(self, entry: _Entry, failure: str) -> None:
        entry.tries += 1
        if entry.tries >= TRIES and entry.last:
            self.say(f"job on slot {entry.job.kept.slot} could not be written down: {failure}")
            self.files.drop(entry.job)
            self.entries.pop(entry.job.key, None)
            return
        entry.due = True
        entry.again_at = self.clock() + PAUSES[min(entry.tries - 1, len(PAUSES) - 1)]

    def turn(self) -> None:
        """Try again what failed."""
        now = self.clock()
        for entry in list(self.entries.values()):
            if entry.again_at is not None and now >= entry.again_at:
                entry.again_at = None
                self._go(entry)
