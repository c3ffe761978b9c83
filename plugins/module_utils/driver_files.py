"""What the driver's files of ours say: units, drop-ins, apt's list of what upgrades leave alone.

Standard library only. Units that need a driver have a condition: a host without one is not `degraded`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .driver_work import MANAGED, Work
from .slot_system import UnitState

__all__ = [
    "DEVICES_UNIT",
    "FABRIC_UNIT",
    "LOADED",
    "PERSISTENCE_UNIT",
    "UNITS",
    "Units",
    "block_upgrades",
    "is_loaded",
    "prepare_units",
]

LOADED = "/proc/driver/nvidia/version"
DEVICES_UNIT = "runnerctl-nvidia-devices.service"
PERSISTENCE_UNIT = "nvidia-persistenced.service"
FABRIC_UNIT = "nvidia-fabricmanager.service"
UNITS = "/etc/systemd/system"
DROP_IN = f"{UNITS}/{PERSISTENCE_UNIT}.d/10-runnerctl.conf"
SHIPPED = ("/lib/systemd/system", "/usr/lib/systemd/system")
BLACKLIST = "/etc/apt/apt.conf.d/52runnerctl-nvidia"
NO_PERSISTENCE = "--no-persistence-mode"

# Slots start when the network is there, hence the order; the module's devices must not wait for a first user.
DEVICES_TEXT = f"""{MANAGED}[Unit]
Description=NVIDIA driver and its device files
Before={PERSISTENCE_UNIT} {FABRIC_UNIT} network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=120
ExecStart=-/usr/bin/nvidia-modprobe -c0 -u
ExecStart=-/usr/bin/nvidia-smi -L

[Install]
WantedBy=multi-user.target
"""

PERSISTENCE_TEXT = f"""{MANAGED}[Unit]
Wants={DEVICES_UNIT}
After={DEVICES_UNIT}
ConditionPathExists={LOADED}
"""


def is_loaded(work: Work) -> bool:
    """Whether the driver is loaded."""
    return work.path(LOADED).exists()


def prepare_units(work: Work, *, persistence: bool) -> bool:
    """Write what can be written before the packages come, so that their scripts start nothing in vain.

    Returns whether systemd has to read its files again.
    """
    changed = work.write(f"{UNITS}/{DEVICES_UNIT}", DEVICES_TEXT, kind="unit")
    text = PERSISTENCE_TEXT
    command = _persistent_command(work) if persistence else None
    if command:
        text += f"\n[Service]\nExecStart=\nExecStart={command}\n"
    return work.write(DROP_IN, text) or changed


def _persistent_command(work: Work) -> str | None:
    """The distribution's command without the option that leaves persistence off; None when it has none."""
    for folder in SHIPPED:
        text = work.read(f"{folder}/{PERSISTENCE_UNIT}")
        match = re.search(r"^ExecStart=(.*)$", text or "", re.MULTILINE)
        if match:
            words = match.group(1).split()
            return (
                " ".join(word for word in words if word != NO_PERSISTENCE)
                if NO_PERSISTENCE in words
                else None
            )
    return None


def block_upgrades(work: Work, prefixes: Sequence[str]) -> None:
    """Unattended upgrades leave the driver alone, also when they are installed later."""
    if not work.path("/etc/apt").is_dir():
        return  # dnf-automatic honours the version lock
    if not prefixes:
        work.remove(BLACKLIST)
        return
    lines = "".join(f'  "{prefix}";\n' for prefix in prefixes)
    note = MANAGED.replace("# ", "// ", 1)
    work.write(BLACKLIST, f"{note}Unattended-Upgrade::Package-Blacklist {{\n{lines}}};\n")


class Units:
    """Enable and start what the driver needs; what needs a driver is started only when one is loaded."""

    def __init__(self, work: Work, *, present: Sequence[str]) -> None:
        self.work = work
        self.states = work.system.unit_states(list(present))

    def reload(self, changed: bool) -> None:
        """Have systemd read units again when they changed, now or in a run that was cut off."""
        if not self.work.check and (changed or any(state.needs_reload for state in self.states.values())):
            self.work.system.systemctl("daemon-reload")
            self.states = self.work.system.unit_states(list(self.states))

    def want(self, unit: str, *, start: bool, predicted: bool = False) -> None:
        """Have a unit enabled, and running when ``start`` is set. ``predicted``: it comes with packages."""
        state = self.states.get(unit, UnitState())
        if state.load != "loaded" and not predicted:
            return
        if state.enabled not in ("enabled", "static", "alias", "indirect"):
            self._systemctl("enable", unit)
        if start and state.active != "active":
            self._systemctl("start", unit)

    def off(self, unit: str) -> None:
        """Have a unit disabled and stopped, when it is there."""
        state = self.states.get(unit, UnitState())
        if state.load == "loaded" and state.enabled == "enabled":
            self._systemctl("disable", unit)
        if state.active == "active":
            self._systemctl("stop", unit)

    def forgive(self, unit: str) -> None:
        """A unit that failed for want of a driver does not leave the host degraded."""
        state = self.states.get(unit, UnitState())
        if state.active == "failed" and not is_loaded(self.work):
            if not self.work.check:
                self.work.system.forget_failure(unit)
            self.work.actions.append(f"failure of {unit} forgotten: there was no driver yet")

    def _systemctl(self, verb: str, unit: str) -> None:
        if not self.work.check:
            self.work.system.systemctl(verb, unit)
        self.work.actions.append(f"{verb} {unit}")
