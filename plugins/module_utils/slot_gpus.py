"""GPUs that a running job still has: no other slot may start on them. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .errors import HostError
from .slot_files import MODES, Layout, SlotSpec
from .slot_modes import unit_of
from .slot_system import System, read_text

__all__ = ["gpus_of_listener", "refuse_shared", "waits_for"]

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


def refuse_shared(slot: str, gpus: Iterable[str], layout: Layout, system: System) -> None:
    """Before a slot starts, whoever starts it: no job of another slot may still have one of its GPUs.

    That can be only where a restart is due, or where a slot that is to go still claims it: the others need
    not be asked. Raises HostError.
    """
    wanted = SlotSpec(slot, runner_name="", url="", version="", gpus=tuple(gpus))
    folder = layout.path("/var/lib/runnerctl/slots")
    names = sorted(path.stem for path in folder.glob("*.json")) if wanted.gpus and folder.is_dir() else []
    others = [name for name in names if name != slot and _may_have(name, wanted.gpus, layout)]
    if reason := waits_for(wanted, layout, system, others):
        raise HostError(reason, remedy="nothing: its start is tried again until that job has ended")


def _may_have(name: str, gpus: Iterable[str], layout: Layout) -> bool:
    if layout.state("pending", name).exists():
        return True
    paths = (layout.drop_in(name, mode) for mode in MODES)
    text = "".join(read_text(path) for path in paths if path.is_file())
    return any(uuid in text for uuid in gpus)


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
