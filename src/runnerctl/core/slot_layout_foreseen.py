"""Which slots a host will have, as far as inventory alone can tell: for commands that ask no host."""

from __future__ import annotations

import msgspec

from runnerctl.core.sections import HostSpec, Slot
from runnerctl.core.slot_layout_wishes import MADE, MADE_MIG, named_slots

__all__ = ["foreseen"]


def foreseen(spec: HostSpec) -> HostSpec:
    """The spec with the slots that its wishes make, so many as the expected GPUs are good for.

    They are named, and have no GPUs yet. Without ``nvidia_driver_gpu_count`` their number is not known, and
    the spec has none of them; in no case has it a default slot whose place they take.
    """
    runner = spec.github_runner
    wish = runner.gpus_per_slot is not None or runner.mig_profile is not None
    if spec.layout is not None or not wish or not runner.slots:
        return spec
    named = named_slots(runner)
    parts = _parts(spec, runner.mig_profile) if runner.mig_profile else 0
    whole = max((spec.nvidia_driver.gpu_count or 0) - _cut(spec), 0)
    groups = whole // runner.gpus_per_slot if runner.gpus_per_slot and not named else 0
    made = [Slot(name=f"{MADE}{number}") for number in range(groups)]
    made += [Slot(name=f"{MADE_MIG}{number}", mig=runner.mig_profile) for number in range(parts)]
    changed = msgspec.structs.replace(runner, slots=(*named, *made))
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
