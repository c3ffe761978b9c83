"""Processes and control groups as the kernel tells of them, without touching a process's own memory.

``cmdline`` and ``environ`` are memory of the process: reading them may wait for whoever serves that memory.
Nothing here reads them, so nothing here can be held up by a job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Kernel", "Process"]

_MOST_GROUPS = 512
_DEEPEST_GROUP = 8
_MOST_BYTES = 4 * 1024 * 1024
_LONGEST_CHAIN = 64


class Process(NamedTuple):
    """One process; ``started``: clock ticks after boot, which with the id names it for good (proc(5))."""

    pid: int
    started: int
    parent: int
    comm: str
    state: str = ""


class Kernel:
    """/proc and /sys/fs/cgroup, below ``root``; version 1 and 2."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.proc = str(root / "proc")
        self.groups = str(root / "sys/fs/cgroup")

    def process(self, pid: int) -> Process | None:
        """A process by its id; None when there is none, or it has ended and waits to be collected."""
        data = _read(f"{self.proc}/{pid}/stat", 4096)
        head, _, tail = data.rpartition(b")")
        fields = tail.split()
        if len(fields) < 20 or fields[0] in (b"Z", b"X"):
            return None
        comm = head.partition(b"(")[2].decode("utf-8", "replace")
        return Process(pid, int(fields[19]), int(fields[1]), comm, fields[0].decode("ascii", "replace"))

    def began_at(self, process: Process) -> float:
        """When a process began, in seconds since the epoch, to a hundredth."""
        up = float(_read(f"{self.proc}/uptime", 64).split()[0])
        return time.time() - up + process.started / os.sysconf("SC_CLK_TCK")

    def lives(self, process: Process) -> bool:
        """Whether it is still the very same process."""
        now = self.process(process.pid)
        return now is not None and now.started == process.started

    def program(self, pid: int) -> str:
        """The path of what a process executes; empty when that cannot be told (a kernel thread, gone)."""
        try:
            return os.readlink(f"{self.proc}/{pid}/exe")
        except (OSError, ValueError):
            return ""

    def group(self, pid: int) -> str:
        """The path of a process's control group in systemd's own hierarchy; empty when it is gone."""
        unified = ""
        for line in _read(f"{self.proc}/{pid}/cgroup", 65536).decode("utf-8", "replace").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controllers == "name=systemd":
                return path
            if number == "0" and not controllers:
                unified = path
        return unified

    def place(self, group: str) -> str:
        """The directory of a control group; empty when there is none."""
        for mount in ("", "/systemd", "/unified"):
            path = f"{self.groups}{mount}{group}"
            if group.startswith("/") and os.path.isfile(f"{path}/cgroup.procs"):
                return path
        return ""

    def members(self, place: str) -> list[int]:
        """The processes of a control group and of those below it, as many as are looked through."""
        found = _numbers(_read(f"{place}/cgroup.procs", _MOST_BYTES))
        for count, folder in enumerate(_below(place, _DEEPEST_GROUP)):
            if count >= _MOST_GROUPS:
                break
            found += _numbers(_read(f"{folder}/cgroup.procs", _MOST_BYTES))
        return found

    def ancestors(self, pid: int) -> list[Process]:
        """A process and its parents up to the first of all, at most so many; none when it is gone."""
        found: list[Process] = []
        while pid > 1 and len(found) < _LONGEST_CHAIN:
            process = self.process(pid)
            if process is None:
                break
            found.append(process)
            pid = process.parent
        return found

    def kill(self, process: Process, *, within: str | None) -> bool:
        """End this very process, if it still is in the control group ``within``; whether it was signalled.

        None: wherever it is. Never another one that has got its id meanwhile.
        """
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return False
        except (OSError, AttributeError):  # Linux before 5.3
            handle = -1
        try:
            group = self.group(process.pid) if within is not None else None
            inside = group is None or group == within or group.startswith(f"{within}/")
            if not self.lives(process) or not inside:
                return False
            if handle >= 0:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            else:
                os.kill(process.pid, signal.SIGKILL)
            return True
        except OSError:
            return False
        finally:
            if handle >= 0:
                os.close(handle)


def _read(path: str, limit: int) -> bytes:
    """A file of the kernel's; empty when it cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts, size = [], 0
        while size < limit and (part := os.read(handle, 65536)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(handle)


def _numbers(data: bytes) -> list[int]:
    return [int(word) for word in data.split() if word.isdigit()]


def _below(place: str, depth: int) -> Iterator[str]:
    """The control groups below one; a cheap look tells that there is none (two links: itself and ``..``)."""
    if depth == 0:
        return
    folders: list[str] = []
    with contextlib.suppress(OSError):
        if os.stat(place).st_nlink <= 2:
            return
        with os.scandir(place) as entries:
            folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in folders[:_MOST_GROUPS]:
        yield folder
        yield from _below(folder, depth - 1)
