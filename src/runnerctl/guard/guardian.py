"""The guard's mind: jobs that begin and end, what their hooks ask, and what becomes of the refused.

One thread, and nothing here waits: what may take long is an errand, and goes on when its answer is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import msgspec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_hooks import CLIENT

from runnerctl.core.spec import HostSpec
from runnerctl.guard import work
from runnerctl.guard.admission import Admission, Case
from runnerctl.guard.books import Books
from runnerctl.guard.custody import Custody
from runnerctl.guard.door import Client
from runnerctl.guard.errands import Errands, Outcome
from runnerctl.guard.farewell import Farewell
from runnerctl.guard.job import Job, JobFiles, Kept
from runnerctl.guard.parts import Parts
from runnerctl.guard.procs import Kernel, Process
from runnerctl.guard.protocol import Answer, Request, one_line
from runnerctl.guard.residue_processes import wake
from runnerctl.guard.watch import SlotWatch, Watch
from runnerctl.probes.files import read_bytes

__all__ = ["Guardian"]

STRANGER_SECONDS = 10.0  # for systemd to say whose listener that is
UNITS_SECONDS = 10.0
NOTE_SECONDS = 60.0
NOT_A_JOB = "the guard cannot tell which job of this host asks"
CLOCK_SECONDS = 0.05  # how far two readings of the clock may be apart
TICK_SECONDS = 0.011  # the begin of a process is told in ticks of a hundredth
FLOODED = "it flooded the guard of this host with connections"


@dataclass
class Guardian:
    """Everything of one host. ``answer`` writes to a client; ``since``: see `started_before`."""

    parts: Parts
    kernel: Kernel
    errands: Errands
    boot_id: str
    spec: Callable[[], HostSpec | None]
    pci: Callable[[], Mapping[str, str]]
    answer: Callable[[Client, Answer], None]
    guarded_since: float  # clock ticks after boot: workers that are older were there before any guard
    clock: Callable[[], float] = time.monotonic
    jobs: dict[str, Job] = field(default_factory=dict)
    strangers: list[tuple[float, Client, Request]] = field(default_factory=list)
    noted_at: float = 0.0

    @cached_property
    def watch(self) -> Watch:
        """Who runs."""
        return Watch(self.kernel)

    @cached_property
    def files(self) -> JobFiles:
        """The running jobs' files."""
        return JobFiles(self.parts.paths.run)

    @cached_property
    def books(self) -> Books:
        """The ledger."""
        return Books(self.errands, self.files, self.parts.ledger, self.parts.say, self.clock)

    @cached_property
    def admission(self) -> Admission:
        """Who may begin."""
        return Admission(
            self.parts,
            self.kernel,
            self.errands,
            self.boot_id,
            self.spec,
            self._decided,
            self.clock,
            self.farewell.cleaning,
        )

    @cached_property
    def farewell(self) -> Farewell:
        """Who ends."""
        return Farewell(
            self.parts, self.errands, self.books, self.answer, self.pci, partial(wake, self.kernel)
        )

    @cached_property
    def custody(self) -> Custody:
        """Who may not run."""
        return Custody(self.parts, self.kernel, self.errands, self.watch, self._caught, self.clock)

    # -- every turn

    def turn(self) -> None:
        """Look at the slots, and do what is due."""
        self._ask_systemd()
        looked_at = time.time() - TICK_SECONDS
        ended, begun = self.watch.look()
        for name in ended:
            self._ended(name, looked_at)
        for name in begun:
            self._begun(self.watch.slots[name])
        for job in list(self.jobs.values()):
            self._enforce(job)
        self.admission.turn()
        self._note()
        self.books.turn()
        self._strangers()

    def _note(self) -> None:
        """What the GPUs of running jobs did so far: a power cut ends a job when it was noted last."""
        if self.clock() - self.noted_at < NOTE_SECONDS:
            return
        self.noted_at = self.clock()
        for job in self.jobs.values():
            job.uses = self.parts.meter.read(job.kept.slot)
            self.books.note(job)

    @property
    def pause(self) -> float:
        """Seconds until the next turn, if nothing happens before."""
        states = [job.kept.state for job in self.jobs.values()]
        if "refused" in states:
            return 0.05
        return 0.25 if "waiting" in states or self.strangers else 1.0

    def _ask_systemd(self) -> None:
        units = (
            [] if "units" in self.errands else self.watch.strangers(self.clock(), urgent=bool(self.strangers))
        )
        if units:
            call = partial(work.show_units, units=units)
            self.errands.start("units", call, seconds=UNITS_SECONDS, then=self._shown)

    def _shown(self, outcome: Outcome) -> None:
        if outcome.failure:
            self.parts.say(f"systemd does not tell of the slots' units: {outcome.failure}")
            return
        found = msgspec.convert(outcome.value, dict[str, tuple[int, str]])
        self.watch.told(found)
        self.turn()

    # -- jobs begin and end

    def resume(self) -> None:
        """Go on with the jobs of an earlier guard; those that have ended meanwhile are ended now."""
        for each in self.watch.slots.values():
            wake(self.kernel, each.place)
        for kept in self.files.load(boot_id=self.boot_id):
            worker = self.kernel.process(kept.pid)
            slot = self.watch.slots.get(kept.slot)
            if (
                worker is not None
                and worker.started == kept.started
                and slot is not None
                and not kept.ended_at
            ):
                slot.worker = worker
                self.jobs[kept.slot] = job = Job(kept, worker)
                ran = time.time() - kept.began_at
                self.parts.meter.start(kept.slot, slot.place.gpus, ran_seconds=ran)
                self.books.note(job)
            elif slot is not None:
                gone = Job(kept, Process(kept.pid, kept.started, kept.listener, ""))
                listener = self._listener(slot, kept)
                self.farewell.ended(gone, slot.place, listener=listener, measured=False)

    def _begun(self, slot: SlotWatch) -> None:
        worker = slot.worker
        if worker is None or slot.listener is None:
            return
        kept = Kept(
            slot=slot.place.name,
            pid=worker.pid,
            started=worker.started,
            boot_id=self.boot_id,
            listener=slot.listener.pid,
            began_at=time.time(),
            unit=slot.place.unit,
            state="waiting" if self._is_guarded(worker) else "admitted",
        )
        self.jobs[slot.place.name] = job = Job(kept, worker)
        self.parts.meter.start(slot.place.name, slot.place.gpus)
        self.books.note(job)

    def _ended(self, name: str, looked_at: float) -> None:
        """A worker had ended by then; the next one may have begun at any moment since."""
        job = self.jobs.pop(name, None)
        slot = self.watch.slots.get(name)
        if job is None or slot is None:
            return
        self.admission.forget(job)
        job.kept.ended_at = looked_at
        if slot.worker is not None:  # the next one began before we looked: nothing of it is of this job
            job.kept.ended_at = min(job.kept.ended_at, self.kernel.began_at(slot.worker) - CLOCK_SECONDS)
        if job.kept.state == "waiting":
            held = self.parts.holds().get(name)
            if held is not None:
                job.kept.state, job.kept.reason = "refused", one_line(f"on hold: {held.reason}")
        listener = self._listener(slot, job.kept)
        alone = self._hooks_ask()  # a later job has not been looked at yet
        self.farewell.ended(job, slot.place, listener=listener, measured=True, alone=alone)

    def _listener(self, slot: SlotWatch, kept: Kept) -> int:
        """The process that stays when a job has ended; 0 when it has ended, too."""
        if slot.listener is not None and self.kernel.lives(slot.listener):
            return slot.listener.pid
        old = self.kernel.process(kept.listener)
        within = old is not None and slot.group in self.kernel.group(kept.listener)
        return kept.listener if old is not None and within and old.started <= kept.started else 0

    def _is_guarded(self, worker: Process) -> bool:
        """Whether a job can have asked: not one that was there before the guard, or before its hooks."""
        return worker.started >= self.guarded_since and self._hooks_ask()

    def _hooks_ask(self) -> bool:
        hook = read_bytes(self.parts.paths / self.parts.started_hook, 65536)
        return isinstance(hook, bytes) and CLIENT.encode() in hook

    # -- what hooks ask

    def asked(self, client: Client, request: Request) -> None:
        """A whole request is there."""
        if request.ask == "ping":
            self.answer(client, Answer("alive"))
            return
        self.turn()  # its worker may be new
        if not self._heard(client, request):
            self.watch.forget(client.uid)
            self.strangers.append((self.clock() + STRANGER_SECONDS, client, request))

    def _heard(self, client: Client, request: Request) -> bool:
        """Take up a request, if it is known by now whose it is."""
        asker = self.watch.asker(client.pid, client.uid)
        job = self.jobs.get(asker.slot) if asker else None
        if asker is None or job is None or job.worker.started != asker.worker.started:
            return False
        place = self.watch.slots[asker.slot].place
        if request.ask == "completed":
            self.farewell.completed(job, place, asker, client)
        elif job.kept.state == "waiting":
            self.admission.open(job, place, asker, client)
        else:
            self.answer(client, _verdict(job))
        return True

    def _strangers(self) -> None:
        """Those whose slot was not known: once more, until their time is over."""
        waiting, self.strangers = self.strangers, []
        for until, client, request in waiting:
            if client.closed or self._heard(client, request):
                continue
            if self.clock() < until:
                self.strangers.append((until, client, request))
            else:
                verdict = Answer("refused" if request.ask == "started" else "done", reason=NOT_A_JOB)
                self.answer(client, verdict)

    def _decided(self, case: Case, why: str) -> None:
        job = case.job
        if why:
            self._refuse(job, why)
        elif job.kept.state == "waiting":
            job.kept.state = "admitted"
        self.books.note(job)
        for client in case.clients:
            self.answer(client, _verdict(job))

    # -- what must be true

    def flooded(self, uid: int, seconds: float) -> None:
        """A user's processes come far too often: its job is ended, if it was there all these seconds.

        Otherwise some of them were of the job before it, and are being ended.
        """
        for name, slot in self.watch.slots.items():
            job = self.jobs.get(name)
            if slot.place.uid == uid and job is not None and self._age(job) > seconds:
                self._refuse(job, FLOODED)
                self._end(job, slot)

    def _age(self, job: Job) -> float:
        """Seconds since a job's worker began."""
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
        return up - job.worker.started / os.sysconf("SC_CLK_TCK")

    def _refuse(self, job: Job, why: str) -> None:
        if job.kept.state == "refused":
            return
        job.kept.state, job.kept.reason, job.refused_at = "refused", one_line(why), self.clock()
        self.parts.say(f"slot {job.kept.slot}: job refused: {job.kept.reason}")
        self.books.note(job)

    def _end(self, job: Job, slot: SlotWatch) -> None:
        """End the worker and all that began with it or later, within the slot's control group."""
        if not job.ending:
            job.ending = True
            self.parts.say(f"slot {job.kept.slot}: its job is ended: {job.kept.reason}")
        for process in (job.worker, *self.watch.others(slot)):
            self.kernel.kill(process, within=slot.group)

    def _enforce(self, job: Job) -> None:
        slot = self.watch.slots.get(job.kept.slot)
        if slot is None or (job.kept.state == "admitted" and not job.ending):
            return
        if job.ending:
            self._end(job, slot)
        elif job.kept.state == "refused" or job.kept.slot not in self.farewell.cleaning:
            self.custody.look(job, slot)

    def _caught(self, job: Job, slot: SlotWatch, why: str) -> None:
        held = self.parts.holds().get(job.kept.slot)
        self._refuse(job, f"on hold: {held.reason}" if held else why)
        self._end(job, slot)


def _verdict(job: Job) -> Answer:
    if job.kept.state == "admitted":
        return Answer("admitted", warnings=job.kept.warnings)
    return Answer("refused", reason=job.kept.reason)
