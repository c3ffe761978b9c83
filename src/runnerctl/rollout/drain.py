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

from runnerctl.errors import ConfigError
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.ports import Cause, SlotNow, SlotsPort
from runnerctl.rollout.routing import is_cut

__all__ = ["OPERATOR", "Drain", "Drained", "select"]

OPERATOR = "operator"
NO_REASON = "drained by hand"
POLL_SECONDS = 3.0
# A job that has just begun meets the hook first, which turns jobs away from a held slot: let it pass.
BEGINNING_SECONDS = 10.0
# GitHub's word lags by up to minutes: busy without a worker for longer than this is no job.
LAG_SECONDS = 120.0


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
    _since: dict[tuple[str, str], float] = field(default_factory=dict)

    def run(self, slots: Sequence[str] = (), *, wait: bool, seconds: float) -> tuple[Drained, ...]:
        """Drain the slots, none for all; with ``wait`` until their jobs have ended, at most ``seconds``.

        The seconds count from the hold. Raises RunnerctlError.
        """
        before = select(self.host.observe(), slots, host=self.host.host)
        names = [now.name for now in before]
        if not names:
            return ()
        self._cut(before)
        self._quiet(before)
        self._hold(before)
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

    def _quiet(self, slots: Sequence[SlotNow]) -> None:
        """Wait for jobs that were on their way; a slot that cannot take one needs no waiting."""
        open_ = [now.name for now in slots if now.active and not self._is_held(now) and self._is_cut(now)]
        if not open_ or self.quiet_seconds <= 0:
            return
        deadline = self.clock() + self.quiet_seconds
        self.tell(f"{self._names(open_)} cut from routing; quiet for {self.quiet_seconds:g} s")
        while (left := deadline - self.clock()) > 0:
            self.sleep(min(POLL_SECONDS, left))
            self._begun(self._now(open_))

    def _is_cut(self, now: SlotNow) -> bool:
        return self._routed.get(now.name) is False

    # -- the hold ----------------------------------------------------------------------------------------

    def _hold(self, slots: Sequence[SlotNow]) -> None:
        """Hold each slot as soon as that harms no job."""
        left = [now.name for now in slots]
        now = {each.name: each for each in slots}
        while left:
            now = {each.name: each for each in self._now(left)}
            self._begun(list(now.values()))
            ready = [name for name in left if name not in now or self._may_be_held(now[name])]
            wanted = [name for name in ready if name in now and not self._is_done(now[name])]
            self._hold_now([now[name] for name in wanted])
            left = [name for name in left if name not in ready]
            if left:
                self.sleep(POLL_SECONDS)

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
        if now.busy:
            return self._for(now, "worker") >= BEGINNING_SECONDS
        record = self.lanes.record(now) if self.lanes else None
        if record is None or not record.busy:
            return True
        self._since.setdefault((now.name, "github"), self.clock())
        return self._for(now, "github") >= LAG_SECONDS

    def _begun(self, slots: Sequence[SlotNow]) -> None:
        """Note since when a worker runs in each slot."""
        for now in slots:
            if now.busy:
                self._since.setdefault((now.name, "worker"), self.clock())
            else:
                self._since.pop((now.name, "worker"), None)

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
        deadline = self.clock() + seconds
        told = False
        while True:
            now = self._now(names)
            busy = [each.name for each in now if each.active and self._is_held(each)]
            left = deadline - self.clock()
            if not busy or left <= 0:
                return now
            if not told:
                self.tell(f"{self._names(busy)} on hold; waiting for the running job to end")
                told = True
            self.sleep(min(POLL_SECONDS, left))

    def _now(self, names: Sequence[str]) -> tuple[SlotNow, ...]:
        return tuple(now for now in self.host.observe() if now.name in names)

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

    @staticmethod
    def _names(names: Sequence[str]) -> str:
        return f"slot {', '.join(names)}:"


def select(found: Sequence[SlotNow], wanted: Sequence[str], *, host: str) -> tuple[SlotNow, ...]:
    """The slots in question: all of them, or those named. Raises ConfigError for one that is not there."""
    known = {now.name for now in found}
    if unknown := [name for name in wanted if name not in known]:
        remedy = f"slots there: {', '.join(sorted(known)) or 'none'}"
        raise ConfigError(f"no such slot: {', '.join(unknown)}", where=host, remedy=remedy)
    return tuple(now for now in found if not wanted or now.name in wanted)
