"""What a slot's files look like from outside: owners, modes, sizes. Never what stands in them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from runnerctl.core.reading import Taken

__all__ = ["PathFact", "ReleaseFiles", "SlotFiles"]


class PathFact(msgspec.Struct, frozen=True):
    """A file or directory, by its metadata. ``path`` is relative to the slot's root (``.``: the root itself).

    ``kind``: file, directory, other, or absent. ``whole`` tells of a JSON file whether it can be parsed.
    """

    path: str
    kind: str
    uid: int = 0
    gid: int = 0
    mode: int = 0
    size_bytes: int = 0
    whole: bool | None = None


class ReleaseFiles(msgspec.Struct, frozen=True):
    """What is wrong with the runner's programs below ``path``: names relative to it.

    ``foreign``: not root's, or writable by others than root, so that a job may have replaced it.
    """

    path: str
    present: bool = True
    missing: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    not_executable: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


class SlotFiles(Taken, frozen=True):
    """A slot's user, directories, credential files and programs. ``uid``: None without such a user.

    ``worker_log_at``: when a worker last wrote to its log, None where none ever did.
    """

    user: str
    uid: int | None = None
    gid: int | None = None
    folders: tuple[PathFact, ...] = ()
    credentials: tuple[PathFact, ...] = ()
    release: ReleaseFiles | None = None
    worker_log_at: datetime | None = None

    def folder(self, path: str) -> PathFact | None:
        """The facts of a directory; None where it was not looked at."""
        return next((fact for fact in self.folders if fact.path == path), None)
