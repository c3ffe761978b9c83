"""Files of a store: written at once or not at all, made read-only, measured, removed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Measure", "harden", "measure", "remove_tree", "sync_disk", "walk", "write_file"]

FORBIDDEN = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX | 0o222
Measure = tuple[int, int]  # files (everything but directories), bytes of data, each inode once


def write_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace ``path`` (mode 0644) so that nobody ever sees half of it, not after a power cut either."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, 0o644)
            if sync:
                file.flush()
                os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_disk(path: Path) -> None:
    """Everything written to the file system of ``path`` is on its disk when this returns (syncfs(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    except AttributeError:  # a C library without it
        os.sync()
    finally:
        os.close(descriptor)


def walk(top: Path) -> Iterator[os.DirEntry[str]]:
    """Every entry below ``top``, a directory before what is in it; links are not followed.

    What vanishes meanwhile is passed over.
    """
    todo = [str(top)]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in found:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)


def harden(prefix: Path) -> Measure:
    """Nobody may write below ``prefix``, everybody may read it, nothing runs as somebody else.

    Files that may be executed by their owner may be by all. Raises OSError.
    """
    files, size, seen = 0, 0, set()
    for entry in walk(prefix):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            files += 1
            continue
        executable = 0o111 if stat.S_ISDIR(status.st_mode) or status.st_mode & 0o111 else 0
        mode = (stat.S_IMODE(status.st_mode) | 0o444 | executable) & ~FORBIDDEN
        if mode != stat.S_IMODE(status.st_mode):
            os.chmod(entry.path, mode)
        if stat.S_ISDIR(status.st_mode):
            continue
        files += 1
        if status.st_ino not in seen:
            size += status.st_size
        if status.st_nlink > 1:
            seen.add(status.st_ino)
    prefix.chmod(0o555)
    return files, size


def measure(top: Path) -> Measure:
    """What is below ``top``, as `harden` counts it. Raises OSError for what may not be read."""
    files, size, seen = 0, 0, set()
    for entry in walk(top):
        if entry.is_dir(follow_symlinks=False):
            continue
        files += 1
        if entry.is_symlink():
            continue
        status = entry.stat(follow_symlinks=False)
        if status.st_ino not in seen:
            size += status.st_size
        if status.st_nlink > 1:
            seen.add(status.st_ino)
    return files, size


def remove_tree(top: Path) -> None:
    """Remove ``top``, read-only directories too; good to run again and beside itself. Raises OSError."""
    if top.is_symlink() or not top.is_dir():
        with contextlib.suppress(FileNotFoundError):
            top.unlink()
        return
    directories, todo = [], [str(top)]
    while todo:
        path = todo.pop()
        directories.append(path)
        with contextlib.suppress(FileNotFoundError):
            os.chmod(path, 0o700)
            with os.scandir(path) as entries:
                found = list(entries)
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                    continue
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)
    for path in reversed(directories):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)
