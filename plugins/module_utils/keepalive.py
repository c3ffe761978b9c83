"""Start a parked slot for a moment although it is on hold, and stop it again. Standard library only.

The hold file stays where it is: it is the truth. The unit's condition is what keeps a held slot from
starting, and systemd asks it at the start only; a drop-in below /run takes it away for that second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import HostError
from .hold import Holds
from .lock import exclusive
from .slot_files import Layout, read_runner_file
from .slot_modes import is_ephemeral, unit_of
from .slot_system import System, run

__all__ = ["Touches"]

LOCK = "/run/runnerctl/keepalive-{slot}.lock"
LOCK_SECONDS = 60.0
TIMER = "runnerctl-keepalive-{slot}"
LONGEST_SECONDS = 900  # above any wait for a runner to come online
# An empty assignment resets the list of conditions (systemd.unit(5)).
WITHOUT_CONDITION = "# Written by runnerctl keepalive; gone within a second.\n[Unit]\nConditionPathExists=\n"


@dataclass(frozen=True)
class Touches:
    """The slots of one host."""

    layout: Layout
    system: System
    holds: Holds

    def start(self, slot: str) -> bool:
        """Start the listener of a registered slot; False when it runs already. Raises HostError."""
        unit = unit_of(self.layout, slot)
        if is_ephemeral(self.layout, slot):
            raise HostError("registers anew for each job", where=f"slot {slot}", remedy="leave it out")
        if read_runner_file(self.layout.slot_root(slot) / ".runner") is None:
            raise HostError("is not registered", where=f"slot {slot}", remedy="converge the host")
        with exclusive(str(self.layout.path(LOCK.format(slot=slot))), seconds=LOCK_SECONDS):
            if self.system.unit_states([unit])[unit].running:
                return False
            if self.holds.get(slot) is not None:
                self._stop_later(slot)
            with self._without_condition(slot):
                self.system.forget_failure(unit)
                self.system.systemctl("start", unit)
        return True

    def _stop_later(self, slot: str) -> None:
        """Should the controller die: a held slot is stopped all the same, when it is idle."""
        timer = TIMER.format(slot=slot)
        self.system.forget_failure(f"{timer}.timer")
        run(["systemctl", "stop", f"{timer}.timer"], check=False)
        command = ["systemd-run", "--quiet", "--collect", f"--unit={timer}", f"--on-active={LONGEST_SECONDS}"]
        run([*command, "systemctl", "start", "--no-block", f"gha-hold@{slot}.service"])

    def stop(self, slot: str) -> str:
        """Stop the listener of a held slot: ``stopped``, or ``busy`` when it runs a job, which is left alone.

        A job's end stops it then. A slot that nothing holds, or nothing any more, is to run: ``running``.
        Raises HostError.
        """
        run(["systemctl", "stop", f"{TIMER.format(slot=slot)}.timer"], check=False)
        if self.holds.get(slot) is None:
            return "running"
        return "busy" if self.holds.settle(slot) == "waits" else "stopped"

    @contextlib.contextmanager
    def _without_condition(self, slot: str) -> Iterator[None]:
        """The unit without its condition. What a kill leaves behind is gone after the next touch or boot."""
        path = self.layout.path(f"/run/systemd/system/{unit_of(self.layout, slot)}.d/90-keepalive.conf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(WITHOUT_CONDITION)
        try:
            self.system.systemctl("daemon-reload")
            yield
        finally:
            _remove(path)
            self.system.systemctl("daemon-reload")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()
