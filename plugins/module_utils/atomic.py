"""Files and links that are either the old ones or the new ones, never in between.

Each function reads first, changes only what differs, and changes nothing at all when ``check`` is set.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import tempfile
from dataclasses import dataclass
from typing import Any

from .errors import HostError

__all__ = ["Change", "atomic_link", "atomic_write", "sync_directory", "sync_file_system"]


@dataclass(frozen=True)
class Change:
    """What one step did, or in check mode would do. ``before`` and ``after`` are text for a diff."""

    path: str
    changed: bool
    before: str = ""
    after: str = ""

    def diff(self) -> dict[str, Any]:
        """The change in the shape that Ansible's diff mode prints."""
        return {
            "before_header": self.path,
            "after_header": self.path,
            "before": self.before,
            "after": self.after,
        }


def atomic_write(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    mode: int = 0o644,
    check: bool = False,
) -> Change:
    """Give ``path`` this content and mode, and this process's user and group.

    Raises HostError when it cannot be written.
    """
    path, uid, gid = os.fspath(path), os.geteuid(), os.getegid()
    old, status = _read(path)
    same_data = old == data
    same = same_data and status is not None and _attributes(status) == (mode, uid, gid)
    change = Change(
        path,
        not same,
        before=_shown(old, status),
        after=_described(data, mode, uid, gid) if not same else _shown(old, status),
    )
    if same or check:
        return change
    try:
        _replace(path, data, mode=mode, uid=uid, gid=gid)
    except OSError as error:
        raise HostError(f"cannot be written: {error.strerror}", where=path) from error
    return change


def atomic_link(path: str | os.PathLike[str], target: str, *, check: bool = False) -> Change:
    """Make ``path`` a symbolic link to ``target``; an older link is switched in one step.

    Raises HostError when something that is no link stands there.
    """
    path, old = os.fspath(path), ""
    if os.path.islink(path):
        old = os.readlink(path)
    elif os.path.lexists(path):
        raise HostError("is in the way: it is no symbolic link", where=path, remedy="move it away")
    change = Change(
        path, old != target, before=f"link to {old}\n" if old else "", after=f"link to {target}\n"
    )
    if not change.changed or check:
        return change
    temporary = f"{path}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.rename(temporary, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        raise HostError(f"cannot be linked: {error.strerror}", where=path) from error
    return change


def sync_directory(path: str) -> None:
    """Make a rename in ``path`` survive a power cut."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: str) -> None:
    """Put everything written to the file system of ``path`` on the disk; one call for many files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def _read(path: str) -> tuple[bytes | None, os.stat_result | None]:
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise HostError("is in the way: it is a directory", where=path, remedy="move it away")
            return None, None  # a link or a device: replaced, never written through
        with open(path, "rb") as file:
            return file.read(), status
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise HostError(f"cannot be read: {error.strerror}", where=path) from error


def _replace(path: str, data: bytes, *, mode: int, uid: int, gid: int) -> None:
    directory = os.path.dirname(path) or "."
    os.makedirs(directory, 0o755, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


def _attributes(status: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def _line(mode: int, uid: int, gid: int) -> str:
    return f"# mode {mode:04o}, owner {uid}:{gid}\n"


def _described(data: bytes, mode: int, uid: int, gid: int) -> str:
    return _line(mode, uid, gid) + data.decode("utf-8", "replace")


def _shown(data: bytes | None, status: os.stat_result | None) -> str:
    return "" if data is None or status is None else _described(data, *_attributes(status))
