"""The units of root's guard: a socket that hooks ask, and the service behind it. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .atomic import Change, atomic_write
from .receipt import Receipt
from .slot_files import MANAGED
from .slot_system import System

__all__ = ["GUARD_SERVICE", "GUARD_SOCKET", "GuardService", "guard_service_text", "guard_socket_text"]

UNITS = "/etc/systemd/system"
GUARD_SERVICE = "runnerctl-guard.service"
GUARD_SOCKET = "runnerctl-guard.socket"
ROLE = "runnerctl"
SINCE = "/var/lib/runnerctl/guard.json"
RUN = "/run/runnerctl/guard"
# Where the service is enabled: it must be there before the first job, asked or not.
_WANTS = {GUARD_SOCKET: "sockets.target.wants", GUARD_SERVICE: "multi-user.target.wants"}

# Why each line stands here: docs/explanation/unit.md.
_SOCKET = """\
{managed}
[Unit]
Description=Where the hooks of this host's runners ask the guard

[Socket]
ListenStream=/run/runnerctl/guard.sock
SocketMode=0666
DirectoryMode=0755
Backlog=512
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""

_SERVICE = """\
{managed}
[Unit]
Description=Admit the jobs of this host's runners, clean up behind them and write them down
ConditionPathExists=/etc/runnerctl/host.json
Requires=runnerctl-guard.socket
After=runnerctl-guard.socket
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=/opt/runnerctl/bin/runnerctl guard
Restart=always
RestartSec=500ms
WatchdogSec=30
TimeoutStartSec=60
TimeoutStopSec=20
KillMode=mixed
OOMPolicy=continue
OOMScoreAdjust=-900
Nice=-5
LimitNOFILE=4096
UMask=0077
ProtectSystem=full
ProtectHostname=yes
ProtectKernelModules=yes
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def guard_socket_text() -> str:
    """The socket; everybody may connect, and the kernel says who did."""
    return _SOCKET.format(managed=MANAGED)


def guard_service_text() -> str:
    """The service."""
    return _SERVICE.format(managed=MANAGED)


@dataclass(frozen=True)
class GuardService:
    """The guard on one host. ``done`` is told of every change, which check mode only predicts."""

    root: str
    receipt: Receipt
    system: System
    check: bool
    done: Callable[[str, Change], None]

    def converge(self, spec: str, *, renewed: bool) -> None:
        """Make the host have the guard that ``host.json``'s text asks for, or none. Raises HostError.

        ``renewed``: the command it runs was replaced. Jobs go on while it restarts, and are taken over.
        """
        section = _section(spec)
        if not section.get("guard"):
            self._remove()
            return
        texts = {GUARD_SOCKET: guard_socket_text(), GUARD_SERVICE: guard_service_text()}
        changed = [self._file(unit, text) for unit, text in texts.items()]
        self._run(changed=any(changed), renewed=renewed)

    def _path(self, unit: str) -> str:
        return os.path.join(self.root, UNITS.lstrip("/"), unit)

    def _link(self, unit: str) -> str:
        return self._path(f"{_WANTS[unit]}/{unit}")

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

    def _run(self, *, changed: bool, renewed: bool) -> None:
        """Enabled, so that it comes back at boot, and running now as it is on disk."""
        unlinked = [unit for unit in _WANTS if not os.path.islink(self._link(unit))]
        if not self._booted:
            for unit in unlinked:
                self._act(f"enabled {unit}", partial(_link, self._link(unit), unit))
            return
        states = self.system.unit_states(list(_WANTS))
        masked = [unit for unit, state in states.items() if state.load == "masked"]
        running = all(state.running and not state.needs_reload for state in states.values())
        if running and not (unlinked or masked or changed or renewed):
            return
        self._act(f"started {GUARD_SERVICE}", lambda: self._start(masked, socket=changed or not running))

    def _start(self, masked: list[str], *, socket: bool) -> None:
        if masked:
            self.system.systemctl("unmask", *masked)
        self.system.systemctl("daemon-reload")
        self.system.systemctl("enable", "--quiet", *_WANTS)
        if socket:  # it would not listen anew beside a service that has its socket
            self.system.systemctl("stop", GUARD_SERVICE)
            self.system.systemctl("restart", GUARD_SOCKET)
        self.system.forget_failure(GUARD_SERVICE)
        self.system.systemctl("restart", GUARD_SERVICE)

    def _remove(self) -> None:
        paths = [self._path(unit) for unit in _WANTS]
        if not any(os.path.lexists(path) for path in paths):
            return
        self._act(f"removed {GUARD_SERVICE}", lambda: self._stop(paths))

    def _stop(self, paths: list[str]) -> None:
        """The socket's unit file goes first: hooks look for it, and ask nobody from then on."""
        if self._booted:
            self.system.systemctl("disable", "--quiet", *_WANTS)
        for path in [*map(self._link, _WANTS), *paths]:
            if os.path.lexists(path):
                os.unlink(path)
        if self._booted:
            self.system.systemctl("stop", *reversed(_WANTS))
            self.system.systemctl("daemon-reload")
        for path in (SINCE, *_files(os.path.join(self.root, RUN.lstrip("/")))):
            where = os.path.join(self.root, path.lstrip("/"))
            if os.path.lexists(where):
                os.unlink(where)
        self.receipt.forget("unit", [f"{UNITS}/{unit}" for unit in _WANTS])

    def _act(self, action: str, do: Callable[[], None]) -> None:
        if not self.check:
            do()
        self.done(action, Change(self._path(GUARD_SERVICE), True, after=f"{action}\n"))


def _files(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []


def _link(link: str, unit: str) -> None:
    os.makedirs(os.path.dirname(link), 0o755, exist_ok=True)
    os.symlink(f"../{unit}", link)


def _section(spec: str) -> dict[str, Any]:
    section = json.loads(spec).get("runnerctl")
    return section if isinstance(section, dict) else {}
