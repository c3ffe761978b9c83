"""The host's half of a drain: what its slots do at this moment, their holds, and nothing that ends a job.

Standard library only. Who decides asks again and again: every call here is short.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from .errors import HostError
from .hold import Cause, Holds
from .slot import Converger, known_slots
from .slot_files import Layout
from .slot_modes import mode_of, unit_of
from .slot_report import Report
from .slot_system import System, read_text

__all__ = ["Drains"]

BOUND = re.compile(r"^BindReadOnlyPaths=/opt/actions-runner/([^/\s]+)/bin:", re.MULTILINE)


class Drains:
    """The slots of one host, and their holds."""

    def __init__(
        self,
        layout: Layout,
        system: System,
        *,
        holds: Holds | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.layout = layout
        self.system = system
        self.holds = holds or Holds(layout, system)
        self.clock = clock

    def observe(self) -> list[dict[str, Any]]:
        """Every slot of the host as plain data: its report, the causes of its hold, its release."""
        outcome = Converger(self.layout, self.system, check=True).run([], enrolments={}, remove=[])
        return [self._slot(report) for report in outcome.absent]

    def _slot(self, report: Report) -> dict[str, Any]:
        hold = self.holds.get(report.name)
        causes = [asdict(cause) for cause in hold.causes] if hold else []
        return {**asdict(report), "causes": causes, "version": self._version(report.name)}

    def _version(self, slot: str) -> str | None:
        """The release that a start would run: the one that the unit binds into the slot."""
        try:
            found = BOUND.search(read_text(self.layout.drop_in(slot, mode_of(self.layout, slot))))
        except OSError:
            return None
        return found[1] if found else None

    def hold(self, slots: Sequence[str], *, by: str, reason: str, check: bool = False) -> list[str]:
        """Give each slot this cause, and stop those that are idle; returns what was done. Raises HostError.

        A busy one is stopped by its own host as soon as its job has ended.
        """
        self._refuse_unknown(slots)
        done = []
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock()))
        for slot in slots:
            if check:
                held = self.holds.get(slot)
                done += [] if held and held.cause(by) else [f"slot {slot} is on hold"]
                continue
            if self.holds.add(slot, Cause(by, reason, since)):
                done.append(f"slot {slot} is on hold")
            if self.holds.settle(slot) == "stopped":
                done.append(f"slot {slot} is stopped")
        return done

    def release(self, slots: Sequence[str], *, by: str, check: bool = False) -> list[str]:
        """Take that cause away from each slot, and start what nothing holds any more; returns what was done.

        Raises HostError.
        """
        self._refuse_unknown(slots)
        done = []
        for slot in slots:
            hold = self.holds.get(slot)
            cause = hold.cause(by) if hold else None
            left = hold.without(by) if hold else ()
            if cause is not None:
                done.append(f"the hold of slot {slot} by {by} is lifted: {cause.reason}")
                if not check:
                    left = getattr(self.holds.drop(slot, by), "causes", ())
            if not left and not self._runs(slot) and self._starts(slot, check=check):
                done.append(f"slot {slot} is started")
        return done

    def _starts(self, slot: str, *, check: bool) -> bool:
        if check:
            return self.holds.startable(slot)
        return self.holds.start(slot)

    def _runs(self, slot: str) -> bool:
        unit = unit_of(self.layout, slot)
        return self.system.unit_states([unit])[unit].running

    def _refuse_unknown(self, slots: Sequence[str]) -> None:
        if unknown := sorted(set(slots) - set(known_slots(self.layout))):
            known = ", ".join(known_slots(self.layout)) or "none"
            raise HostError("no such slot", where=", ".join(unknown), remedy=f"slots there: {known}")
