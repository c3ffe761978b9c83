"""The driver on a host, from sources to a loaded module. Standard library only.

Each step reads first; a host that is right is only read. What has to be decided was decided by the plan.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .driver_files import (
    DEVICES_UNIT,
    FABRIC_UNIT,
    PERSISTENCE_UNIT,
    Units,
    block_upgrades,
    is_loaded,
    prepare_units,
)
from .driver_kernels import Kernel, build_missing, kernels, module_version, switch_nouveau_off
from .driver_load import bring_module, busy_slots, users_of_gpus
from .driver_mig import MIG_UNIT, Mig
from .driver_packages import DriverPackages
from .driver_plan import DriverPlan
from .driver_work import Work
from .errors import HostError
from .packages import PackageSystem
from .slot import known_slots
from .slot_modes import start_words, unit_of

__all__ = ["Installer", "Result", "prepare_reboot"]

POLL_SECONDS = 2.0


@dataclass
class Result:
    """What phase ``install`` answers."""

    reboot_required: bool = False
    reboot_reasons: list[str] = field(default_factory=list)
    installed: list[str] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)  # kernel -> version of the module on disk


class Installer:
    """Phase ``install``."""

    def __init__(self, work: Work, plan: DriverPlan, *, packages: PackageSystem | None = None) -> None:
        self.work = work
        self.plan = plan
        self.packages = DriverPackages(work, plan, packages)
        self.mig = Mig(work, plan.mig)

    def run(self) -> Result:
        """All of it. Raises HostError."""
        work, plan = self.work, self.plan
        self.packages.finish_interrupted()
        self.packages.sources()
        switch_nouveau_off(work)
        block_upgrades(work, plan.upgrade_blacklist)
        reload_units = prepare_units(work, persistence=plan.persistence) | self.mig.files()
        outcome = self.packages.install()
        self.packages.hold(outcome.installed)
        if outcome.installed and not work.check:  # the distribution's unit says only now what its command is
            reload_units |= prepare_units(work, persistence=plan.persistence)
        there = self._modules(coming=bool(outcome.installed))
        self._daemons_of_one_version()
        units = self._units(changed=reload_units, coming=bool(outcome.installed))
        bring_module(work, there)
        if is_loaded(work):
            self.mig.apply(busy=[*users_of_gpus(work), *(f"slot {slot}" for slot in busy_slots(work))])
        self._start(units)
        modules = {
            kernel.release: module_version(work, kernel.module) or "" for kernel in there if kernel.module
        }
        return Result(bool(work.reboot), list(work.reboot), list(outcome.installed), modules)

    def _modules(self, *, coming: bool) -> list[Kernel]:
        """A module for every kernel that has headers; the reasons where there is none."""
        names = self.plan.module_names
        if self.work.check and coming:
            return kernels(self.work, names)  # packages and modules come in the real run
        if not self.plan.dkms:
            return kernels(self.work, names)
        if not any(kernel.headers for kernel in kernels(self.work, names)):
            meta = self.plan.headers.meta if self.plan.headers else None
            remedy = f"install {meta or 'kernel headers'} for an installed kernel, or boot another kernel"
            raise HostError("no kernel of this host has headers: no module can be built", remedy=remedy)
        there = build_missing(self.work, names)
        lacking = [kernel.release for kernel in there if kernel.headers and kernel.module is None]
        if lacking and not self.work.check:
            remedy = "see /var/lib/dkms/*/*/build/make.log and `dkms status` on the host"
            raise HostError(f"DKMS built no module for kernel {', '.join(lacking)}", remedy=remedy)
        for kernel in there:
            if kernel.installed and not kernel.headers and kernel.module is None:
                self.work.note(f"kernel {kernel.release} has no headers: it would boot without the driver")
        return there

    def _daemons_of_one_version(self) -> None:
        """Fabric manager speaks only to a driver of its very own version."""
        if not self.plan.fabric_manager or self.work.check:
            return
        found = self._versions()
        managers = {name: version for name, version in found.items() if "fabricmanager" in name}
        libraries = {_upstream(version) for name, version in found.items() if _is_library(name)}
        for name, version in managers.items():
            if libraries and _upstream(version) not in libraries:
                what = f"{name} is {_upstream(version)}, the driver is {' and '.join(sorted(libraries))}"
                remedy = "set nvidia_driver_version to one that the repository has of both"
                raise HostError(what, where="nvidia_driver_version", remedy=remedy)

    def _versions(self) -> dict[str, str]:
        names = [name for item in self.plan.packages for name in item.split("|")]
        return self.packages.system.versions(
            [*names, "libnvidia-ml1", "libnvidia-compute", "nvidia-fabricmanager"]
        )

    def _units(self, *, changed: bool, coming: bool) -> Units:
        units = Units(self.work, present=[DEVICES_UNIT, PERSISTENCE_UNIT, FABRIC_UNIT, MIG_UNIT])
        units.reload(changed)
        units.forgive(PERSISTENCE_UNIT)
        units.want(DEVICES_UNIT, start=False, predicted=self.work.check)
        if self.plan.mig:
            units.want(MIG_UNIT, start=False, predicted=self.work.check)
        if self.plan.persistence:
            units.want(PERSISTENCE_UNIT, start=False, predicted=False)
        else:
            units.off(PERSISTENCE_UNIT)
        if self.plan.fabric_manager:
            units.want(FABRIC_UNIT, start=False, predicted=self.work.check and coming)
        return units

    def _start(self, units: Units) -> None:
        """What a loaded driver is for."""
        if not is_loaded(self.work):
            return
        if self.plan.fabric_manager:
            units.want(FABRIC_UNIT, start=True)
        if self.plan.persistence:
            units.want(PERSISTENCE_UNIT, start=True)


def prepare_reboot(work: Work, *, seconds: float) -> dict[str, Any]:
    """Wait until no slot runs a job, stopping each listener as it falls idle; they start again at boot.

    A listener that is stopped while idle loses nothing: GitHub gives a job that nobody accepted to another
    runner. When time runs out the stopped ones are started again, and nothing is held.
    """
    slots = known_slots(work.layout)
    if work.check:
        busy = busy_slots(work)
        return {"ready": not busy, "busy": busy}
    stopped: list[str] = []
    busy = slots
    try:
        busy = _run_dry(work, slots, stopped, deadline=time.monotonic() + seconds)
    finally:
        if busy:
            for unit in stopped:
                work.system.systemctl(*start_words(unit))
    if not busy:
        work.actions += [f"stopped {unit} for the reboot" for unit in stopped]
    return {"ready": not busy, "busy": busy}


def _run_dry(work: Work, slots: Sequence[str], stopped: list[str], *, deadline: float) -> list[str]:
    """The slots still busy at the deadline. Units are added to ``stopped`` before they are stopped."""
    while True:
        busy = []
        for slot in slots:
            unit = unit_of(work.layout, slot)
            if work.system.busy(unit):
                busy.append(slot)
            elif work.system.unit_states([unit])[unit].running:
                stopped.append(unit)
                work.system.systemctl("stop", unit)
        if not busy or time.monotonic() >= deadline:
            return busy
        time.sleep(min(POLL_SECONDS, max(0.1, deadline - time.monotonic())))


def _upstream(version: str) -> str:
    """``580.95.05-1`` and ``1:580.95.05-0ubuntu1`` are of one driver: 580.95.05."""
    match = re.search(r"\d{3}\.\d+(?:\.\d+)?", version)
    return match.group(0) if match else version


def _is_library(name: str) -> bool:
    return name.startswith(("libnvidia-ml1", "libnvidia-compute", "nvidia-driver-cuda", "libnvidia-ml"))
