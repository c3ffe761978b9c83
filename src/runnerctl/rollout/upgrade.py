"""Bring the slots of one host to another runner release, without losing a job, and back when it is no good.

A slot goes through: cut from routing, quiet period, hold, idle, switch, start, proven online, routed again.
The first slot of a host goes alone; the others follow together when it is proven. Nothing is kept between
two runs but what stands on the host (holds, notes) and at GitHub (labels), so that a run that was killed
anywhere is carried on by the next one. A running job is never ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from runnerctl.errors import RunnerctlError, TryAgainError
from runnerctl.rollout.ports import Cause, SlotNow
from runnerctl.rollout.proof import Proof, prove
from runnerctl.rollout.upgrade_ports import (
    BY,
    Result,
    Seen,
    SlotResult,
)
from runnerctl.rollout.upgrade_run import HostRun, held_by_others, held_by_us, runs

__all__ = ["Upgrade"]

MOST_CUTS = 3  # more than the first one, of the same slots
FIRST = "is not tried: an earlier slot of this host went wrong"


class Upgrade(HostRun):
    """One host's upgrade to ``release``.

    ``retry`` takes a release that was rolled back here before; ``tell`` gets a line for each step.
    """

    # -- deciding ----------------------------------------------------------------------------------------

    @property
    def target(self) -> str:
        """The release that the slots go to."""
        return self.release.version

    def run(self) -> tuple[SlotResult, ...]:
        """Upgrade what is not upgraded. Raises RunnerctlError only before a slot was touched."""
        todo = self._todo()
        refusal = self._notes.refusal(self.target)
        if refusal and not self.retry:
            self._leave(todo, refusal.reason)
        elif todo:
            self._install()
            self._take_all(todo)
        return tuple(self.results[name] for name in self._slots)

    def _leave(self, todo: list[str], reason: str) -> None:
        """Take a refused release to no slot, and end what a killed run left of it."""
        undone = [name for name in todo if name in self._notes.previous]
        rest = [name for name in todo if name not in undone]
        note = f"{self.target} was rolled back here: {reason}"
        self._guarded(undone, partial(self._roll_back, reason=reason))
        self._guarded(rest, partial(self._give_back, result="refused", note=note))

    def plan(self) -> tuple[SlotResult, ...]:
        """What `run` would do; nothing is written anywhere."""
        todo = self._todo(look_only=True)
        refusal = None if self.retry else self._notes.refusal(self.target)
        for name in todo:
            if refusal:
                self._end(name, "refused", f"{self.target} was rolled back here: {refusal.reason}")
            else:
                self._end(name, "would upgrade", now=self.target)
        return tuple(self.results[name] for name in self._slots)

    def _todo(self, *, look_only: bool = False) -> list[str]:
        self._slots = {slot.name: slot for slot in self.host.observe()}
        self._notes = self.host.notes()
        todo = []
        for slot in self._slots.values():
            seen = self.routes.look(slot) if slot.registered else None
            self._was[slot.name] = runs(slot, seen)
            if seen and seen.online and slot.active and not slot.held:
                self._online.add(slot.name)
            elif seen and not held_by_us(slot) and slot.name not in self._notes.previous:
                self._offline.add(slot.name)
            done = self._done(slot, seen)
            if done is None:
                todo.append(slot.name)
                continue
            note = done
            if seen and seen.cut and not slot.held and not look_only:
                self._try(self.routes.restore, [slot])
                note = "routed again"
                self.changed = True
            self._end(slot.name, "current" if seen else "skipped", note)
        return todo

    def _done(self, slot: SlotNow, seen: Seen | None) -> str | None:
        """Why nothing is to be done, empty when all is well; None when there is."""
        if not slot.registered:
            return "is not registered"
        if seen is None and not slot.ephemeral:
            return f"GitHub has no record {slot.agent_id}: run provision"
        if slot.version != self.target or held_by_us(slot):
            return None
        if slot.held:
            return f"on hold: {slot.causes[0].reason}"
        if slot.name in self._notes.previous or runs(slot, seen) != self.target:
            return None
        return "" if slot.active and seen and seen.online else "is not online: see runnerctl health"

    def _install(self) -> None:
        """Before a slot is cut: a release that cannot be had or is not what it should be costs nothing."""
        if self.retry and self._notes.refusal(self.target):
            self.host.allow(self.target)
        if self.target not in self._notes.installed:
            self.say(f"installs {self.target}")
            self.changed = True
        release = self.release
        self.host.install(
            version=release.version, url=release.url, sha256=release.sha256, token=release.token
        )

    # -- the slots, in waves -----------------------------------------------------------------------------

    def _take_all(self, todo: list[str]) -> None:
        held = [name for name in todo if held_by_others(self._slots[name])]
        begun = [name for name in todo if name not in held and self._runs_unproven(name)]
        rest = [name for name in todo if name not in held and name not in begun]
        self._guarded(begun, self._prove_change)
        rest.sort(key=lambda name: (name in self._offline, self._slots[name].busy))
        proven = bool(begun) and not self._bad()
        while rest and not self._bad():
            wave = self._take(rest if proven else rest[:1])
            self._guarded(wave, self._wave)
            rest = [name for name in rest if name not in self.results]
            proven = proven or any(each.result == "upgraded" for each in self.results.values())
        for name in rest:
            self._end(name, "failed", FIRST)
        if not self._bad():
            self._guarded(held, self._switch_held)
        for name in (name for name in held if name not in self.results):
            self._end(name, "failed", FIRST)

    def _runs_unproven(self, name: str) -> bool:
        """Started with the new release by a run that was killed before it saw it online."""
        slot = self._slots[name]
        return slot.active and not slot.held and slot.version == self.target and name in self._notes.previous

    def _take(self, names: Sequence[str]) -> list[str]:
        """Cut as many from routing as the breaker allows, and wait for it when that is none.

        A slot that cannot be had in time is ``busy``: its turn comes with the next run.
        """
        deadline = self.clock() + self.pace.wait
        while True:
            try:
                taken = list(self.routes.take([self._slots[name] for name in names]))
            except RunnerctlError as error:
                later = isinstance(error, TryAgainError)
                for name in names:
                    self._end(name, "busy" if later else "failed", str(error))
                self._try(self._rescue, names)  # some may be cut
                return []
            if taken:
                self.changed = True
                for name in taken:
                    self._since[name] = self.clock()
                    self.say(f"slot {name} is cut from routing")
                return taken
            if self.clock() >= deadline:
                for name in names:
                    self._end(name, "busy", "the circuit breaker allows no more runners out of service")
                return []
            self.sleep(self.pace.look)

    def _wave(self, names: list[str]) -> None:
        deadline = self.clock() + self.pace.quiet + self.pace.wait
        waiting = self._await_quiet(names, deadline)
        if late := [name for name in names if name not in waiting]:
            self._give_back(late, "busy", "a job was about to begin")
        if waiting:
            self.host.hold(waiting, Cause(BY, f"upgrade to {self.target}"))
        while waiting and not self._bad():
            self._look()
            idle = [name for name in waiting if not self._slots[name].active]
            waiting = [name for name in waiting if name not in idle]
            if idle:
                self._change(idle)
            elif self.clock() >= deadline:
                break
            else:
                self.sleep(self.pace.look)
        if waiting:
            note = FIRST if self._bad() else f"still runs a job after {self.pace.wait:.0f} s"
            self._give_back(waiting, "failed" if self._bad() else "busy", note)

    def _await_quiet(self, names: Sequence[str], deadline: float) -> list[str]:
        """Wait out the quiet period; the slots that may be held then.

        A converge meanwhile takes a cut without a hold for that of a run that was killed, and undoes it: then
        it is cut again, and quiet again. Raises TryAgainError when that goes on.
        """
        for _ in range(1 + MOST_CUTS):
            if any(self._slots[name].active for name in names):
                self.sleep(self.pace.quiet)
            ready = self._await_beginnings(names, deadline)
            routed = [self._slots[name] for name in names if self._is_routed(self._slots[name])]
            if not routed:
                return ready
            self.say(f"slot {', '.join(slot.name for slot in routed)} was routed again meanwhile")
            if len(self.routes.take(routed)) < len(routed):
                break
        where, remedy = f"slot {', '.join(names)}", "let no converge run on the host meanwhile, and run again"
        raise TryAgainError("its labels are restored again and again", where=where, remedy=remedy)

    def _is_routed(self, slot: SlotNow) -> bool:
        seen = self.routes.look(slot) if slot.active else None
        return seen is not None and not seen.cut

    def _await_beginnings(self, names: Sequence[str], deadline: float) -> list[str]:
        """Let jobs begin that are about to: a hold would fail them. The slots where none is."""
        began: dict[str, float] = {}
        while True:
            self._look()
            for name in names:
                if self._slots[name].busy:
                    began.setdefault(name, self.clock())
                else:
                    began.pop(name, None)
            young = {name for name, since in began.items() if self.clock() - since < self.pace.begin}
            late = [name for name in names if name in young or self._starts_a_job(self._slots[name])]
            if not late or self.clock() >= deadline:
                return [name for name in names if name not in late]
            self.sleep(self.pace.look)

    def _starts_a_job(self, slot: SlotNow) -> bool:
        """Whether GitHub counts a job for which no worker is there."""
        if slot.busy or not slot.active:
            return False
        seen = self.routes.look(slot)
        return seen is not None and seen.online and seen.busy

    # -- one change --------------------------------------------------------------------------------------

    def _change(self, names: list[str]) -> None:
        """Switch stopped slots, start them, and see them online; else go back."""
        self._begin(names)
        self.host.switch(names, self.target)
        self.say(f"slot {', '.join(names)} is switched to {self.target}")
        self._prove_change(names)

    def _begin(self, names: Iterable[str]) -> None:
        previous = {name: self._back(name) for name in names}
        noted = self._notes.previous
        if old := [name for name in previous if noted.get(name) not in (None, previous[name])]:
            self.host.finish(old)
        self.host.begin({name: version for name, version in previous.items() if version})

    def _back(self, name: str) -> str | None:
        """The release a slot goes back to: what it ran, or what an unfinished run noted.

        A note of long ago counts no more when the slot was online since: somebody else proved its release.
        """
        was, noted = self._was.get(name), self._notes.previous.get(name)
        return was if noted is None or (name in self._online and was != self.target) else noted

    def _prove_change(self, names: list[str]) -> None:
        proof = self._start(names, self.target)
        self._proven(proof.good, "upgraded", self.target, note=proof.note)
        for name in proof.unjudged:
            self._end(name, "failed", f"{proof.note}; run the upgrade again", now=self.target)
        self._never_online({name: why for name, why in proof.bad.items() if name in self._offline})
        bad = {name: why for name, why in proof.bad.items() if name not in self._offline}
        if bad:
            reason = next(iter(bad.values()))
            self.host.refuse(self.target, reason)
            self._roll_back(list(bad), reason)

    def _never_online(self, reasons: Mapping[str, str]) -> None:
        """Slots that were offline before and still are: going back would mend nothing."""
        if reasons:
            self.routes.restore([self._slots[name] for name in reasons])
            self.host.finish(list(reasons))
        for name, why in reasons.items():
            note = f"was offline before, and is: {why}; see runnerctl health on the host"
            self._end(name, "failed", note, now=self.target)

    def _start(self, names: Sequence[str], version: str) -> Proof:
        failed = self._release(names)
        held = [name for name in failed if self._slots[name].held]
        started = [self._slots[name] for name in names if name not in failed]
        proof = prove(
            self.host,
            self.routes,
            slots=started,
            version=version,
            pace=self.pace,
            sleep=self.sleep,
            clock=self.clock,
        )
        if held:
            proof.unjudged, proof.note = [*proof.unjudged, *held], failed[held[0]]
        return proof.with_bad({name: why for name, why in failed.items() if name not in held})

    def _release(self, names: Sequence[str]) -> dict[str, str]:
        """Lift our hold and start; why each of the others does not run.

        An error may be the network's and no fault of the release: the host is asked what came of it, and a
        slot that is free and does not run is started once more. Raises RunnerctlError when it does not say.
        """
        failed: dict[str, str] = {}
        for attempt in range(2):
            again = [name for name in names if name in failed] if attempt else names
            for name in again:
                failed.pop(name, None)
                try:
                    self.host.release([name], by=BY)
                except RunnerctlError as error:
                    failed[name] = f"it does not start: {error}"
            if failed:
                self._look()
                failed = {name: why for name, why in failed.items() if not self._slots[name].active}
        return failed

    def _proven(self, names: Sequence[str], result: Result, version: str, *, note: str) -> None:
        """What works is routed and forgotten; of what somebody holds meanwhile that is not known yet."""
        if not names:
            return
        self._look()
        free = [name for name in names if not self._slots[name].held]
        self.routes.restore([self._slots[name] for name in free])
        self.host.finish(free)
        for name in names:
            held = self._slots[name].causes
            self._end(name, result, f"on hold: {held[0].reason}" if held else note, now=version)

    # -- going back --------------------------------------------------------------------------------------

    def _roll_back(self, names: list[str], reason: str) -> None:
        """Put slots back to the release they ran; those that do not even run that stay on hold."""
        if not names:
            return
        self.say(f"slot {', '.join(names)} goes back: {reason}")
        self.changed = True
        self.host.hold(names, Cause(BY, f"{self.target} does not work: {reason}"))
        self._await_idle(names)
        for name in names:
            back = self._back(name)
            if self._slots[name].active:
                self._end(name, "failed", "a job runs: the next upgrade takes it back", now=self.target)
            elif back is None or back == self.target:
                self._strand(name, f"{reason}; there is no release to go back to")
            else:
                self._go_back(name, back, reason)

    def _go_back(self, name: str, back: str, reason: str) -> None:
        self.host.switch([name], back)
        proof = self._start([name], back)
        self._proven(proof.good, "rolled back", back, note=reason)
        if proof.unjudged:
            self._end(name, "failed", f"{proof.note}; run the upgrade again", now=back)
        for why in proof.bad.values():
            self._strand(name, f"{self.target}: {reason}; {back}: {why}")

    def _await_idle(self, names: Sequence[str]) -> None:
        deadline = self.clock() + self.pace.wait
        self._look()
        while any(self._slots[name].active for name in names) and self.clock() < deadline:
            self.sleep(self.pace.look)
            self._look()

    def _strand(self, name: str, reason: str) -> None:
        self._try(partial(self.host.hold, cause=Cause(BY, f"no release works: {reason}")), [name])
        remedy = f"see `runnerctl logs {name}` on the host, mend it, and run the upgrade again with --retry"
        self._end(name, "stranded", f"CRITICAL: stays on hold and out of routing: {reason}; {remedy}")

    def _switch_held(self, names: list[str]) -> None:
        """Slots that others hold: switched while they are stopped, and not started."""
        self._await_idle(names)
        stopped = [name for name in names if not self._slots[name].active]
        if stopped:
            self.changed = True
            self._begin(stopped)  # the note stays: whoever resumes the slot is the first to try the release
            self.host.switch(stopped, self.target)
            self.host.release([name for name in stopped if held_by_us(self._slots[name])], by=BY)
        for name in names:
            if name in stopped:
                note = f"stays on hold: {self._slots[name].causes[0].reason}"
                self._end(name, "upgraded", note, now=self.target)
            else:
                self._end(name, "busy", "its job has not ended")
