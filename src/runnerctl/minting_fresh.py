"""Everything of an ephemeral slot made new, while nothing of it runs.

Root's unit ``gha-fresh@SLOT.service`` runs it as ``python -I -m runnerctl.minting_fresh SLOT``, beside the
one that mints.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout, unit_name
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

from runnerctl.errors import RunnerctlError
from runnerctl.minting import Ticket, read_ticket

__all__ = ["freshen", "main", "new_directories"]

FOLDERS = ("_work", "_diag", "home")
LOGS = "/var/lib/runnerctl/logs"


def freshen(layout: Layout, ticket: Ticket, *, system: System | None = None) -> tuple[str, ...]:
    """End what runs as the slot's user and give it new, empty directories; returns what could not be removed.

    What a job left elsewhere on the host is the cleaner's. Raises HostError or OSError.
    """
    host = system or System()
    user = f"gha-{ticket.slot}"
    host.kill_all_of(user)
    uid, gid = host.ids(user)
    remains = _clean(layout, ticket, user=user, uid=uid, gid=gid)
    new_directories(layout, ticket.slot, uid=uid, gid=gid)
    return remains


def _clean(layout: Layout, ticket: Ticket, *, user: str, uid: int, gid: int) -> tuple[str, ...]:
    from runnerctl.guard.ports import SlotPlace
    from runnerctl.guard.residue import HostCleaner

    residue = HostCleaner().fresh(
        SlotPlace(
            name=ticket.slot,
            user=user,
            uid=uid,
            gid=gid,
            root=layout.slot_root(ticket.slot),
            # Of its own unit only root's command that waits for us is left: systemd has ended all others.
            unit=unit_name(ticket.slot, "persistent"),
            mode="ephemeral",
            gpus=ticket.gpus,
            containers=ticket.containers,
        )
    )
    return residue.remains


def new_directories(layout: Layout, slot: str, *, uid: int, gid: int) -> None:
    """Put what jobs wrote aside, to be deleted at leisure, and make it anew; logs go to root's place."""
    root = layout.slot_root(slot)
    for folder in FOLDERS:
        path = root / folder
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            path.unlink()
        elif path.is_dir() and not _is_new(path, uid=uid, gid=gid):
            if folder == "_diag":
                _keep_logs(layout, slot, path)
            path.rename(root / f".old-{folder}-{time.time_ns()}")
        if not path.is_dir():
            path.mkdir(mode=0o700)
            os.chown(path, uid, gid, follow_symlinks=False)


def _is_new(path: Path, *, uid: int, gid: int) -> bool:
    status = path.stat()
    wanted = (uid, gid, 0o700)
    return (status.st_uid, status.st_gid, status.st_mode & 0o7777) == wanted and not any(path.iterdir())


def _keep_logs(layout: Layout, slot: str, folder: Path) -> None:
    """A job chose what these names point at: only plain files with one link are kept."""
    target = layout.path(f"{LOGS}/{slot}")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for entry in os.scandir(folder):
        status = entry.stat(follow_symlinks=False)
        if entry.is_file(follow_symlinks=False) and status.st_nlink == 1 and entry.name.endswith(".log"):
            os.rename(entry.path, target / entry.name)
            os.chown(target / entry.name, 0, 0, follow_symlinks=False)
            (target / entry.name).chmod(0o600)


def main(arguments: list[str]) -> int:
    """Make one slot new; what could not be removed is said. Returns the exit code."""
    layout = Layout()
    try:
        remains = freshen(layout, read_ticket(layout, arguments[0]))
    except (RunnerctlError, HostError, OSError) as error:
        print(f"runnerctl: slot {arguments[0]} is not new: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    for line in remains:
        print(f"runnerctl: could not be removed: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
