"""A host in a directory, whose systemd and processes are two sets: for tests of holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import (
    HEALTH,
    OPERATOR,
    Cause,
    Holds,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import (
    Process,
    System,
    UnitState,
)

__all__ = ["BOOT", "MINE", "NOW", "SICK", "A", "B", "Place", "Recorder", "make_place"]

A, B = "GPU-aaaa", "GPU-bbbb"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
BOOT = "0f3c"
SICK = Cause(HEALTH, "GPU 0: it needs a reset", "2026-11-22T12:00:00Z", (A,))
MINE = Cause(OPERATOR, "a new power supply", "2026-11-22T11:00:00Z")


@dataclass
class Recorder(System):
    """systemd and processes as two sets."""

    running: set[str] = field(default_factory=set)
    workers: dict[str, int] = field(default_factory=dict)
    leftovers: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    refuses: str = ""

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        return {unit: UnitState(active="active" if unit in self.running else "inactive") for unit in units}

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        assert seconds > 0
        if self.refuses and " ".join(words).startswith(self.refuses):
            raise HostError("refused", where="systemctl")
        self.told.append(" ".join(words))
        if words[0] == "start":
            self.running.add(words[-1])
        elif words[0] == "stop":
            self.running.discard(words[-1])

    def forget_failure(self, unit: str) -> None:
        assert unit

    def busy(self, unit: str) -> bool:
        return any(_alive(pid) for name, pid in self.workers.items() if name == unit)

    def main_pid(self, unit: str) -> int:
        assert unit
        return 1

    def processes_in(self, unit: str) -> list[Process]:
        pids = [pid for name, pid in self.workers.items() if name == unit and _alive(pid)]
        left = [Process(pid, "Runner.Worker", 77) for pid in self.leftovers]
        return [*(Process(pid, "Runner.Worker", 1) for pid in pids), *left]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Place:
    """A host in a directory."""

    layout: Layout
    system: Recorder
    said: list[str] = field(default_factory=list)

    @property
    def holds(self) -> Holds:
        return Holds(self.layout, self.system, lambda unit, line: self.said.append(f"{unit} {line}"))

    def hold(self, slot: str) -> str | None:
        path = self.layout.state("hold", slot)
        return path.read_text() if path.exists() else None


def make_place(tmp_path: Path) -> Place:
    """Slots a, b and c, registered and running."""
    layout = Layout(tmp_path / "root")
    for slot in "abc":
        layout.slot_root(slot).mkdir(parents=True)
        (layout.slot_root(slot) / ".runner").write_text('{"agentId": 1}')
    boot = layout.path("/proc/sys/kernel/random/boot_id")
    boot.parent.mkdir(parents=True)
    boot.write_text(f"{BOOT}\n")
    return Place(layout, Recorder({f"gha-runner@{slot}.service" for slot in "abc"}))
