"""Take a host's slots out of service: cut routing, a quiet period, the hold, the end of the running jobs.

GitHub calls a runner busy only when its listener has taken a job, not when it sends one; so "idle" proves
nothing until the runner was out of routing for longer than a job may be on its way (60 s, actions/runner).
Every step may be done again: a drain that was killed is taken up by the next one, or healed by a resume.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from runnerctl.errors import ConfigError, RunnerctlError, TryAgainError, UnavailableError
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.ports import Cause, SlotNow, SlotsPort
from runnerctl.rollout.routing import is_cut

__all__ = ["OPERATOR", "Drain", "Drained", "select"]

OPERATOR = "operator"
NO_REASON = "drained by hand"
POLL_SECONDS = 3.0
LONGEST_POLL_SECONDS = 15.0
PATIENCE = 4  # looks at a busy host that may fail: a network that hiccups ends no wait of hours
# A job that has just begun meets the hook first, which turns jobs away from a held slot: let it pass.
BEGINNING_SECONDS = 10.0
# GitHub's word lags by up to minutes: busy without a worker for longer than this is no job.
LAG_SECONDS = 120.0
MOST_CUTS = 3  # of one slot, in one drain


class Drained(msgspec.Struct, frozen=True):
    """What became of a slot.

    ``drained``: it is on hold and stopped; ``busy``: on hold, and its job still runs; ``resumed``: somebody
    lifted the hold meanwhile. ``routed`` is None when nobody asked GitHub, or it has no record.
    """

    slot: str
    state: Literal["drained", "busy", "resumed"]
    routed: bool | None = None
    reason: str | None = None


@dataclass
class Drain:
    """One drain of one host. ``lanes`` is None when routing is not to be cut; ``tell`` gets its progress.

    ``actions`` says what was changed, or with `predict` would be: nothing on a second run.
    """

    host: SlotsPort
    lanes: Lanes | None
    quiet_seconds: float
    reason: str | None = None
    by: str = OPERATOR
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    tell: Callable[[str], None] = lambda _text: None
    actions: list[str] = field(default_factory=list)
    _routed: dict[str, bool] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)  # the end of each slot's quiet period
    _since: dict[tuple[str, str], float] = field(default_factory=dict)
    _cuts: dict[str, int] = field(default_factory=dict)

    def run(self, slots: Sequence[str] = (), *, wait: bool, seconds: float) -> tuple[Drained, ...]:
        """Drain the slots, none for all; with ``wait`` until their jobs have ended, at most ``seconds``.

        The seconds count from the hold. Raises RunnerctlError.
        """
        before = select(self.host.observe(), slots, host=self.host.host)
        names = [now.name for now in before]
        if not names:
            return ()
        try:
            self._cut(before)
            self._begin_quiet(before)
            self._hold(before)
        except RunnerctlError:
            self._tell_cut()
            raise
        after = self._wait(names, seconds=seconds if wait else 0.0)
        self._note_changes(before, after)
        return tuple(self._drained(now) for now in after)

    def predict(self, slots: Sequence[str] = ()) -> tuple[Drained, ...]:
        """Say what `run` would do; nothing is written."""
        before = select(self.host.observe(), slots, host=self.host.host)
        for now in before:
            record = self.lanes.record(now) if self.lanes else None
            if record and not is_cut(record):
                self.actions.append(f"slot {now.name}: cut from routing")
            if not self._is_ours(now):
                self.actions.append(f"slot {now.name}: put on hold")
            if now.active:
                self.actions.append(f"slot {now.name}: stopped")
        return tuple(self._drained(now) for now in before)

    # -- routing -----------------------------------------------------------------------------------------

    def _cut(self, slots: Sequence[SlotNow]) -> None:
        lanes = self.lanes
        if lanes is None:
            return
        records = {now.name: lanes.record(now) for now in slots}
        for now in slots:
            lanes.prepare(now)
        for now in slots:
            record = records[now.name]
            if record is None:
                continue
            self._routed[now.name] = False
            if lanes.cut(now, record):
                self.actions.append(f"slot {now.name}: cut from routing")

    def _tell_cut(self) -> None:
        """What ends here leaves runners without jobs, and nothing on their host says so."""
        if names := [name for name, routed in self._routed.items() if not routed]:
            self.tell(f"{_names(names)} cut from routing, perhaps not on hold: drain again, or resume")

    def _begin_quiet(self, slots: Sequence[SlotNow]) -> None:
        """Jobs that were on their way may still come; where none can come there is nothing to wait for."""
        names = [now.name for now in slots if now.active and not self._is_held(now) and self._is_cut(now)]
        if names and self.quiet_seconds > 0:
            self._until.update(dict.fromkeys(names, self.clock() + self.quiet_seconds))
            self.tell(f"{_names(names)} cut from routing; quiet for {self.quiet_seconds:g} s")

    def _is_cut(self, now: SlotNow) -> bool:
        return self._routed.get(now.name) is False

    # -- the hold ----------------------------------------------------------------------------------------

    def _hold(self, slots: Sequence[SlotNow]) -> None:
        """Hold each slot as soon as that harms no job."""
        left = [now.name for now in slots]
        while left:
            now = self._now(left)
            self._note_workers(now)
            ready = [each for each in now if self._may_be_held(each)]
            self._hold_now([each for each in ready if not self._is_done(each)])
            gone = {each.name for each in ready} | (set(left) - {each.name for each in now})
            left = [name for name in left if name not in gone]
            if left:
                self.sleep(min(BEGINNING_SECONDS, max(0.1, self._quiet_left(left))))

    def _quiet_left(self, names: Sequence[str]) -> float:
        """Seconds until the first of them has been quiet for long enough."""
        ends = [until - self.clock() for name, until in self._until.items() if name in names]
        return min((left for left in ends if left > 0), default=POLL_SECONDS)

    def _hold_now(self, slots: Sequence[SlotNow]) -> None:
        """Without a new reason a hold that is there keeps its own."""
        reasons: dict[str, list[str]] = {}
        for now in slots:
            own = next((cause.reason for cause in now.causes if cause.by == self.by), None)
            reasons.setdefault(self.reason or own or NO_REASON, []).append(now.name)
        for reason, names in reasons.items():
            self.host.hold(names, Cause(self.by, reason))

    def _may_be_held(self, now: SlotNow) -> bool:
        if not now.active or self._is_held(now):
            return True
        if self.clock() < self._until.get(now.name, 0.0) or not self._still_cut(now):
            return False
        if now.busy:
            return self._for(now, "worker") >= BEGINNING_SECONDS
        return (now.name, "github") not in self._since or self._for(now, "github") >= LAG_SECONDS

    def _still_cut(self, now: SlotNow) -> bool:
        """Ask GitHub once more: a converge meanwhile takes a cut without a hold for a drain that was killed.

        It is cut again then, and quiet from now on. Notes too since when GitHub sees a job. Raises
        TryAgainError when somebody undoes the cut again and again.
        """
        record = self.lanes.record(now) if self.lanes else None
        if record is None or self.lanes is None:
            return True
        self._note(now, "github", is_so=record.busy)
        if not self.lanes.cut(now, record):
            return True
        self._cuts[now.name] = self._cuts.get(now.name, 0) + 1
        if self._cuts[now.name] > MOST_CUTS:
            where = f"{self.host.host}: slot {now.name}"
            remedy = "let no converge run on the host meanwhile, and drain it again"
            raise TryAgainError("its labels are restored again and again", where=where, remedy=remedy)
        self._begin_quiet([now])
        return self.quiet_seconds <= 0

    def _note_workers(self, slots: Sequence[SlotNow]) -> None:
        """Since when a worker runs in each slot."""
        for now in slots:
            self._note(now, "worker", is_so=now.busy)

    def _note(self, now: SlotNow, what: str, *, is_so: bool) -> None:
        if is_so:
            self._since.setdefault((now.name, what), self.clock())
        else:
            self._since.pop((now.name, what), None)

    def _for(self, now: SlotNow, what: str) -> float:
        return self.clock() - self._since.get((now.name, what), self.clock())

    def _is_held(self, now: SlotNow) -> bool:
        return any(cause.by == self.by for cause in now.causes)

    def _is_ours(self, now: SlotNow) -> bool:
        """Whether the hold is there already, with this reason where one is given."""
        reason = " ".join((self.reason or "").split())
        return any(cause.by == self.by and reason in ("", cause.reason) for cause in now.causes)

    def _is_done(self, now: SlotNow) -> bool:
        return not now.active and self._is_ours(now)

    # -- the end of the jobs -----------------------------------------------------------------------------

    def _wait(self, names: Sequence[str], *, seconds: float) -> tuple[SlotNow, ...]:
        """Poll, more seldom as time goes by: a job may take days, and each look costs the host something."""
        begin, told, idle = self.clock(), False, set[str]()
        while True:
            now = self._now(names, patience=PATIENCE if told else 0)
            busy = [each.name for each in now if each.active and self._is_held(each)]
            # Its own host should have stopped it by now; if that went wrong there, it is told once more.
            self._hold_now([each for each in now if each.name in idle.intersection(busy) and not each.busy])
            idle = {each.name for each in now if not each.busy}
            waited = self.clock() - begin
            if not busy or waited >= seconds:
                return now
            if not told:
                self.tell(f"{_names(busy)} on hold; waiting for the running job to end")
                told = True
            self.sleep(min(max(POLL_SECONDS, waited / 10), LONGEST_POLL_SECONDS, seconds - waited))

    def _now(self, names: Sequence[str], *, patience: int = 0) -> tuple[SlotNow, ...]:
        """The slots as they are. Raises UnavailableError when the host did not answer ``patience`` times."""
        while True:
            try:
                return tuple(now for now in self.host.observe() if now.name in names)
            except UnavailableError:
                if patience <= 0:
                    raise
                patience -= 1
                self.sleep(LONGEST_POLL_SECONDS)

    def _note_changes(self, before: Sequence[SlotNow], after: Sequence[SlotNow]) -> None:
        was = {now.name: now for now in before}
        for now in after:
            if self._is_held(now) and now.causes != was[now.name].causes:
                self.actions.append(f"slot {now.name}: put on hold")
            if was[now.name].active and not now.active:
                self.actions.append(f"slot {now.name}: stopped")

    def _drained(self, now: SlotNow) -> Drained:
        routed = self._routed.get(now.name)
        reason = "; ".join(cause.reason for cause in now.causes) or None
        if not self._is_held(now):
            return Drained(now.name, "resumed", routed, reason)
        return Drained(now.name, "busy" if now.active else "drained", routed, reason)


def _names(names: Sequence[str]) -> str:
    return f"slot {', '.join(names)}:"


def select(found: Sequence[SlotNow], wanted: Sequence[str], *, host: str) -> tuple[SlotNow, ...]:
    """The slots in question: all of them, or those named. Raises ConfigError for one that is not there."""
    known = {now.name for now in found}
    if unknown := [name for name in wanted if name not in known]:
        remedy = f"slots there: {', '.join(sorted(known)) or 'none'}"
        raise ConfigError(f"no such slot: {', '.join(unknown)}", where=host, remedy=remedy)
    return tuple(now for now in found if not wanted or now.name in wanted)
