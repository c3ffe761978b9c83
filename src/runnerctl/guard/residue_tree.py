"""Remove what a job wrote, as root, without ever being led out of the directory it is in.

A job chooses every name, link, depth and mode below its directories, and may change them meanwhile. So a
directory is opened once, without following a link, and all that follows goes through that descriptor: names
are only unlinked, renamed or opened again in the same way, nothing is followed, no owner or mode is changed,
and no other file system is entered. Directories of directories are first moved up: no depth is too deep.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator

__all__ = ["Keep", "Swept", "directory", "empty", "entries", "move_all", "nothing"]

# linux/fs.h: FS_IOC_GETFLAGS and FS_IOC_SETFLAGS for a 64-bit long, FS_IMMUTABLE_FL, FS_APPEND_FL.
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_LOCKED = 0x10 | 0x20
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
Keep = Callable[[str, os.stat_result], bool]


def nothing(_name: str, _status: os.stat_result) -> bool:
    """Keeps nothing."""
    return False


class Swept:
    """What a sweep did: how many entries went, and the names of those that stayed, with why."""

    def __init__(self) -> None:
        self.gone = 0
        self.stayed: dict[str, str] = {}


@contextlib.contextmanager
def directory(path: str | os.PathLike[str], *, within: int | None = None) -> Iterator[int]:
    """Open a directory that is no link; its parents must be root's. Raises OSError."""
    handle = os.open(path, _OPEN, dir_fd=within)
    try:
        yield handle
    finally:
        os.close(handle)


def entries(folder: int, keep: Keep = nothing) -> Iterator[tuple[str, os.stat_result]]:
    """The entries of an open directory that are not to be kept; one that goes meanwhile is left out.

    They are read as they are asked for: a job can make more of them than fit into memory.
    """
    with os.scandir(folder) as found:
        for entry in found:
            try:
                status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue
                raise
            if not keep(entry.name, status):
                yield entry.name, status


def move_all(folder: int, trash: int, *, keep: Keep = nothing, deadline: float) -> Swept:
    """Move entries into ``trash``, a directory of root's; what is on another file system goes in place.

    ``deadline``: on the monotonic clock. Never raises for what a job did.
    """
    swept = Swept()
    for name, _ in _listed(folder, keep, swept):
        if time.monotonic() > deadline:
            swept.stayed["..."] = "there is more than can be moved in time"
            break
        try:
            _move(folder, name, trash)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EXDEV:
                swept.stayed[name] = error.strerror or str(error)
                continue
            if reason := _remove(folder, name, os.fstat(folder).st_dev, deadline):
                swept.stayed[name] = reason
                continue
        swept.gone += 1
    return swept


def empty(
    folder: int, *, keep: Keep = nothing, deadline: float = float("inf"), owner: int | None = None
) -> Swept:
    """Remove entries of an open directory where they are. Never raises for what a job did.

    ``owner``: of directories, only those of this user, whatever took a name's place meanwhile.
    """
    swept, device = Swept(), os.fstat(folder).st_dev
    for name, _ in _listed(folder, keep, swept):
        if reason := _remove(folder, name, device, deadline, owner):
            swept.stayed[name] = reason
        else:
            swept.gone += 1
    return swept


def _listed(folder: int, keep: Keep, swept: Swept) -> Iterator[tuple[str, os.stat_result]]:
    try:
        yield from entries(folder, keep)
    except OSError as error:
        swept.stayed["..."] = f"cannot be listed: {error.strerror}"


def _remove(folder: int, name: str, device: int, deadline: float, owner: int | None = None) -> str:
    """Remove one entry with all that is below it; returns why that was not possible, or nothing."""
    try:
        _unlink(folder, name)
        return ""
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            return error.strerror or str(error)
    try:
        with directory(name, within=folder) as inner:
            status = os.fstat(inner)
            if status.st_dev != device:
                return "is a file system of its own"
            if owner not in (None, status.st_uid):
                return "was replaced"
            reason = _clear(inner, device, deadline)
        if not reason:
            _patiently(folder, name, lambda: os.rmdir(name, dir_fd=folder))
        return reason
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)


def _clear(top: int, device: int, deadline: float) -> str:
    """Empty a directory however deep it is: what is below its directories is moved up into it first."""
    _unlock(top)
    while True:
        left = False
        with os.scandir(top) as found:
            for entry in found:
                if time.monotonic() > deadline:
                    return "there is more than can be removed in time"
                if not entry.is_dir(follow_symlinks=False):
                    _unlink(top, entry.name)
                else:
                    left |= _lift(top, entry.name, device)
        if not left:
            return ""


def _lift(top: int, name: str, device: int) -> bool:
    """Empty one directory below ``top``; its directories move up. Whether any did. Raises OSError."""
    lifted = False
    with directory(name, within=top) as inner:
        if os.fstat(inner).st_dev != device:
            raise OSError(errno.EXDEV, "holds a file system of its own")
        with os.scandir(inner) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    lifted = True
                    with contextlib.suppress(FileNotFoundError):
                        _move(inner, entry.name, top)
                else:
                    _unlink(inner, entry.name)
    with contextlib.suppress(FileNotFoundError):
        _patiently(top, name, lambda: os.rmdir(name, dir_fd=top))
    return lifted


def _move(folder: int, name: str, target: int) -> None:
    _patiently(folder, name, lambda: os.rename(name, _new(), src_dir_fd=folder, dst_dir_fd=target))


def _unlink(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _patiently(folder, name, lambda: os.unlink(name, dir_fd=folder))


def _patiently(folder: int, name: str, act: Callable[[], None]) -> None:
    """Do it; where flags of the file system forbid it, take them off and do it again. Raises OSError."""
    try:
        act()
    except PermissionError:
        _unlock(folder)
        with contextlib.suppress(OSError):
            kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
                handle = os.open(
                    name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
                )
                try:
                    _unlock(handle)
                finally:
                    os.close(handle)
        act()


def _unlock(handle: int) -> None:
    """Take the flags "immutable" and "append only" off a file, where its file system has such."""
    flags = array.array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(handle, _GET_FLAGS, flags, True)
        if flags[0] & _LOCKED:
            flags[0] &= ~_LOCKED
            fcntl.ioctl(handle, _SET_FLAGS, flags, True)


def _new() -> str:
    """A name that nothing has."""
    return f".runnerctl-{secrets.token_hex(12)}"
