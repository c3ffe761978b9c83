"""The timer that keeps the slots' disk use in bounds. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .atomic import Change, atomic_write
from .receipt import Receipt
from .slot_files import MANAGED
from .slot_system import System

__all__ = ["SERVICE", "TIMER", "CleanTimer", "service_text", "timer_text"]

UNITS = "/etc/systemd/system"
SERVICE = "runnerctl-clean.service"
TIMER = "runnerctl-clean.timer"
ROLE = "runnerctl"

_TIMER = """\
{managed}
[Unit]
Description=Keep the disk use of this host's slots in bounds, every {hours} hours

[Timer]
OnBootSec=15min
OnUnitActiveSec={hours}h
RandomizedDelaySec=10min

[Install]
WantedBy=timers.target
"""

# It removes what jobs wrote, so it may do what root may to files, and little else.
_SERVICE = """\
{managed}
[Unit]
Description=Keep the disk use of this host's slots in bounds
ConditionPathExists=/etc/runnerctl/host.json

[Service]
Type=oneshot
ExecStart=/opt/runnerctl/bin/runnerctl clean
SuccessExitStatus=75
TimeoutStartSec=3h
Nice=19
IOSchedulingClass=idle
UMask=0077
ProtectSystem=full
ProtectHostname=yes
ProtectKernelModules=yes
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
"""


def timer_text(hours: int) -> str:
    """The timer; hosts that were started together do not all clean at the same moment."""
    return _TIMER.format(managed=MANAGED, hours=hours)


def service_text() -> str:
    """The service."""
    return _SERVICE.format(managed=MANAGED)


@dataclass(frozen=True)
class CleanTimer:
    """The timer on one host. ``done`` is told of every change, which check mode only predicts."""

    root: str
    receipt: Receipt
    system: System
    check: bool
    done: Callable[[str, Change], None]

    def converge(self, spec: str) -> None:
        """Make the host have the timer that ``host.json``'s text asks for, or none. Raises HostError."""
        section = _section(spec)
        if not section.get("clean", True):
            self._remove()
            return
        texts = {TIMER: timer_text(int(section.get("clean_interval_hours", 6))), SERVICE: service_text()}
        changed = [self._file(unit, text) for unit, text in texts.items()]
        self._run(any(changed))

    def _path(self, unit: str) -> str:
        return os.path.join(self.root, UNITS.lstrip("/"), unit)

    @property
    def _booted(self) -> bool:
        """Whether systemd runs this root (sd_booted(3)): not while an image is built."""
        return os.path.isdir(os.path.join(self.root, "run/systemd/system"))

    def _file(self, unit: str, text: str) -> bool:
        if not self.check:
            self.receipt.record("unit", f"{UNITS}/{unit}", role=ROLE)
        change = atomic_write(self._path(unit), text.encode(), check=self.check)
        if change.changed:
            self.done(f"wrote {change.path}", change)
        return change.changed

    def _run(self, changed: bool) -> None:
        """Enabled, so that it comes back at boot, and running now with the texts that are on disk."""
        link = self._path(f"timers.target.wants/{TIMER}")
        enabled = os.path.islink(link)
        if not self._booted:
            if not enabled:
                self._act(f"enabled {TIMER}", lambda: _link(link))
            return
        state = self.system.unit_states([TIMER])[TIMER]
        if enabled and state.running and not changed and not state.needs_reload and state.load != "masked":
            return
        self._act(f"started {TIMER}", lambda: self._start(masked=state.load == "masked"))

    def _start(self, *, masked: bool) -> None:
        if masked:
            self.system.systemctl("unmask", TIMER)
        self.system.systemctl("daemon-reload")
        self.system.systemctl("enable", "--quiet", TIMER)
        self.system.systemctl("restart", TIMER)

    def _remove(self) -> None:
        paths = [self._path(unit) for unit in (TIMER, SERVICE)]
        if any(os.path.lexists(path) for path in paths):
            self._act(f"removed {TIMER}", lambda: self._stop(paths))

    def _stop(self, paths: list[str]) -> None:
        if self._booted:
            self.system.systemctl("disable", "--now", "--quiet", TIMER)
        for path in [self._path(f"timers.target.wants/{TIMER}"), *paths]:
            if os.path.lexists(path):
                os.unlink(path)
        if self._booted:
            self.system.systemctl("daemon-reload")
        self.receipt.forget("unit", [f"{UNITS}/{unit}" for unit in (TIMER, SERVICE)])

    def _act(self, action: str, do: Callable[[], None]) -> None:
        if not self.check:
            do()
        self.done(action, Change(self._path(TIMER), True, after=f"{action}\n"))


def _link(path: str) -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.symlink(f"../{TIMER}", path)


def _section(spec: str) -> dict[str, Any]:
    section = json.loads(spec).get("runnerctl")
    return section if isinstance(section, dict) else {}
