"""What of the slots' disk use goes, given how big and how old each thing is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from runnerctl.core.sections import Runnerctl

__all__ = ["Doomed", "Kind", "Thing", "plan"]

Kind = Literal["trash", "leftover", "work", "tool", "log", "image"]
GIB = 2**30
DAY_SECONDS = 86400.0


class Thing(msgspec.Struct, frozen=True):
    """Something that takes room. ``slot``: empty for what is the host's; ``used_at``: when, since the epoch.

    ``in_use``: a job may need it now, so that it stays whatever it takes.
    """

    kind: Kind
    slot: str
    name: str
    size_bytes: int
    used_at: float
    in_use: bool = False


class Doomed(msgspec.Struct, frozen=True):
    """A thing that goes, and why."""

    thing: Thing
    reason: str


def plan(things: Iterable[Thing], settings: Runnerctl, *, now: float) -> tuple[Doomed, ...]:
    """What goes, in the order in which it goes; nothing that is in use.

    Trash and what root left in a slot's directories go at once; logs by age; workspaces and tools of each
    slot, and the host's images, oldest first, until the rest is within its budget.
    """
    known = list(things)
    doomed = [Doomed(thing, "left by an ended job") for thing in _free(known, "trash")]
    doomed += [Doomed(thing, "owned by root") for thing in _free(known, "leftover")]
    oldest = now - settings.clean_logs_days * DAY_SECONDS
    old = f"older than {settings.clean_logs_days} days"
    doomed += [Doomed(thing, old) for thing in _free(known, "log") if thing.used_at < oldest]
    budgets: tuple[tuple[Kind, int], ...] = (
        ("work", settings.clean_work_gib),
        ("tool", settings.clean_tools_gib),
        ("image", settings.clean_images_gib),
    )
    for kind, gib in budgets:
        for slot in sorted({thing.slot for thing in known if thing.kind == kind}):
            group = [thing for thing in known if (thing.kind, thing.slot) == (kind, slot)]
            doomed += _over(group, gib)
    return tuple(doomed)


def _free(things: Sequence[Thing], kind: Kind) -> list[Thing]:
    return [thing for thing in things if thing.kind == kind and not thing.in_use]


def _over(group: Sequence[Thing], gib: int) -> list[Doomed]:
    """The oldest of a group, until the rest fits; what is in use counts, and stays."""
    excess = sum(thing.size_bytes for thing in group) - gib * GIB
    doomed = []
    for thing in sorted(group, key=lambda thing: (thing.used_at, thing.name)):
        if excess <= 0:
            break
        if not thing.in_use:
            doomed.append(Doomed(thing, f"over the budget of {gib} GiB"))
            excess -= thing.size_bytes
    return doomed
