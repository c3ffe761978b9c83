"""Watches over the processes of jobs that are not admitted: until they are, and after a refusal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from runnerctl.guard import work
from runnerctl.guard.claims import Asking
from runnerctl.guard.enforce import fate
from runnerctl.guard.errands import Errands, Outcome
from runnerctl.guard.job import Job
from runnerctl.guard.parts import Parts
from runnerctl.guard.procs import Kernel, Process
from runnerctl.guard.watch import WORKER, SlotWatch, Watch

__all__ = ["Custody"]

HOOK_SECONDS = 90.0  # from a hook's begin to an answer; the client gives up earlier
LAST_WORDS_SECONDS = 5.0  # for a refused hook to print why, and to end
CHECK_SECONDS = 5.0
PATIENCE_SECONDS = {False: 0.2, True: 0.1}  # what is wrong once may be about to execute what is right
NOT_YET = (WORKER, ".NET")  # what a child of the worker's is called until it executes something
NEVER_ASKED = "its job-started hook was not run to its end"
Key = tuple[int, int]


@dataclass
class Custody:
    """The processes of one host's jobs. ``caught`` hears of a job that must end at once, and why."""

    parts: Parts
    kernel: Kernel
    errands: Errands
    watch: Watch
    caught: Callable[[Job, SlotWatch, str], None]
    clock: Callable[[], float] = time.monotonic

    def look(self, job: Job, slot: SlotWatch) -> None:
        """See whether a job that is not admitted has processes that it may not have."""
        now, refused = self.clock(), job.kept.state == "refused"
        found = {(each.pid, each.started): each for each in self.watch.others(slot)}
        fates = {key: self._fate(job, process, found) for key, process in found.items()}
        for key, what in fates.items():
            if what == "check":
                self._check(job, slot, found[key])
        wrong = {key for key, what in fates.items() if what == "wrong"}
        job.suspects = {key: job.suspects.get(key, now) for key in wrong}
        if any(now - since >= PATIENCE_SECONDS[refused] for since in job.suspects.values()):
            self.caught(job, slot, NEVER_ASKED)
        elif late := self._late(job, found, now):
            self.caught(job, slot, late)

    def _late(self, job: Job, found: Mapping[Key, Process], now: float) -> str:
        """Why a hook has taken too long: to ask, or to end after its job was refused."""
        started = [key for key, hook in job.shells.items() if key in found and hook == self._started_hook]
        if not started:
            return ""
        if job.shell_seen_at is None:
            job.shell_seen_at = now
        if job.kept.state == "refused":
            since = job.refused_at if job.refused_at is not None else now
            return job.kept.reason if now > since + LAST_WORDS_SECONDS else ""
        return NEVER_ASKED if now > job.shell_seen_at + HOOK_SECONDS else ""

    @property
    def _started_hook(self) -> str:
        return str(self.parts.paths / self.parts.started_hook)

    def _fate(self, job: Job, process: Process, found: Mapping[Key, Process]) -> str:
        key, program = (process.pid, process.started), self.kernel.program(process.pid)
        of_worker = process.parent == job.worker.pid
        young = of_worker and process.comm.startswith(NOT_YET)
        if young and program == self.kernel.program(job.worker.pid):
            return "fine"  # between fork and exec
        parent = next((each for each, other in found.items() if other.pid == process.parent), None)
        hooks = {*job.shells, *job.checking}
        return fate(
            program,
            hook=key in hooks or parent in hooks,
            of_worker=of_worker,
            python=self.parts.python,
            refused=job.kept.state == "refused",
        )

    def _check(self, job: Job, slot: SlotWatch, shell: Process) -> None:
        """Find out whether a shell of the worker's is a hook of ours: its arguments are its own memory."""
        job.checking.add((shell.pid, shell.started))
        asking = Asking(job.worker.pid, shell.pid, shell.pid)
        hooks = (self._started_hook, str(self.parts.paths / self.parts.completed_hook))
        call = partial(work.which_hook, proc=self.kernel.proc, asking=asking, hooks=hooks)
        then = partial(self._checked, job, slot, shell)
        self.errands.start(f"hook {shell.pid}", call, seconds=CHECK_SECONDS, then=then)

    def _checked(self, job: Job, slot: SlotWatch, shell: Process, outcome: Outcome) -> None:
        key = (shell.pid, shell.started)
        job.checking.discard(key)
        if job.kept.state == "admitted" or not self.kernel.lives(shell):
            return
        if outcome.value:
            job.shells[key] = str(outcome.value)
        else:
            self.caught(job, slot, NEVER_ASKED)
