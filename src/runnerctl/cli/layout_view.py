"""How a layout is shown: slots and what changes, GPUs and whose they are, labels."""

from __future__ import annotations

from typing import Any

import msgspec

from runnerctl.cli.layout_plan import Seen
from runnerctl.cli.output import escape, table
from runnerctl.core.hardware import Gpu, Hardware
from runnerctl.core.layout import SlotShare
from runnerctl.core.sections import HostSpec, Slot

__all__ = ["changes_of", "plan_json", "plan_text", "removed_slots"]

SCHEMA = "runnerctl.layout/1"
GIB, MIB = 1 << 30, 1 << 20


def removed_slots(seen: Seen) -> list[str]:
    """Slots that the host has by its spec and would not have any more."""
    after = {slot.name for slot in seen.after.github_runner.slots} if seen.after else set()
    known = [slot.name for slot in seen.before.github_runner.slots] if seen.before.layout else []
    return [name for name in known if name not in after]


def changes_of(seen: Seen, slot: Slot) -> list[str]:
    """What would change of one slot, in a word each."""
    if seen.after is None:
        return []
    old = next((each for each in seen.before.github_runner.slots if each.name == slot.name), None)
    if old is None or seen.before.layout is None:
        return ["new"]
    new, before = seen.after.share(slot), seen.before.share(old) or SlotShare(old.name)
    if new is None:
        return []
    pairs = {
        "GPUs": (new.gpus, old.gpus),
        "CPUs": (new.cpus, before.cpus),
        "memory": (new.memory_bytes, before.memory_bytes),
        "labels": (seen.after.slot_labels(slot), seen.before.slot_labels(old)),
    }
    return [name for name, (one, other) in pairs.items() if one != other]


def plan_text(seen: Seen, *, width: int) -> str:
    """The plan for people."""
    hardware, spec = seen.hardware, seen.after
    parts = [_head(seen)]
    if spec is not None:
        parts.append(_slots(seen, spec, width))
    if hardware.gpus:
        owners = _owners(spec) if spec is not None else {}
        rows = [row for gpu in hardware.gpus for row in _gpu_rows(gpu, owners)]
        parts.append(table(["GPU", "SLOT", "MODEL", "UUID"], rows, width=width))
    if spec is not None and any(spec.slot_labels(slot) for slot in spec.github_runner.slots):
        rows = [[slot.name, ", ".join(spec.slot_labels(slot))] for slot in spec.github_runner.slots]
        parts.append(table(["SLOT", "LABELS"], rows, width=width))
    parts += [escape(f"note: {note}") for note in seen.notes]
    return "\n\n".join(parts)


def _head(seen: Seen) -> str:
    hardware, spec = seen.hardware, seen.after
    if hardware.unavailable:
        gpus = f"GPUs cannot be read ({hardware.unavailable})"
    elif not hardware.asked:
        gpus = "GPUs not asked for"
    else:
        gpus = f"{len(hardware.gpus)} GPU{'' if len(hardware.gpus) == 1 else 's'}"
        gpus += f", driver {hardware.driver_version}" if hardware.driver_version else ""
    count = len(spec.github_runner.slots) if spec is not None else 0
    slots = f"{count} slot{'' if count == 1 else 's'}" if spec is not None else "cannot be laid out"
    return escape(f"{seen.before.host}: {gpus}; {slots}")


def _slots(seen: Seen, spec: HostSpec, width: int) -> str:
    rows: list[list[object]] = []
    for slot in spec.github_runner.slots:
        share = spec.share(slot) or SlotShare(slot.name)
        indices = [_place(seen.hardware, uuid) for uuid in slot.gpus]
        nodes = ",".join(map(str, share.numa_nodes))
        memory = _size(share.memory_bytes)
        change = ", ".join(changes_of(seen, slot)) or "same"
        rows.append([slot.name, ",".join(indices), nodes, share.cpus or "all", memory, change])
    rows += [[name, "", "", "", "", "goes"] for name in removed_slots(seen)]
    return table(["SLOT", "GPU", "NUMA", "CPUS", "MEMORY", "CHANGE"], rows, width=width)


def _place(hardware: Hardware, uuid: str) -> str:
    """A GPU's index, with ``m0`` behind it for its first MIG device; ``?`` for one that was not seen."""
    for gpu in hardware.gpus:
        if gpu.uuid == uuid:
            return str(gpu.index)
        for number, part in enumerate(gpu.mig_devices):
            if part.uuid == uuid:
                return f"{gpu.index}m{number}"
    return "?"


def _size(amount: int | None) -> str:
    if amount is None:
        return "all"
    return f"{amount / GIB:.1f} GiB" if amount >= GIB else f"{amount // MIB} MiB"


def _owners(spec: HostSpec) -> dict[str, str]:
    return {uuid: slot.name for slot in spec.github_runner.slots for uuid in slot.gpus}


def _gpu_rows(gpu: Gpu, owners: dict[str, str]) -> list[list[object]]:
    model = (gpu.name or "").removeprefix("NVIDIA ")
    rows: list[list[object]] = [[gpu.index, owners.get(gpu.uuid, ""), model, gpu.uuid]]
    for number, part in enumerate(gpu.mig_devices):
        place = f"{gpu.index}m{number}"
        rows.append([place, owners.get(part.uuid, ""), f"MIG {part.profile or ''}", part.uuid])
    return rows


def plan_json(seen: Seen) -> dict[str, Any]:
    """The plan for programs; ``hardware`` can be given to ``--from``."""
    spec = seen.after
    slots = []
    for slot in spec.github_runner.slots if spec is not None else ():
        assert spec is not None
        share = spec.share(slot) or SlotShare(slot.name)
        known = msgspec.to_builtins(share)
        slots.append({**known, "labels": list(spec.slot_labels(slot)), "changes": changes_of(seen, slot)})
    return {
        "schema": SCHEMA,
        "host": seen.before.host,
        "slots": slots,
        "removed": removed_slots(seen) if spec is not None else [],
        "problems": [msgspec.to_builtins(problem) for problem in seen.problems],
        "notes": list(seen.notes),
        "hardware": msgspec.to_builtins(seen.hardware),
    }
