"""A job keeps the devices and the limits that it began with. Standard library only.

When systemd reads its units again it holds what runs already to some of their new settings: those of
control groups (systemd.resource-control). A job would lose its GPUs in the middle, or be killed for memory
that it was allowed when it began. A drop-in in /run keeps both as they are until the unit's next start,
which takes it away first (``gha-devices@``).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .atomic import atomic_write
from .slot_containers import engine_service
from .slot_files import MANAGED, Layout
from .slot_modes import units_of
from .slot_system import System

__all__ = ["SPARED", "forget_runtime", "spare", "spared_path"]

SPARED = "99-running-job.conf"  # the CLI knows it, too (runnerctl.core.device_nodes)
CLI = "/opt/runnerctl/bin/runnerctl"
_LIMITS = ("MemoryMax", "TasksMax")
_CLOSED = ("closed", "strict")


def spared_path(unit: str) -> str:
    """Where the drop-in of a unit stands, as an absolute path of the host."""
    return f"/run/systemd/system/{unit}.d/{SPARED}"


def spare(layout: Layout, system: System, slot: str, unit: str) -> None:
    """Keep the unit's running job as systemd holds it now. To be called before the unit's files change.

    Where nobody could take it away before the next start, nothing is written: better a job that loses its GPU
    than a slot that stays open.
    """
    if not layout.path(CLI).exists() or not system.busy(unit):
        return
    now = system.properties(unit, ["DevicePolicy", "DeviceAllow", *_LIMITS])
    text = _text(slot, now)
    if text is not None:
        path = layout.path(spared_path(unit))
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(str(path), text.encode())


def _text(slot: str, now: dict[str, str]) -> str | None:
    """The drop-in; None where systemd told nothing."""
    lines = [f"{name}={now[name]}" for name in _LIMITS if now.get(name)]
    if now.get("DevicePolicy", "closed") not in _CLOSED and not now.get("DeviceAllow"):
        # ProtectClock= adds a device, and with any in the list the others are closed (systemd.exec).
        lines += ["DevicePolicy=auto", "DeviceAllow=", "ProtectClock=no"]
    if not lines:
        return None
    devices = f"gha-devices@{slot}.service"
    unit = [f"Requires={devices}", f"After={devices}", f"AssertPathExists={CLI}"]
    return "\n".join([MANAGED, "[Unit]", *unit, "", "[Service]", *lines, ""])


def forget_runtime(layout: Layout, slot: str) -> None:
    """Remove what systemd was told of the slot's units until the next boot, when the slot goes."""
    for unit in (*units_of(slot), engine_service(slot)):
        for place in ("/run/systemd/system", "/run/systemd/system.control"):
            _remove(layout.path(f"{place}/{unit}.d"))


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
