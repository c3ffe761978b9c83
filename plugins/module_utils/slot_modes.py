"""A slot's mode as its host knows it, and what follows from it: which unit runs its listener.

Standard library only. The state file says what a slot is now, the spec what it should become.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .slot_files import MODES, Layout, unit_name

__all__ = [
    "EPHEMERAL",
    "PERSISTENT",
    "SLOT_OF_UNIT",
    "at_once",
    "back_off_file",
    "is_ephemeral",
    "mode_of",
    "slot_state",
    "start_words",
    "unit_of",
    "units_of",
]

PERSISTENT, EPHEMERAL = "persistent", "ephemeral"
# A slot's unit anywhere in a path or a line: control groups, the journal, drop-ins.
SLOT_OF_UNIT = re.compile(rf"(?:{'|'.join(MODES.values())})@([a-z0-9-]+)\.service")


def slot_state(layout: Layout, slot: str) -> dict[str, Any]:
    """What was written down about a slot; empty where nothing was, or nothing that can be read."""
    try:
        data = json.loads(layout.state("slots", slot).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def mode_of(layout: Layout, slot: str) -> str:
    """The mode a slot has on this host; without a word of it, the one that every slot once had."""
    mode = slot_state(layout, slot).get("mode")
    return mode if mode in MODES else PERSISTENT


def is_ephemeral(layout: Layout, slot: str) -> bool:
    """Whether the slot registers anew for each job."""
    return mode_of(layout, slot) == EPHEMERAL


def unit_of(layout: Layout, slot: str) -> str:
    """The unit that runs the slot's listener on this host."""
    return unit_name(slot, mode_of(layout, slot))


def units_of(slot: str) -> list[str]:
    """Every unit that may run a slot's listener, whatever its mode."""
    return [unit_name(slot, mode) for mode in MODES]


def start_words(unit: str, verb: str = "start") -> list[str]:
    """The words for systemctl: an ephemeral slot is not waited for, since it waits for GitHub itself."""
    waits = unit.startswith(f"{MODES[EPHEMERAL]}@")
    return [verb, "--no-block", unit] if waits else [verb, unit]


def at_once(layout: Layout, slot: str, verb: str = "start") -> list[str]:
    """The words for systemctl by which somebody starts a slot: what failed before is tried again at once."""
    back_off_file(layout, slot).unlink(missing_ok=True)
    return start_words(unit_of(layout, slot), verb)


def back_off_file(layout: Layout, slot: str) -> Path:
    """Where a slot that cannot get its next registration notes why, and when it tries again."""
    return layout.path(f"/var/lib/runnerctl/minting/{slot}.json")
