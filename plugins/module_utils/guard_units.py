"""The units of root's guard: a socket that hooks ask, and the service behind it. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .own_units import OwnUnits, section_of
from .slot_files import MANAGED

__all__ = ["GUARD_SERVICE", "GUARD_SOCKET", "GuardService", "guard_service_text", "guard_socket_text"]

GUARD_SERVICE = "runnerctl-guard.service"
GUARD_SOCKET = "runnerctl-guard.socket"
SINCE = "/var/lib/runnerctl/guard.json"
RUN = "/run/runnerctl/guard"

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
class GuardService(OwnUnits):
    """The guard's units on one host; hooks look for the socket's, and ask nobody when it is not there."""

    main = GUARD_SERVICE
    # The service is enabled, too: it must be there before the first job, asked or not.
    wants: ClassVar[Mapping[str, str]] = {GUARD_SOCKET: "sockets.target", GUARD_SERVICE: "multi-user.target"}

    def converge(self, spec: str, *, renewed: bool) -> None:
        """Make the host have the guard that ``host.json``'s text asks for, or none. Raises HostError.

        ``renewed``: the command it runs was replaced. Jobs go on while it restarts, and are taken over.
        """
        if not section_of(spec).get("guard"):
            self.remove()
            return
        texts = {GUARD_SOCKET: guard_socket_text(), GUARD_SERVICE: guard_service_text()}
        self.run(changed=self.write(texts), renewed=renewed)

    def restart(self, *, changed: bool) -> None:
        """A socket would not listen anew beside a service that has it."""
        if changed:
            self.system.systemctl("stop", GUARD_SERVICE)
            self.system.systemctl("restart", GUARD_SOCKET)
        self.system.forget_failure(GUARD_SERVICE)
        self.system.systemctl("restart", GUARD_SERVICE)

    def clear(self) -> None:
        """Forget since when there is a guard, and what it knew of running jobs."""
        folder = self.place(RUN)
        names = os.listdir(folder) if os.path.isdir(folder) else []
        for path in (self.place(SINCE), *(os.path.join(folder, name) for name in names)):
            if os.path.lexists(path):
                os.unlink(path)
