"""A slot that gets another mode, and one that is to begin no further job. Standard library only."""

from __future__ import annotations

import json
import time

from .atomic import atomic_write
from .hold import Cause, Holds
from .slot_files import Layout
from .slot_modes import back_off_file, slot_state, unit_of
from .slot_register import CREDENTIAL_FILES
from .slot_system import System, remove_tree

__all__ = ["RETIRED", "leave_mode", "retire"]

RETIRED = "removal"  # whose hold it is


def retire(layout: Layout, system: System, slot: str) -> None:
    """Keep an ephemeral slot from getting a registration for another job; the job that runs is left alone.

    Its record can then be deleted: a listener whose record is gone ends, and none follows it.
    """
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    Holds(layout, system).add(slot, Cause(RETIRED, "the slot is being changed or removed", since))


def leave_mode(layout: Layout, system: System, slot: str, *, mode: str) -> None:
    """Stop the slot as it was, and note the mode that it has from now on; nobody else's record is touched.

    It can be run again after a kill: the mode is noted last. Raises HostError.
    """
    unit = unit_of(layout, slot)
    system.systemctl("disable", "--now", "--quiet", unit, seconds=360)
    system.kill_all_of(f"gha-{slot}")
    system.forget_failure(unit)
    remove_tree(layout.units / f"{unit}.d")
    for name in (*CREDENTIAL_FILES, ".service"):
        (layout.slot_root(slot) / name).unlink(missing_ok=True)
    for path in (back_off_file(layout, slot), layout.path(f"/etc/runnerctl/mint/{slot}.json")):
        path.unlink(missing_ok=True)
    state = slot_state(layout, slot) | {"mode": mode, "agent_id": None, "registering": False, "adopted": None}
    atomic_write(str(layout.state("slots", slot)), (json.dumps(state, indent=2) + "\n").encode())
    Holds(layout, system).drop(slot, RETIRED)
