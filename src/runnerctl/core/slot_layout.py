"""Lay a host's slots out over its hardware: what inventory wishes, what there is, what slots have already.

Pure. A host keeps what fits: a slot that still can have its GPUs keeps them, whatever else changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from runnerctl.core.hardware import Gpu, Hardware, MigDevice
from runnerctl.core.layout import Layout, SlotShare
from runnerctl.core.rules import broken_rules
from runnerctl.core.sections import HostSpec, Problem, Slot
from runnerctl.core.slot_layout_claims import Board
from runnerctl.core.slot_layout_labels import derived_labels
from runnerctl.core.slot_layout_shares import Claim, cpu_shares, memory_shares, usable_memory
from runnerctl.core.slot_layout_wishes import DEFAULT_SLOT, Entry, kept_entries, wished_entries

__all__ = ["Planned", "after_cut", "apply_layout", "lay_out", "undo_layout", "wants_gpus", "wishes"]

MIB = 1 << 20
LEAST_WEIGHT = 0.05  # of a MIG device whose size nobody knows
UNREADABLE = "install or load the driver, see `runnerctl health` on the host, and run this again"


class Planned(msgspec.Struct, frozen=True):
    """The spec with every slot spelt out and its layout; ``notes`` are for who runs the play.

    ``undecided``: why slots that depend on the GPUs could not be laid out. They are left out of the spec,
    which must then not be applied.
    """

    spec: HostSpec
    notes: tuple[str, ...] = ()
    undecided: Problem | None = None


def wishes(spec: HostSpec) -> bool:
    """Whether slots, or their GPUs, depend on what the hardware turns out to be."""
    runner = spec.github_runner
    named = any(slot.mig and not slot.gpus for slot in runner.slots)
    return bool(runner.slots) and (
        named or runner.gpus_per_slot is not None or runner.mig_profile is not None
    )


def wants_gpus(spec: HostSpec) -> bool:
    """Whether the GPUs must be looked at."""
    return wishes(spec) or any(slot.gpus for slot in spec.github_runner.slots)


def apply_layout(spec: HostSpec, slots: Sequence[Slot], layout: Layout | None) -> HostSpec:
    """The spec with its slots spelt out."""
    runner = msgspec.structs.replace(spec.github_runner, slots=tuple(slots))
    return msgspec.structs.replace(spec, github_runner=runner, layout=layout)


def undo_layout(spec: HostSpec) -> HostSpec:
    """The spec as inventory gave it: without the slots and the GPUs that were the layout's."""
    if spec.layout is None:
        return spec
    slots, made = [], []
    for slot in spec.github_runner.slots:
        share = spec.share(slot)
        if share is None or share.origin == "inventory":
            slots.append(slot)
        elif share.origin == "filled":
            slots.append(msgspec.structs.replace(slot, gpus=()))
        else:
            made.append(msgspec.structs.replace(slot, name=DEFAULT_SLOT, gpus=()))
    return apply_layout(spec, slots or made[:1], None)


def lay_out(spec: HostSpec, hardware: Hardware, current: Layout | None = None) -> Planned | list[Problem]:
    """The spec with its slots laid out over ``hardware``, or everything that stands in the way.

    ``spec``: as inventory gives it. ``current``: the host's layout up to now. Where the GPUs cannot be read,
    slots keep what they have by it: not to know is not the same as to have none.
    """
    board = Board(hardware, current or Layout())
    undecided = None
    if wants_gpus(spec) and not hardware.readable:
        entries, missing = kept_entries(spec.github_runner, board.current)
        undecided = _undecided(hardware, missing)
        board.notes.append(f"the GPUs were not checked: {_reason(hardware)}")
    else:
        entries = wished_entries(spec.github_runner, board)
    if board.problems:
        found = Problem("GPUs of the host", f"found {board.mapping()}", "make inventory fit them")
        return [*board.problems, found]
    if problems := _share_problems(spec, hardware, len(entries)):
        return problems
    planned = apply_layout(spec, [entry.slot for entry in entries], Layout(_shares(spec, board, entries)))
    if undecided is None and (problems := broken_rules(planned)):
        return problems
    return Planned(planned, tuple(board.notes), undecided)


def _reason(hardware: Hardware) -> str:
    return hardware.unavailable or "nobody looked"


def _undecided(hardware: Hardware, missing: Sequence[str]) -> Problem | None:
    if not missing:
        return None
    message = f"cannot be laid out, the GPUs cannot be read: {_reason(hardware)}"
    return Problem(", ".join(missing), message, hardware.remedy or UNREADABLE)


