"""GPUs that a running job still has: no other slot may start on them. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .slot_files import Layout, SlotSpec
from .slot_modes import unit_of
from .slot_system import System

__all__ = ["gpus_of_listener", "waits_for"]

VARIABLE = b"NVIDIA_VISIBLE_DEVICES="  # the unit sets it to the slot's UUIDs (slot_units)


def waits_for(slot: SlotSpec, layout: Layout, system: System, others: Iterable[str]) -> str | None:
    """Which other slot's job still has a GPU that this slot is to get, in words; None when there is none.

    A slot that runs a job keeps its GPUs to the end of it, whatever its unit's files say by now.
    """
    for name in others:
        unit = unit_of(layout, name)
        shared = set(slot.gpus) & gpus_of_listener(system, unit, root=layout.root)
        if shared and system.busy(unit):
            return f"{slot.name}: {', '.join(sorted(shared))} is still in use by a job of slot {name}"
    return None


def gpus_of_listener(system: System, unit: str, *, root: Path = Path("/")) -> set[str]:
    """The GPUs that a unit's main process was started with; none where it does not run."""
    pid = system.main_pid(unit)
    if not pid:
        return set()
    try:
        content = (root / f"proc/{pid}/environ").read_bytes()
    except OSError:
        return set()
    found = (line.removeprefix(VARIABLE) for line in content.split(b"\0") if line.startswith(VARIABLE))
    return set(next(found, b"").decode("ascii", "replace").split(","))
