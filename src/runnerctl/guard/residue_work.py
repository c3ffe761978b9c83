"""The directories that the next job's set-up has looked for already, while the last one is cleaned up behind.

The runner makes `_work/NAME/NAME` before the job-started hook, or finds what an earlier job of the same
repository left (actions/runner, PipelineDirectoryManager). When that is cleared after it was found, the job's
steps would have no directory to start in: an empty one, made anew, takes its place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from itertools import islice
from pathlib import Path

from runnerctl.guard.residue_tree import directory, entries

__all__ = ["put_back", "workspaces"]

_MOST = 64  # repositories whose jobs one slot has run
_MODE = 0o755


def workspaces(work: Path) -> list[str]:
    """The names of the workspaces below `_work`: directories that hold one of their own name."""
    found = []
    with contextlib.suppress(OSError), directory(work) as folder:
        for name, _ in islice(entries(folder), 64 * _MOST):
            with (
                contextlib.suppress(OSError),
                directory(name, within=folder) as outer,
                directory(name, within=outer),
            ):
                found.append(name)
            if len(found) == _MOST:
                break
    return found


def put_back(work: Path, names: Collection[str], *, uid: int, gid: int) -> None:
    """Make those that are gone, empty and the job's user's; where that fails, the runner complains."""
    with contextlib.suppress(OSError), directory(work) as folder:
        for name in names:
            with contextlib.suppress(OSError):
                _make(folder, name, uid=uid, gid=gid)
                with directory(name, within=folder) as outer:
                    _make(outer, name, uid=uid, gid=gid)


def _make(folder: int, name: str, *, uid: int, gid: int) -> None:
    """A directory of the user's, unless something is there."""
    try:
        os.mkdir(name, mode=_MODE, dir_fd=folder)
    except FileExistsError:
        return
    with directory(name, within=folder) as made:
        # It stands where its owner may rename things: only what is root's and empty is given away.
        if os.fstat(made).st_uid == os.geteuid() and not os.listdir(made):
            os.fchown(made, uid, gid)
