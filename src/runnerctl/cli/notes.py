"""The host's notes about its GPUs, ``/var/lib/runnerctl/gpus.json``: written whole, and bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.atomic import atomic_write
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError

from runnerctl.core.driver_readings import GpuEvent, GpuHistory
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.files import under
from runnerctl.probes.history import DAMAGED, FOREIGN, PATH, HistoryFile, read_gpu_history

__all__ = ["Notes"]

KEPT = timedelta(days=30)
MOST_EVENTS = 1000


class Notes:
    """The notes of one host. ``say`` is told when a damaged file had to be moved aside.

    Raises HostError when the file is not damaged and yet cannot be read.
    """

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root = root
        self.path = under(root, PATH)
        self.lost = False  # whether what was written down before was damaged
        self.history = self._read(say)

    def _read(self, say: Callable[[str], None]) -> GpuHistory:
        """What is written; nothing after damage: the holds stand in files of their own, and stay."""
        found = read_gpu_history(self.root)
        if isinstance(found, Unavailable):
            if DAMAGED not in found.reason and FOREIGN not in found.reason:
                raise HostError(found.reason, remedy="mend that first: nothing is done until then")
            self.lost = True
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            say(f"{found.reason}; moved to {aside}, and begun afresh: GPUs on hold count as taken out")
            return GpuHistory()
        return found or GpuHistory()

    def add(self, events: Sequence[GpuEvent]) -> None:
        """Write events down, before what they are about is done.

        Of probes in a row that ended alike the last one is kept: a GPU that is probed each minute must not
        push out what else is known.
        """
        if not events:
            return
        kept = list(self.history.events)
        for event in events:
            own = [each for each in kept if each.uuid == event.uuid]
            if own and own[-1].kind == event.kind in ("probe_passed", "probe_failed"):
                kept = [each for each in kept if each is not own[-1]]
            kept.append(event)
        self._write(GpuHistory(tuple(kept), self.history.clean_probes), now=events[-1].time)

    def take_back(self, kind: str, gpus: Sequence[str], time: datetime) -> None:
        """Strike out what was written down at this time and then not done."""
        events = [e for e in self.history.events if (e.kind, e.time) != (kind, time) or e.uuid not in gpus]
        self._write(GpuHistory(tuple(events), self.history.clean_probes), now=time)

    def count(self, clean_probes: dict[str, int], *, now: datetime) -> None:
        """Write the counts of clean verdicts, when they differ."""
        if clean_probes != self.history.clean_probes:
            self._write(GpuHistory(self.history.events, clean_probes), now=now)

    def _write(self, history: GpuHistory, *, now: datetime) -> None:
        """A GPU that is out stays out, however long ago that was: the last word of each kind is kept."""
        last = {(event.uuid, event.kind): event for event in history.events}
        recent = [e for e in history.events if now - e.time <= KEPT or e is last[e.uuid, e.kind]]
        spare = len(recent) - MOST_EVENTS
        words = {id(event) for event in last.values()}
        dropped = {id(e) for e in [e for e in recent if id(e) not in words][: max(spare, 0)]}
        self.history = GpuHistory(tuple(e for e in recent if id(e) not in dropped), history.clean_probes)
        file = HistoryFile(events=self.history.events, clean_probes=self.history.clean_probes)
        atomic_write(self.path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
