"""The timer that judges a host and acts on it, and the hook that turns a job away. Standard library only."""

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

__all__ = ["SERVICE", "TIMER", "HealthTimer", "service_text", "timer_text"]

UNITS = "/etc/systemd/system"
SERVICE = "runnerctl-health.service"
TIMER = "runnerctl-health.timer"
ROLE = "runnerctl"

_TIMER = """\
{managed}
[Unit]
Description=Judge the health of this runner host every {seconds} seconds

[Timer]
OnBootSec=20
OnUnitActiveSec={seconds}
RandomizedDelaySec={spread}
AccuracySec=1

[Install]
WantedBy=timers.target
"""

# Why each line stands here: docs/explanation/unit.md.
_SERVICE = """\
{managed}
[Unit]
Description=Judge the health of this runner host; hold, mend and release its slots
ConditionPathExists=/etc/runnerctl/host.json
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/opt/runnerctl/bin/runnerctl health --act{options}
SuccessExitStatus=1 2 3
StandardOutput=null
StandardError=journal
TimeoutStartSec=1200
TimeoutStopSec=10
KillMode=process
Nice=10
UMask=0022
ProtectSystem=full
ProtectHostname=yes
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
"""


def timer_text(seconds: int) -> str:
    """The timer; hosts that were started together do not all judge at the same moment."""
    return _TIMER.format(managed=MANAGED, seconds=seconds, spread=max(1, seconds // 10))


def service_text(prometheus: str | None) -> str:
    """The service. ``prometheus``: the file that gets metrics, if any."""
    options = " --no-network"
    if prometheus is not None:
        # systemd expands % and $ (systemd.service(5)).
        quoted = prometheus.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        options = f' --prometheus "{quoted}"'
    return _SERVICE.format(managed=MANAGED, options=options)


@dataclass(frozen=True)
class HealthTimer:
    """The timer on one host. ``done`` is told of every change, which check mode only predicts."""

    root: str
    receipt: Receipt
    system: System
    check: bool
    done: Callable[[str, Change], None]

    def converge(self, spec: str) -> None:
        """Make the host have the timer that ``host.json``'s text asks for, or none. Raises HostError."""
        section = _section(spec)
        if not section.get("health_timer"):
            self._remove()
            return
        texts = {
            TIMER: timer_text(int(section.get("health_interval_seconds", 60))),
            SERVICE: service_text(section.get("health_prometheus")),
        }
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
        if not any(os.path.lexists(path) for path in paths):
            return
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
