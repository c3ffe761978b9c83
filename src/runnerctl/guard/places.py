"""The slots of a host as the guard needs them, from its spec. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import unit_name

from runnerctl.core.spec import HostSpec
from runnerctl.guard.ports import SlotPlace

__all__ = ["places", "user_of"]


def user_of(slot: str) -> str:
    """The system user of a slot's jobs."""
    return f"gha-{slot}"


def places(spec: HostSpec, users: Mapping[str, tuple[int, int]]) -> list[SlotPlace]:
    """The slots whose users there are; one without a user runs nothing. ``users``: name -> uid, gid."""
    found = []
    for slot in spec.github_runner.slots:
        ids = users.get(user_of(slot.name))
        if ids is None or ids[0] == 0:
            continue
        share = spec.share(slot)
        found.append(
            SlotPlace(
                name=slot.name,
                user=user_of(slot.name),
                uid=ids[0],
                gid=ids[1],
                root=Path("/var/lib/gha-runner") / slot.name,
                unit=unit_name(slot.name, slot.mode),
                mode=slot.mode,
                gpus=tuple(share.gpus if share else slot.gpus),
                containers=spec.github_runner.containers,
            )
        )
    return found
