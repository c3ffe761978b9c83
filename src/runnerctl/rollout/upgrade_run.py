"""What every step of one host's upgrade has at hand: host, GitHub, clock, and what came of each slot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from runnerctl.errors import RunnerctlError
from runnerctl.reconcile import Release
from runnerctl.rollout.ports import SlotNow
from runnerctl.rollout.upgrade_ports import (
    BY,
    HostNotes,
    Pace,
    Result,
    Routes,
    Seen,
    SlotResult,
    UpgradeHost,
)

__all__ = ["HostRun", "held_by_others", "held_by_us", "runs"]

T = TypeVar("T")


class HostRun:
    """The state of one run over one host; `runnerctl.rollout.upgrade.Upgrade` is made of it."""

    def __init__(
        self,
        host: UpgradeHost,
        routes: Routes,
        release: Release,
        *,
        pace: Pace,
        retry: bool = False,
        tell: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.routes = routes
        self.release = release
        self.pace = pace
        self.retry = retry
        self.say = tell
        self.sleep = sleep
        self.clock = clock
        self.results: dict[str, SlotResult] = {}
        self.changed = False
        self._slots: dict[str, SlotNow] = {}
        self._notes = HostNotes()
        self._since: dict[str, float] = {}
        self._was: dict[str, str | None] = {}
        self._offline: set[str] = set()  # before we did anything: no release is to blame
        self._online: set[str] = set()  # before we did anything: what they run works

    def _give_back(self, names: Sequence[str], result: Result, note: str) -> None:
        """Undo hold and cut of slots that were not changed: they go on working."""
        self.host.release([name for name in names if held_by_us(self._slots[name])], by=BY)
        self._look()
        self.routes.restore([self._slots[name] for name in names if not self._slots[name].held])
        for name in names:
            self._end(name, result, note)

    def _look(self) -> None:
        self._slots.update({slot.name: slot for slot in self.host.observe() if slot.name in self._slots})

    def _bad(self) -> bool:
        return any(each.result in ("rolled back", "failed", "stranded") for each in self.results.values())

    def _end(self, name: str, result: Result, note: str = "", *, now: str | None = None) -> None:
        if name in self.results:
            return
        seconds = self.clock() - self._since.get(name, self.clock())
        was = self._was.get(name)
        busy = self._slots[name].busy
        self.results[name] = SlotResult(name, result, was, now or was, round(seconds, 1), note, busy)
        if result not in ("current", "skipped", "would upgrade"):
            self.say(f"slot {name}: {result}{f': {note}' if note else ''}")

    def _fail(self, names: Iterable[str], error: RunnerctlError) -> None:
        for name in names:
            self._end(name, "failed", str(error))

    def _guarded(self, names: list[str], work: Callable[[list[str]], None]) -> None:
        """An error in the middle ends these slots' turn; what has not been switched goes on working."""
        if not names:
            return
        try:
            work(names)
        except RunnerctlError as error:
            self._fail(names, error)
            self._try(self._rescue, names)

    def _rescue(self, names: Sequence[str]) -> None:
        self._look()
        noted = self.host.notes().previous
        stranded = {name for name, each in self.results.items() if each.result == "stranded"}
        self._give_back([name for name in names if name not in noted and name not in stranded], "failed", "")

    def _try(self, work: Callable[[T], None], names: T) -> None:
        """What is tried beside a failure never hides it."""
        try:
            work(names)
        except RunnerctlError as error:
            self.say(str(error))


def held_by_us(slot: SlotNow) -> bool:
    """Whether an upgrade holds the slot."""
    return any(cause.by == BY for cause in slot.causes)


def held_by_others(slot: SlotNow) -> bool:
    """Whether an operator, the health verdict or a change of driver holds it."""
    return any(cause.by != BY for cause in slot.causes)


def runs(slot: SlotNow, seen: Seen | None) -> str | None:
    """The release whose listener runs: a new one may be bound already and wait for the running job."""
    return seen.version if seen and seen.online and seen.version and slot.active else slot.version
