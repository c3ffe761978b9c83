"""The rules of what inventory wishes of a layout, as far as they need no hardware."""

from __future__ import annotations

import re

from runnerctl.core.sections import HostSpec, Problem, Slot

__all__ = ["layout_problems", "slot_layout_problems"]

# As nvidia-smi lists instances: 1g.10gb, 1g.10gb+me, 1c.2g.20gb for a part of one.
PROFILE = re.compile(r"(?:\d+c\.)?\d+g\.\d+gb(?:[+-][a-z.]+)?")


def layout_problems(spec: HostSpec) -> list[Problem]:
    """A profile that is none; numbers have their bounds (`runnerctl.core.bounds`)."""
    return _profile_problems("github_runner_mig_profile", spec.github_runner.mig_profile)


def slot_layout_problems(spec: HostSpec, slot: Slot, where: str) -> list[Problem]:
    """What one slot wishes. The layout itself fills ``gpus`` of a slot with ``mig``."""
    problems = _profile_problems(f"{where}.mig", slot.mig)
    share = spec.share(slot)
    if slot.mig and slot.gpus and not (share and share.origin == "filled"):
        message = "gives both gpus and mig"
        problems.append(Problem(where, message, "give a profile, or the UUIDs of MIG devices"))
    return problems


def _profile_problems(where: str, profile: str | None) -> list[Problem]:
    if profile is None or PROFILE.fullmatch(profile):
        return []
    remedy = "give it as `nvidia-smi mig -lgip` lists it, such as 1g.10gb"
    return [Problem(where, f"{profile[:40]!r} is no MIG profile", remedy)]
