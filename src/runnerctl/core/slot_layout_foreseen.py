"""Which slots a host will have, as far as inventory alone can tell: for commands that ask no host."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from runnerctl.core.sections import HostSpec, Slot
from runnerctl.core.slot_layout_wishes import DEFAULT_SLOT, MADE, MADE_MIG, named_slots, pattern

__all__ = ["foreseen", "seen_at_github"]


def foreseen(spec: HostSpec) -> HostSpec:
    """The spec with the slots that its wishes make, so many as the expected GPUs are good for.

    They are named, and have no GPUs yet. Without ``nvidia_driver_gpu_count`` their number is not known, and
    the spec has none of them; in no case has it a default slot whose place they take.
    """
    runner = spec.github_runner
    if spec.layout is not None or not _wishes(spec):
        return spec
    named = named_slots(runner)
    parts = _parts(spec, runner.mig_profile) if runner.mig_profile else 0
    whole = max((spec.nvidia_driver.gpu_count or 0) - _cut(spec), 0)
    groups = whole // runner.gpus_per_slot if runner.gpus_per_slot and not named else 0
    names = [f"{MADE}{number}" for number in range(groups)]
    names += [f"{MADE_MIG}{number}" for number in range(parts)]
    return _with_made(spec, names)


def seen_at_github(spec: HostSpec, runner_names: Iterable[str]) -> HostSpec:
    """The spec with every slot that its wishes may have made, by the names of records: a host may be dead."""
    if spec.layout is not None or not _wishes(spec):
        return spec
    made = re.compile(rf"{re.escape(spec.host)}-((?:{MADE}|{MADE_MIG})\d+)", re.IGNORECASE)
    found = (made.fullmatch(name) for name in runner_names)
    return _with_made(spec, sorted({match[1].lower() for match in found if match}))


def _wishes(spec: HostSpec) -> bool:
    runner = spec.github_runner
    return bool(runner.slots) and (runner.gpus_per_slot is not None or runner.mig_profile is not None)


def _with_made(spec: HostSpec, names: Iterable[str]) -> HostSpec:
    runner = spec.github_runner
    like, named = pattern(runner) or Slot(name=DEFAULT_SLOT), named_slots(runner)
    known = {slot.name for slot in named}
    slots = [
        msgspec.structs.replace(
            like, name=name, mig=runner.mig_profile if name.startswith(MADE_MIG) else None
        )
        for name in names
        if name not in known
    ]
    changed = msgspec.structs.replace(runner, slots=(*named, *slots))
    return msgspec.structs.replace(spec, github_runner=changed)


def _cut(spec: HostSpec) -> int:
    """GPUs that inventory has cut into MIG devices."""
    mig = spec.nvidia_driver.mig
    if any(not each.gpus for each in mig):
        return spec.nvidia_driver.gpu_count or 0
    return len({uuid for each in mig for uuid in each.gpus})


def _parts(spec: HostSpec, profile: str) -> int:
    """MIG devices of a profile that inventory has made."""
    count = spec.nvidia_driver.gpu_count or 0
    return sum(each.profiles.count(profile) * (len(each.gpus) or count) for each in spec.nvidia_driver.mig)
