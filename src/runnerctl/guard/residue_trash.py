"""A place of root's beside what a job wrote: things are renamed into it at once and deleted at leisure.

It stands in the slot's root, which no job can write to, and on the same file system. A process that is killed
while it deletes leaves the rest to the next one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from runnerctl.guard.residue_tree import directory, empty

__all__ = ["TRASH", "Trash", "main", "unfinished"]

TRASH = ".trash"
_NEW, _NEW_SECONDS = "new-", 3600.0  # nothing else in the trash has such a name


class Trash:
    """The trash of every slot, and the one process that empties it."""

    def __init__(self) -> None:
        self._running: dict[Path, subprocess.Popen[bytes]] = {}

    @contextlib.contextmanager
    def opened(self, root: Path) -> Iterator[int]:
        """The trash of a slot's root, made if need be. Raises OSError when it is not root's alone."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(root / TRASH, 0o700)
        with directory(root / TRASH) as folder:
            status = os.fstat(folder)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                os.fchown(folder, os.geteuid(), os.getegid())
                os.fchmod(folder, 0o700)
            yield folder

    def replace(self, root: Path, name: str, *, uid: int, gid: int) -> None:
        """Put a new empty directory, 0700 of ``uid``, in place of ``root/name``. Raises OSError."""
        new, old = f"{_NEW}{secrets.token_hex(8)}", secrets.token_hex(8)
        with directory(root) as parent, self.opened(root) as trash:
            os.mkdir(new, 0o700, dir_fd=trash)
            os.chown(new, uid, gid, dir_fd=trash, follow_symlinks=False)
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, old, src_dir_fd=parent, dst_dir_fd=trash)
            os.rename(new, name, src_dir_fd=trash, dst_dir_fd=parent)

    def empty_later(self, root: Path) -> None:
        """Empty a slot's trash in a process of its own, which has all the time it needs."""
        running = self._running.get(root)
        if running is not None and running.poll() is None:
            return  # it looks again before it ends
        with contextlib.suppress(FileNotFoundError):
            if not os.listdir(root / TRASH):
                return
            argv = [sys.executable, "-I", "-m", "runnerctl.guard.residue_trash", str(root)]
            self._running[root] = subprocess.Popen(
                argv,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )


def unfinished(name: str, status: os.stat_result) -> bool:
    """Whether something in the trash is a new directory on its way to its place: it is not to be emptied."""
    return name.startswith(_NEW) and time.time() - status.st_ctime < _NEW_SECONDS


def main(arguments: list[str]) -> int:
    """Empty the trash of the slots' roots named, slowly: others come first."""
    os.nice(19)
    for root in arguments:
        with contextlib.suppress(FileNotFoundError), directory(Path(root) / TRASH) as folder:
            while empty(folder, keep=unfinished).gone:
                pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
