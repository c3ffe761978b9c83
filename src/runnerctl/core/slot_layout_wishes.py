"""From inventory's wishes to slots with GPUs: named slots are filled, and slots are made of what is there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count as numbers
from typing import Literal

import msgspec

from runnerctl.core.hardware import Gpu
from runnerctl.core.layout import Layout, SlotShare
from runnerctl.core.sections import GithubRunner, Problem, Slot
from runnerctl.core.slot_layout_claims import Board
from runnerctl.core.slot_layout_groups import division

__all__ = ["DEFAULT_SLOT", "MADE", "MADE_MIG", "Entry", "kept_entries", "named_slots", "wished_entries"]

MADE, MADE_MIG = "gpu", "mig"  # what slots of the layout's own are called, with a number behind
DEFAULT_SLOT = "main"
PER_SLOT, PROFILE = "github_runner_gpus_per_slot", "github_runner_mig_profile"
Origin = Literal["inventory", "filled", "made"]


class Entry(msgspec.Struct, frozen=True):
    """A slot that was laid out, and where it came from (see `SlotShare`)."""

    slot: Slot
    origin: Origin = "inventory"


def pattern(runner: GithubRunner) -> Slot | None:
    """The default slot, where a wish takes its place; what is made is like it but for name and GPUs."""
    wish = runner.gpus_per_slot is not None or runner.mig_profile is not None
    if not wish or len(runner.slots) != 1:
        return None
    (slot,) = runner.slots
    own = slot.name != DEFAULT_SLOT or slot.gpus or slot.mig or slot.runner_name
    return None if own else slot


def named_slots(runner: GithubRunner) -> tuple[Slot, ...]:
    """The slots that inventory names; a wish takes the place of the default one."""
    return () if pattern(runner) is not None else runner.slots


def _makes(runner: GithubRunner) -> tuple[bool, bool]:
    """Whether slots are made of whole GPUs, and of MIG devices."""
    of_gpus = runner.gpus_per_slot is not None and pattern(runner) is not None
    return of_gpus, runner.mig_profile is not None and bool(runner.slots)


def _fills(runner: GithubRunner, slot: Slot) -> bool:
    return not slot.gpus and (slot.mig is not None or runner.gpus_per_slot is not None)


# -- with hardware that answers --------------------------------------------------------------------------


def wished_entries(runner: GithubRunner, board: Board) -> list[Entry]:
    """Every slot with its GPUs; what cannot be is in the board's problems."""
    named = named_slots(runner)
    for index, slot in enumerate(named):
        for uuid in slot.gpus:
            board.claim(f"github_runner_slots[{index}].gpus", slot.name, uuid)
    filled = _mig_of_named(named, board) | _gpus_of_named(runner, named, board)
    entries = [_entry(slot, board, filled) for slot in named]
    of_gpus, of_parts = _makes(runner)
    taken = {slot.name for slot in named}
    if of_gpus and runner.gpus_per_slot:
        entries += _made(_of_gpus(runner.gpus_per_slot, board), runner)
    if of_parts and runner.mig_profile:
        entries += _made(_of_parts(runner.mig_profile, board), runner)
    for entry in entries[len(named) :]:
        if entry.slot.name in taken:
            message = f"makes a slot {entry.slot.name!r}, and github_runner_slots names one"
            board.problems.append(Problem(PROFILE, message, "rename that one"))
    return entries


def _entry(slot: Slot, board: Board, filled: dict[str, tuple[str, ...]]) -> Entry:
    if slot.name in filled:
        return Entry(msgspec.structs.replace(slot, gpus=filled[slot.name]), "filled")
    return Entry(msgspec.structs.replace(slot, gpus=tuple(map(board.spelt, slot.gpus))))


def _mig_of_named(named: Sequence[Slot], board: Board) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    wanting = [slot for slot in named if slot.mig and not slot.gpus]
    for slot in wanting:  # first those that can keep theirs
        share = board.current.share(slot.name)
        if share and len(share.gpus) == 1 and _keeps_part(slot.mig, slot.name, share.gpus[0], board):
            found[slot.name] = board.take(slot.name, share.gpus)
    for slot in wanting:
        free = board.free_parts(slot.mig or "")
        if slot.name in found:
            continue
        if free:
            found[slot.name] = board.take(slot.name, [free[0].uuid])
        else:
            where = f"github_runner_slots[{named.index(slot)}].mig"
            board.problems.append(_no_part(where, slot.mig or "", board))
    return found


def _keeps_part(profile: str | None, slot: str, uuid: str, board: Board) -> bool:
    device = board.device(uuid)
    if device is None:
        return _keeps_unseen(slot, [uuid], board)
    return device[1] is not None and device[1].profile == profile and board.is_free(uuid)


def _no_part(where: str, profile: str, board: Board) -> Problem:
    if profile in board.profiles():
        return Problem(where, f"no MIG device of profile {profile} is left", "ask for fewer, or cut more")
    there = ", ".join(board.profiles()) or "none"
    remedy = "cut the GPUs with nvidia_driver_mig, or ask for a profile that is there"
    return Problem(where, f"no GPU of this host has a MIG device of profile {profile}: {there}", remedy)


