"""Whether the GPUs of a slot are fit for a job: the last verdict, if it is fresh, and a quick look. Pure.

1. Sick by either: the job is refused, and the slot put on hold.
2. Healthy by the look, and not sick by the verdict: the job may start.
3. The look did not say (NVML is slow, or hangs): a fresh verdict that calls every GPU clean carries the job,
   with a warning in its log; otherwise the job is refused. Nothing is held: what is not known is neither
   sick nor healthy, and the health timer's next round tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from runnerctl.guard.meter import GpuLook
from runnerctl.guard.protocol import one_line
from runnerctl.probes.gpu_verdict import Verdicts

__all__ = ["Fitness", "fitness"]


@dataclass(frozen=True)
class Fitness:
    """What is made of a slot's GPUs. ``sick``: the UUIDs of those that are."""

    state: Literal["fit", "sick", "unknown"]
    reason: str = ""
    sick: tuple[str, ...] = ()
    warning: str = ""


def fitness(gpus: Sequence[str], looks: Mapping[str, GpuLook], verdicts: Verdicts | None) -> Fitness:
    """The state of these GPUs (UUIDs); ``verdicts`` is None where there is no fresh judgement."""
    known = {uuid.lower(): verdict for uuid, verdict in (verdicts.gpus if verdicts else {}).items()}
    reasons = {}
    for uuid in gpus:
        look, verdict = looks.get(uuid), known.get(uuid.lower())
        if verdict is not None and verdict.state == "sick":
            reasons[uuid] = verdict.reason or "the health verdict calls it sick"
        elif look is not None and look.verdict == "sick":
            reasons[uuid] = look.reason or "NVML calls it sick"
    if reasons:
        told = "; ".join(f"{uuid}: {reason}" for uuid, reason in reasons.items())
        return Fitness("sick", one_line(f"a GPU of this slot is sick: {told}"), tuple(reasons))
    silent = [uuid for uuid in gpus if (look := looks.get(uuid)) is None or look.verdict != "healthy"]
    if not silent:
        return Fitness("fit")
    first = looks.get(silent[0])
    why = f"{silent[0]}: {first.reason if first and first.reason else 'NVML did not say how it is'}"
    if all((verdict := known.get(uuid.lower())) is not None and verdict.state == "clean" for uuid in silent):
        warning = f"the GPU could not be looked at before this job ({why}); the last health verdict was clean"
        return Fitness("fit", warning=one_line(warning))
    return Fitness("unknown", one_line(f"it is not known whether this slot's GPUs are well ({why})"))
