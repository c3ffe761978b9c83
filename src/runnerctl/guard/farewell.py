"""The end of a job: what it left is removed, what it used is told, and all of it is written down.

First while its worker still lives, when the completed hook asks (what the job's log is to show); then when
the worker has ended, whether or not a hook ever asked. Neither can fail a job: what could not be done is said
in its log, written down, and done again at the next occasion.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec

from runnerctl.guard import work
from runnerctl.guard.books import Books
from runnerctl.guard.door import Client
from runnerctl.guard.errands import Errands, Outcome
from runnerctl.guard.job import Job, joined
from runnerctl.guard.parts import Parts
from runnerctl.guard.ports import Residue, SlotPlace
from runnerctl.guard.protocol import Answer, one_line
from runnerctl.guard.watch import Asker

__all__ = ["CLEAN_SECONDS", "Farewell"]

CLEAN_SECONDS = 60.0
XID_SECONDS = 12.0
RESULT_SECONDS = 20.0
MOST_REPORTS = 4  # any step may start the completed hook; each time costs something
Answering = Callable[[Client, Answer], None]


@dataclass
class _Round:
    """One question of a completed hook, on its way."""

    job: Job
    place: SlotPlace
    clients: list[Client]
    waits: set[str] = field(default_factory=lambda: {"clean", "xids"})
    residue: Residue = field(default_factory=Residue)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Farewell:
    """Ends jobs. ``pci``: GPU (UUID) -> PCI address, as far as known, for the kernel log.

    ``cleaning``: slots whose last job still is cleaned up behind; their next one waits for that. ``wake``:
    lets a slot go on whose cleaning was cut short while everything stood still.
    """

    parts: Parts
    errands: Errands
    books: Books
    answer: Answering
    pci: Callable[[], Mapping[str, str]]
    wake: Callable[[SlotPlace], None]
    rounds: dict[str, _Round] = field(default_factory=dict)
    cleaning: set[str] = field(default_factory=set)

    # -- while the worker lives

    def completed(self, job: Job, place: SlotPlace, asker: Asker, client: Client) -> None:
        """The completed hook asks."""
        if job.key in self.rounds:
            self.rounds[job.key].clients.append(client)
            return
        if job.kept.state != "admitted" or job.kept.reports >= MOST_REPORTS:
            self.answer(client, Answer("done"))
            return
        job.kept.reports += 1
        going = _Round(job, place, [client])
        self.rounds[job.key] = going
        spare = (job.kept.listener, job.worker.pid, *asker.chain)
        clean = partial(work.clean_during, cleaner=self.parts.cleaner, place=place, spare=spare)
        then = partial(self._cleaned, going)
        self.errands.start(f"clean {job.key}", clean, seconds=CLEAN_SECONDS, then=then)
        self._xids(job, place, partial(self._listed, going))

    def _cleaned(self, going: _Round, outcome: Outcome) -> None:
        if outcome.failure:
            self.wake(going.place)
            going.warnings.append(f"what this job left could not be removed yet: {outcome.failure}")
        else:
            going.residue = msgspec.convert(outcome.value, Residue)
        self._round_ends(going, "clean")

    def _listed(self, going: _Round, outcome: Outcome) -> None:
        if outcome.failure:
            going.warnings.append(f"the kernel log could not be read for Xids: {outcome.failure}")
        else:
            going.job.kept.xids = tuple(msgspec.convert(outcome.value, list[str]))
        self._round_ends(going, "xids")

    def _round_ends(self, going: _Round, part: str) -> None:
        going.waits.discard(part)
        if going.waits:
            return
        job = going.job
        self.rounds.pop(job.key, None)
        job.kept.residue = joined(job.kept.residue, going.residue)
        job.uses = self.parts.meter.read(job.kept.slot)
        warnings = tuple(one_line(warning) for warning in going.warnings)
        text, summary = self._told(job)
        for client in going.clients:
            self.answer(client, Answer("done", warnings=warnings, text=text, summary=summary))
        self.books.note(job)

    def _told(self, job: Job) -> tuple[str, str]:
        report = msgspec.structs.replace(job.report(), ended_at=time.time())
        try:
            return self.parts.text(report), self.parts.summary(report)
        except Exception as error:  # a report that cannot be made must not cost the guard its life
            self.parts.say(f"slot {job.kept.slot}: no report of its job: {type(error).__name__}: {error}")
            return "The report of this job could not be made.", ""

    def _xids(
        self, job: Job, place: SlotPlace, then: Callable[[Outcome], None], *, patient: bool = False
    ) -> None:
        if not place.gpus:
            then(Outcome(value=[]))
            return
        known = self.pci()
        gpus = {known[uuid]: uuid for uuid in place.gpus if uuid in known}
        call = partial(work.xids, gpus=gpus, since=job.kept.began_at, root=str(self.parts.paths.root))
        self.errands.start(f"xids {job.key}", call, seconds=XID_SECONDS, then=then, patient=patient)

    # -- when it has ended

    def ended(
        self, job: Job, place: SlotPlace, *, listener: int, measured: bool, alone: bool = False
    ) -> None:
        """The worker has ended. ``listener``: the slot's listener as it is now, 0 for none.

        ``alone``: no other job of the slot has been admitted; until this one is cleaned up behind, none is.
        """
        self.rounds.pop(job.key, None)
        if job.kept.ended_at is None:
            job.kept.ended_at = time.time()
        if measured:
            job.uses = self.parts.meter.stop(job.kept.slot)
        self.books.note(job)
        waits = {"clean", "result", "xids"}
        self.cleaning.add(place.name)
        after = partial(
            work.clean_after,
            cleaner=self.parts.cleaner,
            place=place,
            listener=listener,
            before=job.kept.ended_at,
            alone=alone,
        )
        then = partial(self._gone, job, place, waits)
        self.errands.start(f"after {job.key}", after, seconds=CLEAN_SECONDS, then=then)
        result = partial(
            work.result,
            unit=job.kept.unit,
            listener=job.kept.listener,
            since=job.kept.began_at,
            until=job.kept.ended_at,
        )
        then = partial(self._resulted, job, waits)
        self.errands.start(f"result {job.key}", result, seconds=RESULT_SECONDS, then=then, patient=True)
        self._xids(job, place, partial(self._all_listed, job, waits), patient=True)

    def _gone(self, job: Job, place: SlotPlace, waits: set[str], outcome: Outcome) -> None:
        self.cleaning.discard(job.kept.slot)
        if outcome.failure:
            self.wake(place)
            left = Residue(remains=(f"not looked for: {outcome.failure}",))
        else:
            left = msgspec.convert(outcome.value, Residue)
        job.kept.residue = joined(job.kept.residue, left)
        for line in left.remains:
            self.parts.say(f"slot {job.kept.slot}: what a job left cannot be removed: {one_line(line)}")
        self._ends(job, waits, "clean")

    def _resulted(self, job: Job, waits: set[str], outcome: Outcome) -> None:
        job.result = outcome.value if isinstance(outcome.value, str) else None
        self._ends(job, waits, "result")

    def _all_listed(self, job: Job, waits: set[str], outcome: Outcome) -> None:
        if not outcome.failure:
            job.kept.xids = tuple(msgspec.convert(outcome.value, list[str]))
        self._ends(job, waits, "xids")

    def _ends(self, job: Job, waits: set[str], part: str) -> None:
        waits.discard(part)
        if not waits:
            self.books.note(job, last=True)
