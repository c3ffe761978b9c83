"""The timer that judges a host and acts on it, and the hook that turns a job away. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .own_units import Timer, section_of
from .slot_files import MANAGED

__all__ = ["SERVICE", "TIMER", "HealthTimer", "service_text", "timer_text"]

SERVICE = "runnerctl-health.service"
TIMER = "runnerctl-health.timer"

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
class HealthTimer(Timer):
    """The timer on one host."""

    main = TIMER
    wants: ClassVar[Mapping[str, str]] = {TIMER: "timers.target"}
    others = (SERVICE,)

    def converge(self, spec: str) -> None:
        """Make the host have the timer that ``host.json``'s text asks for, or none. Raises HostError."""
        section, texts = section_of(spec), None
        if section.get("health_timer"):
            texts = {
                TIMER: timer_text(int(section.get("health_interval_seconds", 60))),
                SERVICE: service_text(section.get("health_prometheus")),
            }
        self.have(texts)
