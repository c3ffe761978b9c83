"""Who is a slot's worker, whatever ids its processes get."""

from __future__ import annotations

from pathlib import Path

from runnerctl.guard.ports import SlotPlace
from runnerctl.guard.procs import Kernel, Process
from runnerctl.guard.watch import Watch

UNIT = "gha-runner@a.service"


class Table(Kernel):
    """One control group, whose processes the test names."""

    def __init__(self) -> None:
        super().__init__()
        self.processes = {10: Process(10, 1, 1, "Runner.Listener"), 20: Process(20, 2, 1, "sh")}

    def process(self, pid: int) -> Process | None:
        """The one of this id."""
        return self.processes.get(pid)

    def place(self, group: str) -> str:
        """Every group is there."""
        return group

    def members(self, place: str) -> list[int]:
        """All of them."""
        del place
        return list(self.processes)

    def group(self, pid: int) -> str:
        """The same for all."""
        del pid
        return f"/{UNIT}"


def test_a_worker_with_the_id_of_an_older_process_is_found() -> None:
    """Who asks and is not known makes the guard look again."""
    kernel = Table()
    watch = Watch(kernel)
    watch.set_places([SlotPlace("a", "gha-a", 900, 900, Path("/a"), UNIT)])
    watch.told({UNIT: (10, f"/{UNIT}")})
    assert watch.look() == ([], [])
    kernel.processes[20] = Process(20, 3, 10, "Runner.Worker")
    watch.look()
    watch.forget(900)
    watch.look()
    assert watch.slots["a"].worker == kernel.processes[20]
