"""Put the logs of jobs that have ended where only root reads them.

A job can write to ``_diag`` whatever it wants: only plain files of the runner's own names are kept, each and
all of them bounded; the rest is thrown away with everything else.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from runnerctl.guard.residue_tree import directory

__all__ = ["MOST_BYTES", "STEPS", "archive", "open_files"]

MOST_BYTES = 64 * 1024 * 1024  # of one job
_MOST_FILES = 200
# Of one slot, whatever its jobs write, until `runnerctl clean` keeps to the host's own budget.
STORE_BYTES, _STORE_FILES = 2 * 1024**3, 20000
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# actions/runner: one log for each job, one for each start of the listener, a job's steps.
_NAME = re.compile(r"(Worker|Runner)_[0-9]{8}-[0-9]{6}-utc(\.[0-9]{1,4})?\.log")
_PAGE = re.compile(r"[0-9A-Za-z._-]{1,120}")
STEPS = ("pages", "blocks")


def archive(diag: int, target: Path, *, stay: Collection[tuple[int, int]], before: float) -> int:
    """Move logs out of an open ``_diag`` into ``target``; how many. ``stay``: files (device, inode) in use.

    Only what was last changed before ``before`` (epoch). Raises OSError when ``target`` cannot be made.
    """
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    moved, left = 0, MOST_BYTES
    with directory(target) as store:
        os.fchmod(store, 0o700)
        _make_room(store)
        for folder, name, status in _logs(diag):
            known = (status.st_dev, status.st_ino) in stay or status.st_ctime >= before
            if known or status.st_size > left or moved >= _MOST_FILES:
                continue
            wanted = name if folder == diag else f"step-{name}"
            if _move(folder, name, store, _free(store, wanted)):
                moved, left = moved + 1, left - status.st_size
    return moved


def _make_room(store: int) -> None:
    """Let the oldest logs go, so that another job's fit: many small jobs must not fill the host's disk."""
    with os.scandir(store) as entries:
        known = [(entry.stat(follow_symlinks=False), entry.name) for entry in entries]
    size = sum(status.st_size for status, _ in known)
    oldest = sorted((status.st_ctime_ns, name, status.st_size) for status, name in known)
    for number, (_, name, bytes_) in enumerate(oldest):
        if size <= STORE_BYTES - MOST_BYTES and len(oldest) - number <= _STORE_FILES - _MOST_FILES:
            return
        os.unlink(name, dir_fd=store)
        size -= bytes_


def open_files(pid: int) -> set[tuple[int, int]]:
    """The files (device, inode) that a process has open."""
    found = set()
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith("/"):
                    status = os.stat(entry.path)
                    found.add((status.st_dev, status.st_ino))
    return found


def _logs(diag: int) -> Iterator[tuple[int, str, os.stat_result]]:
    yield from _files(diag, _NAME)
    for name in STEPS:
        with contextlib.suppress(OSError), directory(name, within=diag) as folder:
            yield from _files(folder, _PAGE)


def _files(folder: int, pattern: re.Pattern[str]) -> Iterator[tuple[int, str, os.stat_result]]:
    """Plain files with one name alone, of fitting names."""
    with os.scandir(folder) as entries:
        fitting = (entry.name for entry in entries if pattern.fullmatch(entry.name))
        names = heapq.nsmallest(4 * _MOST_FILES, fitting)
    for name in names:
        with contextlib.suppress(OSError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                yield folder, name, status


def _move(folder: int, name: str, store: int, free: str) -> bool:
    """Rename it, or copy it where the store is on another file system; whether that was done."""
    try:
        os.rename(name, free, src_dir_fd=folder, dst_dir_fd=store)
        os.chown(free, os.geteuid(), os.getegid(), dir_fd=store, follow_symlinks=False)
        return True
    except OSError as error:
        if error.errno != errno.EXDEV:
            return False
    try:
        with open(os.open(name, _OPEN, dir_fd=folder), "rb") as reading:
            return _copy(reading, free, store)
    except OSError:
        return False


def _copy(reading: BinaryIO, name: str, store: int) -> bool:
    """Copy an open file, as it is now and not more than the bound; it is whole or not there."""
    status, part = os.fstat(reading.fileno()), f".{name}"
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
        return False
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(part, flags, 0o600, dir_fd=store), "wb") as writing:
        writing.write(reading.read(status.st_size))
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=store)
    os.rename(part, name, src_dir_fd=store, dst_dir_fd=store)
    return True


def _free(store: int, name: str) -> str:
    """A name that no log has yet: those of earlier jobs are never replaced."""
    taken, number, free = set(os.listdir(store)), 1, name
    while free in taken:
        number, free = number + 1, f"{name}.{number}"
    return free
