"""The timer that keeps the slots' disk use in bounds. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .own_units import Timer, section_of
from .slot_files import MANAGED

__all__ = ["SERVICE", "TIMER", "CleanTimer", "service_text", "timer_text"]

SERVICE = "runnerctl-clean.service"
TIMER = "runnerctl-clean.timer"

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
class CleanTimer(Timer):
    """The timer on one host."""

    main = TIMER
    wants: ClassVar[Mapping[str, str]] = {TIMER: "timers.target"}
    others = (SERVICE,)

    def converge(self, spec: str) -> None:
        """Make the host have the timer that ``host.json``'s text asks for, or none. Raises HostError."""
        section, texts = section_of(spec), None
        if section.get("clean", True):
            hours = int(section.get("clean_interval_hours", 6))
            texts = {TIMER: timer_text(hours), SERVICE: service_text()}
        self.have(texts)
