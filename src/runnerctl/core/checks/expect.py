"""What a spec expects, in the terms of the checks."""

from __future__ import annotations

from runnerctl.core.snapshot import Snapshot
from runnerctl.core.spec import HostSpec, Runnerctl, Slot

__all__ = ["claims_gpus", "expects_gpus", "limits", "spec_slot"]


def expects_gpus(spec: HostSpec | None) -> bool:
    """Whether the spec counts on a GPU, by number or by a slot's claim."""
    if spec is None:
        return False
    return bool(spec.nvidia_driver.gpu_count) or any(slot.gpus for slot in spec.github_runner.slots)


def claims_gpus(snapshot: Snapshot) -> bool:
    """Whether a slot of the spec claims a GPU by its UUID."""
    spec = snapshot.host_spec
    return spec is not None and any(slot.gpus for slot in spec.github_runner.slots)


def limits(spec: HostSpec | None) -> Runnerctl:
    """The limits of the verdict: the spec's, or the defaults."""
    return spec.runnerctl if spec else Runnerctl()


def spec_slot(spec: HostSpec | None, name: str) -> Slot | None:
    """The slot's entry in the spec, if it has one."""
    slots = spec.github_runner.slots if spec else ()
    return next((slot for slot in slots if slot.name == name), None)
