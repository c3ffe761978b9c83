"""MIG layouts: cut GPUs as inventory says, now where they are idle, and again at every boot.

MIG mode survives a reboot on some GPUs, instances on none, hence a unit. Standard library only; everything is
done with ``nvidia-smi``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .driver_files import DEVICES_UNIT, FABRIC_UNIT, PERSISTENCE_UNIT, UNITS
from .driver_plan import MigPlan
from .driver_work import MANAGED, Work
from .errors import HostError

__all__ = ["LAYOUT", "MIG_UNIT", "Mig", "instances", "unit_text"]

LAYOUT = "/etc/runnerctl/mig.json"
MIG_UNIT = "runnerctl-mig.service"
SCHEMA = "runnerctl.mig/1"
CDI_UNIT = "nvidia-cdi-refresh.service"  # watches the driver, but not its instances
SMI = "/usr/bin/nvidia-smi"
SECONDS = 60.0
PROFILE = re.compile(r"\d+g\.\d+gb(?:[+-][a-z.]+)?")  # as nvidia-smi lists instances: by these they are known
UUID = re.compile(r"GPU-[0-9a-f-]{8,}")


@dataclass(frozen=True)
class _Gpu:
    uuid: str
    enabled: bool
    supported: bool


class Mig:
    """One pass over the layout of a host."""

    def __init__(self, work: Work, layout: Sequence[MigPlan]) -> None:
        self.work = work
        self.layout = tuple(layout)
        for entry in self.layout:
            _refuse_what_is_no_layout(entry)

    def files(self) -> bool:
        """Write layout and unit, or take them away. Returns whether the unit changed."""
        if not self.layout:
            self.work.remove(LAYOUT)
            return self.work.remove(f"{UNITS}/{MIG_UNIT}", kind="unit")
        data = {
            "schema": SCHEMA,
            "layout": [{"gpus": list(each.gpus), "profiles": list(each.profiles)} for each in self.layout],
        }
        self.work.write(LAYOUT, json.dumps(data, indent=2) + "\n")
        return self.work.write(f"{UNITS}/{MIG_UNIT}", unit_text(self.layout), kind="unit")

    def apply(self, *, busy: Sequence[str]) -> None:
        """Cut the GPUs that differ. ``busy``: who uses GPUs; then what differs is only noted.

        Raises HostError when a GPU of the layout is not there, cannot be cut, or nvidia-smi refuses.
        """
        if not self.layout:
            return
        before = len(self.work.actions)
        gpus = {gpu.uuid: gpu for gpu in self._gpus()}
        for entry in self.layout:
            for uuid in entry.gpus or sorted(gpus):
                if uuid not in gpus:
                    raise HostError(f"GPU {uuid} is not on this host", where="nvidia_driver_mig")
                self._apply_to(gpus[uuid], entry.profiles, busy)
        if len(self.work.actions) > before and not self.work.check:
            self._refresh_cdi()

    def _apply_to(self, gpu: _Gpu, profiles: Sequence[str], busy: Sequence[str]) -> None:
        if not gpu.supported:
            raise HostError(f"GPU {gpu.uuid} cannot be cut: it has no MIG mode", where="nvidia_driver_mig")
        there = self._instances(gpu) if gpu.enabled else []
        if gpu.enabled and Counter(there) == Counter(profiles):
            return
        shown = f"{gpu.uuid} cut into {', '.join(profiles) or 'nothing'}"
        if busy:
            self.work.note(f"{shown}: pending, GPUs are in use by {', '.join(busy[:5])}")
            return
        if not self.work.check:
            self._cut(gpu, profiles, whole=not there)
        self.work.actions.append(shown)

    def _refresh_cdi(self) -> None:
        """Containers get the new instances."""
        if self.work.system.unit_states([CDI_UNIT])[CDI_UNIT].load == "loaded":
            self.work.system.systemctl("restart", "--no-block", CDI_UNIT)

    def _cut(self, gpu: _Gpu, profiles: Sequence[str], *, whole: bool) -> None:
        if not gpu.enabled:
            self._smi("-i", gpu.uuid, "-mig", "1")
            if not self._gpu_is_enabled(gpu.uuid):
                # Ampere takes the mode over with a reset of the GPU.
                self._smi("-i", gpu.uuid, "--gpu-reset")
        elif not whole:
            self.work.ask("nvidia-smi", "mig", "-i", gpu.uuid, "-dci", seconds=SECONDS)  # there may be none
            self._smi("mig", "-i", gpu.uuid, "-dgi")
        if profiles:
            self._smi("mig", "-i", gpu.uuid, "-cgi", ",".join(profiles), "-C")

    def _gpu_is_enabled(self, uuid: str) -> bool:
        return any(gpu.enabled for gpu in self._gpus() if gpu.uuid == uuid)

    def _gpus(self) -> list[_Gpu]:
        out = self._smi("--query-gpu=uuid,mig.mode.current", "--format=csv,noheader")
        rows = [[word.strip() for word in line.split(",")] for line in out.splitlines()]
        return [_Gpu(row[0], row[1] == "Enabled", "N/A" not in row[1]) for row in rows if len(row) == 2]

    def _instances(self, gpu: _Gpu) -> list[str]:
        done = self.work.ask("nvidia-smi", "mig", "-i", gpu.uuid, "-lgi", seconds=SECONDS)
        return instances(done.out)

    def _smi(self, *words: str) -> str:
        done = self.work.ask("nvidia-smi", *words, seconds=SECONDS)
        if done.rc:
            lines = [line.strip() for line in f"{done.err}\n{done.out}".splitlines() if line.strip()]
            said = lines[-1] if lines else f"exit status {done.rc}"
            raise HostError(f"nvidia-smi {' '.join(words)}: {said}", where="nvidia_driver_mig")
        return done.out


def instances(table: str) -> list[str]:
    """The profiles of the GPU instances that ``nvidia-smi mig -lgi`` lists."""
    return re.findall(r"^\|\s+\d+\s+MIG\s+(\S+)\s", table, re.MULTILINE)


def unit_text(layout: Sequence[MigPlan]) -> str:
    """The unit that cuts the GPUs again at boot, before anything uses them."""
    lines = []
    for entry in layout:
        for chosen in [f"-i {uuid} " for uuid in entry.gpus] or [""]:
            lines.append(f"ExecStart={SMI} {chosen}-mig 1")
            if entry.profiles:
                lines.append(f"ExecStart={SMI} mig {chosen}-cgi {','.join(entry.profiles)} -C")
    commands = "\n".join(lines)
    return f"""{MANAGED}[Unit]
Description=MIG layout of this host's GPUs ({LAYOUT})
Wants={DEVICES_UNIT}
After={DEVICES_UNIT} {FABRIC_UNIT}
Before={PERSISTENCE_UNIT} network-online.target
ConditionPathExists=/proc/driver/nvidia/version

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=300
{commands}
ExecStartPost=-/usr/bin/systemctl --no-block restart {CDI_UNIT}

[Install]
WantedBy=multi-user.target
"""


def _refuse_what_is_no_layout(entry: MigPlan) -> None:
    """What would become part of a unit's command lines. Raises HostError."""
    for profile in entry.profiles:
        if not PROFILE.fullmatch(profile):
            remedy = "give names as `nvidia-smi mig -lgip` lists them, such as 1g.10gb"
            raise HostError(f"{profile!r} is no MIG profile", where="nvidia_driver_mig", remedy=remedy)
    for uuid in entry.gpus:
        if not UUID.fullmatch(uuid):
            remedy = "give the UUID of a whole GPU, as `nvidia-smi -L` lists it"
            raise HostError(f"{uuid!r} is no GPU", where="nvidia_driver_mig", remedy=remedy)
