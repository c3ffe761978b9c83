"""Load the driver that is installed, without a reboot where no GPU is in use. Standard library only."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence

from .driver_files import LOADED
from .driver_kernels import Kernel, module_version, next_kernel, running_kernel
from .driver_work import Work
from .slot import known_slots
from .slot_modes import start_words, unit_of

__all__ = ["bring_module", "busy_slots", "gpus_on_bus", "loaded_version", "users_of_gpus"]

SERVICES = ("nvidia-persistenced.service", "nvidia-fabricmanager.service", "nvidia-dcgm.service")
# Daemons that hold a GPU open and are stopped and started again around a reload.
DAEMONS = ("nvidia-persiste", "nv-fabricmanage", "nv-hostengine", "nvidia-fabricma")
MODULES = ("nvidia_drm", "nvidia_modeset", "nvidia_uvm", "nvidia_peermem", "nvidia")
LOAD_SECONDS = 120.0
SETTLE_SECONDS = 5.0


def loaded_version(work: Work) -> str | None:
    """The version of the loaded module; None when none is loaded."""
    version = work.read("/sys/module/nvidia/version")
    if version:
        return version
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]+)", work.read(LOADED) or "")
    return match.group(1) if match else None


def gpus_on_bus(work: Work) -> int:
    """NVIDIA's display and 3D controllers on the PCI bus."""
    count = 0
    for device in work.path("/sys/bus/pci/devices").glob("*"):
        where = f"/sys/bus/pci/devices/{device.name}"
        vendor, kind = work.read(f"{where}/vendor"), work.read(f"{where}/class") or ""
        count += vendor == "0x10de" and kind.startswith("0x03")
    return count


def busy_slots(work: Work) -> list[str]:
    """Slots that run a job."""
    return [slot for slot in known_slots(work.layout) if work.system.busy(unit_of(work.layout, slot))]


def users_of_gpus(work: Work) -> list[str]:
    """Processes that hold a device of the driver open, as ``name (pid)``; the driver's own daemons apart."""
    found = []
    for process in work.path("/proc").glob("[0-9]*"):
        comm = work.read(f"/proc/{process.name}/comm") or "?"
        if comm not in DAEMONS and _holds_device(f"{process}/fd"):
            found.append(f"{comm} ({process.name})")
    return sorted(found)


def _holds_device(folder: str) -> bool:
    try:
        names = os.listdir(folder)
    except OSError:
        return False  # it ended while we looked
    for name in names:
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if target.startswith("/dev/nvidia"):
            return True
    return False


def bring_module(work: Work, kernels: Sequence[Kernel]) -> bool:
    """Have the installed version loaded, or say why a reboot has to do it; whether it was loaded now."""
    loaded, running = loaded_version(work), running_kernel()
    here = next((kernel for kernel in kernels if kernel.release == running), None)
    if here is None or here.module is None:
        _without_module(work, kernels, running, loaded)
        return False
    installed = module_version(work, here.module)
    if loaded is not None and installed in (loaded, None):  # None: modinfo cannot say, and it works
        return False
    if loaded is None and not gpus_on_bus(work):
        work.note("no NVIDIA GPU is on the PCI bus: there is nothing to load the driver for")
        return False
    if work.path("/sys/module/nouveau").is_dir():
        return False  # noted as a reason for a reboot already
    users = [*users_of_gpus(work), *(f"slot {slot}" for slot in busy_slots(work))] if loaded else []
    if users:
        work.reboot.append(f"driver {loaded} is in use by {', '.join(users[:5])}, {installed} is installed")
        return False
    if not work.check and not _reload(work, loaded):
        return False
    work.actions.append(f"driver {installed or 'module'} loaded")
    return True


def _without_module(work: Work, kernels: Sequence[Kernel], running: str, loaded: str | None) -> None:
    """The running kernel has no module on disk: a reboot helps when the next kernel has one."""
    if work.check and not any(kernel.module for kernel in kernels):
        return  # it is not installed yet: nothing can be said
    after = next_kernel(work)
    with_module = [kernel.release for kernel in kernels if kernel.module]
    if after != running and after in with_module:
        work.reboot.append(f"the running kernel {running} has no driver module, the next one, {after}, has")
    elif loaded is None:
        there = ", ".join(with_module) or "no kernel"
        work.note(f"the running kernel {running} has no driver module ({there} has one)")


def _reload(work: Work, loaded: str | None) -> bool:
    """Stop what holds the module, take it out, load the new one. Returns whether it is loaded now."""
    states = work.system.unit_states(list(SERVICES))
    stopped = [unit for unit, state in states.items() if state.active == "active"] if loaded else []
    try:
        for unit in stopped:
            work.system.systemctl("stop", unit)
        if loaded and not _unload(work):
            work.reboot.append(f"driver {loaded} cannot be unloaded")
            return False
        done = work.ask("modprobe", "nvidia", seconds=LOAD_SECONDS)
        if done.rc:
            reason = (done.err.strip().splitlines() or [f"exit status {done.rc}"])[-1]
            work.note(f"modprobe nvidia failed: {reason}")
            return False
        work.ask("modprobe", "nvidia-uvm", seconds=LOAD_SECONDS)
        work.ask("nvidia-modprobe", "-c0", "-u", seconds=LOAD_SECONDS)
        return True
    finally:
        for unit in stopped:
            work.system.systemctl(*start_words(unit))


def _unload(work: Work) -> bool:
    """Take the modules out; device files may be closed a moment after their daemons ended."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        there = [name for name in MODULES if work.path(f"/sys/module/{name}").is_dir()]
        if not there or work.ask("modprobe", "-r", *there, seconds=LOAD_SECONDS).rc == 0:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