def _gpus_of_named(runner: GithubRunner, named: Sequence[Slot], board: Board) -> dict[str, tuple[str, ...]]:
    size = runner.gpus_per_slot
    names = [slot.name for slot in named if not slot.gpus and not slot.mig]
    if not size or not names:
        return {}
    found = {name: gpus for name in names if (gpus := _keep(name, size, board))}
    rest = [name for name in names if name not in found]
    free = board.free_gpus()
    if len(free) < size * len(rest):
        wanted = f"{len(names)} slots want {size} GPUs each" if len(names) > 1 else f"is {size}"
        message = f"{wanted}, {size * len(names)} in all; {len(free) + size * len(found)} are free"
        board.problems.append(Problem(PER_SLOT, message, "give fewer slots, or fewer GPUs to each"))
        return found
    return found | _handed_out(rest, free, size, board)


def _keep(name: str, size: int, board: Board) -> tuple[str, ...]:
    """What the slot has already, when it still can."""
    share = board.current.share(name)
    if share is None or len(share.gpus) != size:
        return ()
    whole = [uuid for uuid in share.gpus if uuid.startswith("GPU-") or board.device(uuid)]
    if len(whole) == size and all(_is_whole_and_free(uuid, board) for uuid in share.gpus):
        return board.take(name, share.gpus)
    return board.take(name, share.gpus) if _keeps_unseen(name, share.gpus, board) else ()


def _is_whole_and_free(uuid: str, board: Board) -> bool:
    device = board.device(uuid)
    return device is not None and device[1] is None and board.is_free(uuid)


def _keeps_unseen(name: str, uuids: Sequence[str], board: Board) -> bool:
    """Whether a slot keeps GPUs of which some do not answer just now: a sick GPU is no missing one."""
    missing = [uuid for uuid in uuids if board.device(uuid) is None]
    others = [uuid for uuid in uuids if uuid not in missing]
    if not missing or not all(board.may_keep(name, uuid) for uuid in missing):
        return False
    if not all(board.is_free(uuid) for uuid in others):
        return False
    for uuid in missing:
        board.note_missing(name, uuid)
    return True


def _handed_out(names: Sequence[str], free: list[Gpu], size: int, board: Board) -> dict[str, tuple[str, ...]]:
    """The best groups; each slot gets the one with most of what it had."""
    if not names:
        return {}
    groups = [[free[index].uuid for index in group] for group in division(free, size=size, count=len(names))]
    found = {}
    for name in names:
        share = board.current.share(name)
        had = set(share.gpus) if share else set()
        best = max(groups, key=lambda group: len(had & set(group)))  # the first of equals
        groups.remove(best)
        found[name] = board.take(name, best)
    return found


def _of_gpus(size: int, board: Board) -> dict[str, tuple[str, ...]]:
    before = [share.name for share in board.current.slots if _is_made(share, MADE)]
    found = {name: gpus for name in before if (gpus := _keep(name, size, board))}
    free = board.free_gpus()
    names = _new_names(MADE, found, len(free) // size)
    found |= _handed_out(names, free, size, board)
    if not found:
        message = f"is {size}, and {len(free)} GPUs of this host are free"
        board.problems.append(Problem(PER_SLOT, message, "give no more than there are"))
    if left := board.free_gpus():
        named = ", ".join(gpu.uuid for gpu in left)
        stay = "1 GPU stays" if len(left) == 1 else f"{len(left)} GPUs stay"
        board.notes.append(f"{stay} without a slot: {named}")
    return found


def _of_parts(profile: str, board: Board) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for share in board.current.slots:
        ours = _is_made(share, MADE_MIG) and len(share.gpus) == 1
        if ours and _keeps_part(profile, share.name, share.gpus[0], board):
            found[share.name] = board.take(share.name, share.gpus)
    free = board.free_parts(profile)
    for name, part in zip(_new_names(MADE_MIG, found, len(free)), free, strict=True):
        found[name] = board.take(name, [part.uuid])
    if not found:
        board.problems.append(_no_part(PROFILE, profile, board))
    return found


def _is_made(share: SlotShare, prefix: str) -> bool:
    number = share.name.removeprefix(prefix)
    return share.origin == "made" and share.name.startswith(prefix) and number.isdigit()


def _new_names(prefix: str, taken: dict[str, tuple[str, ...]], count: int) -> list[str]:
    """The first names of a kind that nobody has."""
    free = (name for number in numbers() if (name := f"{prefix}{number}") not in taken)
    return [next(free) for _ in range(count)]


def _made(found: dict[str, tuple[str, ...]], runner: GithubRunner) -> list[Entry]:
    like = pattern(runner) or Slot(name=DEFAULT_SLOT)
    ordered = sorted(found, key=lambda name: int(name[3:]))
    return [Entry(msgspec.structs.replace(like, name=name, gpus=found[name]), "made") for name in ordered]


# -- with hardware that does not -------------------------------------------------------------------------


def kept_entries(runner: GithubRunner, current: Layout) -> tuple[list[Entry], list[str]]:
    """Every slot with what it has by ``current``; and the slots, or wishes, that have nothing yet."""
    entries, missing = [], []
    for slot in named_slots(runner):
        share = current.share(slot.name)
        if not _fills(runner, slot):
            entries.append(Entry(msgspec.structs.replace(slot, gpus=tuple(map(current.spelt, slot.gpus)))))
        elif share and share.gpus:
            entries.append(Entry(msgspec.structs.replace(slot, gpus=share.gpus), "filled"))
        else:
            missing.append(f"slot {slot.name}")
    for makes, prefix, variable in zip(_makes(runner), (MADE, MADE_MIG), (PER_SLOT, PROFILE), strict=True):
        made = {share.name: share.gpus for share in current.slots if _is_made(share, prefix)}
        if makes:
            entries += _made(made, runner)
            missing += [] if made else [variable]
    return entries, missing
