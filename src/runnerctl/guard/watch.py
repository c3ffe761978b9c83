"""Which jobs run on this host, told by the kernel: a worker is a child of its slot's listener, in its unit.

Looked at about once a second; a slot without a job costs the reading of one small file. Who is a slot's
listener, only systemd knows (a job may give its processes any name): it is asked when a listener is new.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from runnerctl.guard.ports import SlotPlace
from runnerctl.guard.procs import Kernel, Process

__all__ = ["WORKER", "Asker", "SlotWatch", "Watch"]

WORKER = "Runner.Worker"
_PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between questions about one slot's listener
_IDLE_SECONDS = 30.0
_MOST_NEW = 2048  # processes of one slot to look at in one turn


@dataclass(frozen=True)
class Asker:
    """Who is at the other end of a connection: the slot, the worker's own child, and the process itself.

    ``chain``: the ids from the process up to that child.
    """

    slot: str
    worker: Process
    shell: Process
    process: Process
    chain: tuple[int, ...] = ()


@dataclass
class SlotWatch:
    """One slot: its listener and worker, once they are known."""

    place: SlotPlace
    group: str = ""
    listener: Process | None = None
    worker: Process | None = None
    asked_at: float = float("-inf")
    misses: int = 0
    seen: set[int] = field(default_factory=set)


class Watch:
    """All slots of the host."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.slots: dict[str, SlotWatch] = {}
        above, found, _ = kernel.group(os.getpid()).partition("/system.slice/")
        self._above = above if found else ""  # a host in a container may see where it stands outside

    def set_places(self, places: Iterable[SlotPlace]) -> None:
        """From now on these are the slots; what is known of one that stays as it was is kept."""
        before, self.slots = self.slots, {}
        for place in places:
            old = before.get(place.name)
            if old is not None and old.place.unit == place.unit:
                old.place = place
                self.slots[place.name] = old
            else:
                self.slots[place.name] = SlotWatch(place, group=f"{self._above}{_usual_group(place.unit)}")

    # -- listeners

    def strangers(self, now: float, *, urgent: bool = False) -> list[str]:
        """The units whose listener is to be asked for (of systemd) now.

        ``urgent``: somebody asks whom nobody knows. Then a unit may run where it was not expected.
        """
        return [slot.place.unit for slot in self.slots.values() if self._is_due(slot, now, urgent=urgent)]

    def _is_due(self, slot: SlotWatch, now: float, *, urgent: bool) -> bool:
        if slot.listener is not None:
            if self.kernel.lives(slot.listener):
                return False
            slot.listener, slot.misses = None, 0
        pause = _PAUSES[min(slot.misses, 2 if urgent else len(_PAUSES) - 1)]
        place = self.kernel.place(slot.group)
        if not urgent and (not place or not self.kernel.members(place)):
            pause = _IDLE_SECONDS
        if now - slot.asked_at < pause:
            return False
        slot.asked_at, slot.misses = now, slot.misses + 1
        return True

    def told(self, shown: Mapping[str, tuple[int, str]]) -> None:
        """Take in what systemd said of units: main process and control group."""
        for slot in self.slots.values():
            pid, group = shown.get(slot.place.unit, (0, ""))
            slot.group = group or slot.group
            process = self.kernel.process(pid) if pid > 1 else None
            if process is not None and self._is_within(pid, slot):
                slot.listener, slot.misses = process, 0
                slot.seen.clear()

    # -- workers

    def look(self) -> tuple[list[str], list[str]]:
        """Look at every slot: those whose worker has ended, and those that have a new one, in this order."""
        ended, begun = [], []
        for name, slot in self.slots.items():
            if slot.worker is not None and not self.kernel.lives(slot.worker):
                slot.worker = None
                ended.append(name)
            if slot.worker is None and slot.listener is not None:
                slot.worker = self._worker(slot, slot.listener)
                if slot.worker is not None:
                    begun.append(name)
        return ended, begun

    def _worker(self, slot: SlotWatch, listener: Process) -> Process | None:
        place = self.kernel.place(slot.group)
        members = self.kernel.members(place) if place else []
        looked_at = 0
        for pid in members:
            if pid == listener.pid or pid in slot.seen:
                continue
            looked_at += 1
            process = self.kernel.process(pid)
            if process is None:
                continue
            if process.parent == listener.pid:
                if process.comm == WORKER:
                    return process
            elif looked_at <= _MOST_NEW:
                slot.seen.add(pid)  # of an earlier job: it can have no such parent any more
        slot.seen.intersection_update(members)
        return None

    def forget(self, uid: int) -> None:
        """Look at a user's processes anew: a worker may have the id of one that was seen before."""
        for slot in self.slots.values():
            if slot.place.uid == uid:
                slot.seen.clear()

    def others(self, slot: SlotWatch) -> list[Process]:
        """The processes in a slot's control group that began with its worker or later, without it."""
        place, worker = self.kernel.place(slot.group), slot.worker
        if not place or worker is None:
            return []
        known = {worker.pid, slot.listener.pid if slot.listener else 0}
        found = (self.kernel.process(pid) for pid in self.kernel.members(place) if pid not in known)
        return [process for process in found if process and process.started >= worker.started]

    # -- who asks

    def slot_of(self, pid: int, uid: int) -> SlotWatch | None:
        """The slot in whose control group a process of its user is; the outermost group counts."""
        parts = self.kernel.group(pid).split("/")
        units = {slot.place.unit: slot for slot in self.slots.values()}
        found = next((units[part] for part in parts if part in units), None)
        return found if found is not None and found.place.uid == uid else None

    def asker(self, pid: int, uid: int) -> Asker | None:
        """Who a process is, when it descends from the worker of its slot; else None."""
        slot = self.slot_of(pid, uid)
        if slot is None or slot.worker is None:
            return None
        chain = self.kernel.ancestors(pid)
        for index, (child, parent) in enumerate(pairwise(chain)):
            if (parent.pid, parent.started) == (slot.worker.pid, slot.worker.started):
                between = tuple(process.pid for process in chain[: index + 1])
                return Asker(slot.place.name, slot.worker, child, chain[0], between)
        return None

    def _is_within(self, pid: int, slot: SlotWatch) -> bool:
        group = self.kernel.group(pid)
        return bool(group) and (group == slot.group or group.startswith(f"{slot.group}/"))


def _usual_group(unit: str) -> str:
    """Where systemd puts an instance of a template, unless it is told otherwise (systemd.unit(5))."""
    prefix = unit.partition("@")[0].replace("-", "\\x2d")
    return f"/system.slice/system-{prefix}.slice/{unit}"