# -- shares ----------------------------------------------------------------------------------------------


def _share_problems(spec: HostSpec, hardware: Hardware, slots: int) -> list[Problem]:
    """Wishes for CPUs and memory that the host cannot meet."""
    runner, problems = spec.github_runner, []
    cpus = sum(len(core) for node in hardware.numa for core in node.cores)
    if runner.cpus_per_slot and cpus and slots * runner.cpus_per_slot > cpus:
        message = f"is {runner.cpus_per_slot} for {slots} slots, and the host has {cpus} CPUs"
        problems.append(Problem("github_runner_cpus_per_slot", message, f"give at most {cpus // slots}"))
    usable, each = usable_memory(hardware), runner.memory_per_slot_mib
    if each and usable and slots * each * MIB > usable:
        most = usable // MIB
        message = f"is {each} for {slots} slots, and the host has {most} MiB for slots"
        problems.append(
            Problem("github_runner_memory_per_slot_mib", message, f"give at most {most // slots}")
        )
    return problems


def _shares(spec: HostSpec, board: Board, entries: Sequence[Entry]) -> tuple[SlotShare, ...]:
    runner = spec.github_runner
    bare = {entry.slot.name: _bare_share(entry, board) for entry in entries}
    claims = [Claim(name, share.numa_nodes, _weight(share, board)) for name, share in bare.items()]
    cpus = cpu_shares(board.hardware, claims, per_slot=runner.cpus_per_slot)
    mib = runner.memory_per_slot_mib
    memory = memory_shares(
        board.hardware,
        claims,
        per_slot_bytes=mib * MIB if mib else None,
        before={share.name: share.memory_bytes for share in board.current.slots},
    )
    return tuple(
        msgspec.structs.replace(share, cpus=cpus[name], memory_bytes=memory[name])
        for name, share in bare.items()
    )


def _bare_share(entry: Entry, board: Board) -> SlotShare:
    """GPUs, labels and nodes; of GPUs that cannot be read just now what was known of them."""
    slot, devices = entry.slot, _devices(entry.slot.gpus, board)
    before = board.current.share(slot.name)
    if len(devices) < len(slot.gpus):
        same = before if before is not None and before.gpus == slot.gpus else SlotShare(slot.name)
        labels, nodes = same.labels, same.numa_nodes
    else:
        labels = derived_labels(board.hardware, devices)
        nodes = tuple(sorted({gpu.numa_node for gpu, _ in devices if gpu.numa_node is not None}))
    return SlotShare(slot.name, slot.gpus, labels, numa_nodes=nodes, origin=entry.origin)


def _devices(uuids: Sequence[str], board: Board) -> list[tuple[Gpu, MigDevice | None]]:
    return [device for uuid in uuids if (device := board.device(uuid)) is not None]


def _weight(share: SlotShare, board: Board) -> float:
    """GPUs of a slot, of a MIG device its part of the GPU's memory; a slot without GPUs counts as one."""
    if not share.gpus:
        return 1.0
    weight = 0.0
    for uuid in share.gpus:
        gpu, part = board.device(uuid) or (None, None)
        if gpu is None or part is None:
            weight += 1.0
        else:
            weight += (part.memory_bytes or 0) / gpu.memory_bytes if gpu.memory_bytes else 0.0
    return max(weight, LEAST_WEIGHT)


# -- MIG devices that the driver's role will make --------------------------------------------------------


def after_cut(spec: HostSpec, hardware: Hardware) -> tuple[Hardware, bool]:
    """The hardware as role ``nvidia_driver`` will have cut it, and whether that differs from what is there.

    Devices that are not there yet have no UUID, so a layout over them is good for a judgement only.
    """
    gpus, differs = [], False
    for gpu in hardware.gpus:
        cuts = [each.profiles for each in spec.nvidia_driver.mig if not each.gpus or gpu.uuid in each.gpus]
        there = Counter(part.profile for part in gpu.mig_devices)
        if not cuts or gpu.mig is None or (gpu.mig and there == Counter(cuts[0])):
            gpus.append(gpu)
            continue
        differs = True
        parts = tuple(
            MigDevice(f"MIG-to-be-made-{gpu.index}-{number}", profile)
            for number, profile in enumerate(cuts[0])
        )
        gpus.append(msgspec.structs.replace(gpu, mig=True, mig_devices=parts))
    return msgspec.structs.replace(hardware, gpus=tuple(gpus)), differs
