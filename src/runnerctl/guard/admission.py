"""Whether one job may begin: who asks, what it says, how its GPUs are. The answer is given once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from runnerctl.core.spec import HostSpec
from runnerctl.guard import work
from runnerctl.guard.claims import Asking, HookFacts
from runnerctl.guard.door import Client
from runnerctl.guard.enforce import SHELLS, is_system_program
from runnerctl.guard.errands import Errands, Outcome
from runnerctl.guard.gate import Fitness, fitness
from runnerctl.guard.job import Job
from runnerctl.guard.parts import Parts
from runnerctl.guard.policy import refusal
from runnerctl.guard.ports import SlotPlace
from runnerctl.guard.procs import Kernel
from runnerctl.guard.watch import Asker
from runnerctl.probes.gpu_verdict import Verdicts, published
from runnerctl.probes.nvml import SECONDS_PER_GPU, persistence_on

__all__ = ["Admission", "Case"]

FACTS_SECONDS = 5.0
LOOK_SECONDS = 0.15  # the loop waits that long for an answer, and not longer
LOOK_PAUSE_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 2.0  # in all; more where each GPU must be initialised first
HOLD_SECONDS = 60.0
FRESH_ROUNDS = 5  # of the health timer; and at least so many seconds:
FRESH_SECONDS = 300.0


@dataclass
class Case:
    """One job whose admission is being decided."""

    job: Job
    place: SlotPlace
    asker: Asker
    began: float
    look_until: float
    clients: list[Client] = field(default_factory=list)
    facts: HookFacts | None = None
    trouble: str = ""
    fitness: Fitness | None = None
    look_at: float = 0.0


@dataclass
class Admission:
    """Decides cases; ``decided`` is called once for each, with the reason of a refusal or an empty text."""

    parts: Parts
    kernel: Kernel
    errands: Errands
    boot_id: str
    spec: Callable[[], HostSpec | None]
    decided: Callable[[Case, str], None]
    clock: Callable[[], float] = time.monotonic
    cleaning: Collection[str] = ()  # slots whose last job still is cleaned up behind
    cases: dict[str, Case] = field(default_factory=dict)

    def open(self, job: Job, place: SlotPlace, asker: Asker, client: Client) -> None:
        """Begin to decide, or let another one who asks wait for the same answer."""
        case = self.cases.get(job.key)
        if case is not None:
            case.clients.append(client)
            return
        now = self.clock()
        extra = 0.0 if persistence_on(self.parts.paths.root) else SECONDS_PER_GPU * len(place.gpus)
        case = Case(job, place, asker, now, now + LONGEST_LOOK_SECONDS + extra, [client])
        self.cases[job.key] = case
        if why := self._not_ours(asker):
            self._decide(case, why)
            return
        asking = Asking(asker.worker.pid, asker.shell.pid, asker.process.pid)
        call = partial(
            work.facts,
            proc=self.kernel.proc,
            asking=asking,
            root=str(place.root),
            hook=str(self.parts.paths / self.parts.started_hook),
        )
        self.errands.start(f"facts {job.key}", call, seconds=FACTS_SECONDS, then=partial(self._facts, case))
        self._look(case)

    def _not_ours(self, asker: Asker) -> str:
        """Why the processes that ask are not those of a hook; as far as their programs tell."""
        if not is_system_program(self.kernel.program(asker.shell.pid), SHELLS):
            return "its job-started hook was run by a program that is no shell of this host"
        direct = asker.process.pid == asker.shell.pid
        if not direct and self.kernel.program(asker.process.pid) != self.parts.python:
            return "something else than its job-started hook asked the guard"
        return ""

    def _facts(self, case: Case, outcome: Outcome) -> None:
        if outcome.failure:
            case.facts = HookFacts()
            case.trouble = f"what the job says of itself could not be read ({outcome.failure})"
        else:
            case.facts = msgspec.convert(outcome.value, HookFacts)
        self._settle(case)

    # -- GPUs

    def turn(self) -> None:
        """Look again at the GPUs of those who wait for it, and admit those whose slot is clean by now."""
        now = self.clock()
        for case in list(self.cases.values()):
            if case.fitness is None and now >= case.look_at:
                self._look(case)
            elif case.fitness is not None:
                self._settle(case)

    def next_at(self) -> float | None:
        """When `turn` has something to do."""
        return min((case.look_at for case in self.cases.values() if case.fitness is None), default=None)

    def _look(self, case: Case) -> None:
        spec = self.spec()
        if not case.place.gpus or spec is None or not spec.runnerctl.health_timer:
            case.fitness = Fitness("fit")
        else:
            looks = self.parts.meter.look(case.place.gpus, seconds=LOOK_SECONDS)
            found = fitness(case.place.gpus, looks, self._verdicts(spec))
            silent = any(look.verdict == "unknown" for look in looks.values())
            if found.state != "sick" and silent and self.clock() < case.look_until:
                case.look_at = self.clock() + LOOK_PAUSE_SECONDS  # its process may still be starting
                return
            case.fitness = found
        self._settle(case)

    def _verdicts(self, spec: HostSpec) -> Verdicts | None:
        fresh = max(FRESH_SECONDS, FRESH_ROUNDS * spec.runnerctl.health_interval_seconds)
        return published(
            Path(self.parts.paths.verdict), boot_id=self.boot_id, now=time.time(), fresh_seconds=fresh
        )

    # -- deciding

    def _settle(self, case: Case) -> None:
        if case.place.name in self.cleaning:
            return
        if case.job.key in self.cases and case.facts is not None and case.fitness is not None:
            self._decide(case, self._refusal(case, case.facts, case.fitness))

    def _refusal(self, case: Case, facts: HookFacts, fit: Fitness) -> str:
        case.job.kept.claims = facts.claims
        if fit.state == "sick":
            self._hold(case, fit)
        held = self.parts.holds().get(case.place.name)
        if held is not None:
            return f"this slot takes no jobs: {held.reason}"
        if case.trouble:
            return case.trouble
        if facts.danger:
            return (
                f"{facts.danger} is set for the whole job, and changes the shell that this runner's own "
                "hooks run in; set it in the steps that need it"
            )
        if not facts.script:
            return "something else than its job-started hook asked the guard"
        if fit.state != "fit":
            return fit.reason
        case.job.kept.warnings = (fit.warning,) if fit.warning else ()
        spec = self.spec()
        if spec is None:
            return "this host has no spec, so what it may run is not known; provision it again"
        return refusal(facts.claims, spec.github_runner) or ""

    def _hold(self, case: Case, fit: Fitness) -> None:
        call = partial(
            work.hold, holds=self.parts.holds(), slot=case.place.name, cause=(fit.reason, fit.sick)
        )
        say, slot = self.parts.say, case.place.name

        def then(outcome: Outcome) -> None:
            what = f"could not be put on hold: {outcome.failure}" if outcome.failure else "is put on hold"
            say(f"slot {slot} {what}: {fit.reason}")

        self.errands.start(f"hold {slot}", call, seconds=HOLD_SECONDS, then=then)

    def _decide(self, case: Case, why: str) -> None:
        del self.cases[case.job.key]
        self.decided(case, why)

    def forget(self, job: Job) -> None:
        """The job has ended; nobody waits for an answer."""
        self.cases.pop(job.key, None)
