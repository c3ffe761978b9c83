"""Bring a host's slots back into service: lift the hold, start, wait until online, and only then route."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from runnerctl.core.plan import Record
from runnerctl.rollout.drain import OPERATOR, select
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.ports import SlotNow, SlotsPort
from runnerctl.rollout.routing import is_cut

__all__ = ["Resume", "Resumed"]

POLL_SECONDS = 2.0


class Resumed(msgspec.Struct, frozen=True):
    """What became of a slot.

    ``running``: it runs, and GitHub sends it jobs; ``held``: something else holds it, ``reason`` says what;
    ``offline``: it does not run, or GitHub does not see it online; ``unregistered``: it has no record.
    Routing is restored for ``running`` alone.
    """

    slot: str
    state: Literal["running", "held", "offline", "unregistered"]
    routed: bool | None = None
    reason: str | None = None


@dataclass
class Resume:
    """One resume of one host. ``lanes`` is None when routing is left as it is."""

    host: SlotsPort
    lanes: Lanes | None
    by: str = OPERATOR
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    tell: Callable[[str], None] = lambda _text: None
    actions: list[str] = field(default_factory=list)
    _routed: dict[str, bool] = field(default_factory=dict)
    _missing: set[str] = field(default_factory=set)

    def run(self, slots: Sequence[str] = (), *, seconds: float) -> tuple[Resumed, ...]:
        """Resume the slots, none for all; ``seconds`` is how long they have to come online.

        Raises RunnerctlError.
        """
        before = select(self.host.observe(), slots, host=self.host.host)
        names = [now.name for now in before if self._needs_release(now)]
        if names:
            self.host.release(names, by=self.by)
        after = self._wait_online([now.name for now in before], seconds=seconds)
        was = {now.name: now for now in before}
        for now in after:
            if self._ours(was[now.name]) and not self._ours(now):
                self.actions.append(f"slot {now.name}: released")
            if now.active and not was[now.name].active:
                self.actions.append(f"slot {now.name}: started")
        return tuple(self._resumed(now) for now in after)

    def predict(self, slots: Sequence[str] = ()) -> tuple[Resumed, ...]:
        """Say what `run` would do; nothing is written."""
        before = select(self.host.observe(), slots, host=self.host.host)
        for now in before:
            if self._ours(now):
                self.actions.append(f"slot {now.name}: released")
            others = [cause for cause in now.causes if cause.by != self.by]
            if others or not now.registered:
                continue
            if not now.active:
                self.actions.append(f"slot {now.name}: started")
            record = self.lanes.record(now) if self.lanes else None
            if record and is_cut(record):
                self.actions.append(f"slot {now.name}: labels and group restored")
        return tuple(self._resumed(now) for now in before)

    def _ours(self, now: SlotNow) -> bool:
        return any(cause.by == self.by for cause in now.causes)

    def _needs_release(self, now: SlotNow) -> bool:
        return self._ours(now) or (not now.held and not now.active and now.registered)

    def _wait_online(self, names: Sequence[str], *, seconds: float) -> tuple[SlotNow, ...]:
        """Restore each slot's routing as soon as it runs and GitHub sees it online."""
        deadline = self.clock() + seconds
        told = False
        while True:
            now = tuple(each for each in self.host.observe() if each.name in names)
            waiting = [each.name for each in now if not each.held and not self._is_back(each)]
            left = deadline - self.clock()
            if not waiting or left <= 0:
                return now
            if not told:
                self.tell(f"slot {', '.join(waiting)}: waiting until GitHub sees it online")
                told = True
            self.sleep(min(POLL_SECONDS, left))

    def _is_back(self, now: SlotNow) -> bool:
        """Whether nothing is left to wait for; what runs is given its labels here."""
        if not now.registered or now.name in self._routed or now.name in self._missing:
            return True
        if self.lanes is None:
            return now.active
        record = self.lanes.record(now)
        if record is None and now.ephemeral:  # its host is about to get it one
            return False
        if record is None:
            self._missing.add(now.name)
            return True
        if not (now.active and record.online):
            return False
        self._restore(self.lanes, now, record)
        return True

    def _restore(self, lanes: Lanes, now: SlotNow, record: Record) -> None:
        if lanes.restore(now, record):
            self.actions.append(f"slot {now.name}: labels and group restored")
        self._routed[now.name] = not lanes.needs_restore(now, record) or lanes.slot(now.name) is not None

    def _resumed(self, now: SlotNow) -> Resumed:
        if now.held:
            causes = "; ".join(f"by {cause.by}: {cause.reason}" for cause in now.causes)
            return Resumed(now.name, "held", None, causes)
        if not now.registered or now.name in self._missing:
            return Resumed(now.name, "unregistered", None, "it has no record on GitHub; provision the host")
        back = now.active if self.lanes is None else now.name in self._routed
        reason = None if back else "GitHub does not see it online; see runnerctl logs and health on the host"
        if back and self._routed.get(now.name) is False:
            reason = "stays cut from routing: inventory does not have the slot"
        return Resumed(now.name, "running" if back else "offline", self._routed.get(now.name), reason)
