"""Which of the processes that NVML names belong to a test run. Standard library only.

NVML names processes as the host's first PID namespace does. From inside another one nothing tells which of
them is ours: ``NSpid`` in `/proc/PID/status` has the ids in one's own namespace and below, never above.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["VARIABLE", "Tree", "sees_host_pids", "uses_cuda"]

VARIABLE = "RUNNERCTL_GPU_TEST"  # what a test starts inherits it, and keeps it when its parent has ended
_FIRST_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/uapi/linux/nsfs.h and linux/proc_ns.h
_LONGEST_CHAIN = 64


def sees_host_pids(proc: Path = Path("/proc")) -> bool:
    """Whether this process is in the host's first PID namespace, whose ids are NVML's."""
    try:
        return (proc / "self/ns/pid").stat().st_ino == _FIRST_NAMESPACE
    except OSError:
        return False


class Tree:
    """A process and everything that it started, also what was handed to another parent since."""

    def __init__(self, root: int, token: str, *, proc: Path = Path("/proc")) -> None:
        """``token``: value of `VARIABLE` in the environment of what is started."""
        self._root, self._proc = root, proc
        self._mark = f"{VARIABLE}={token}".encode()
        self._known: dict[tuple[int, int], bool] = {}

    def holds(self, pid: int) -> bool | None:
        """Whether a process is one of them; None when that cannot be known any more."""
        found = self._stat(pid)
        if found is None:
            return _gone(pid)
        key = (pid, found[1])
        if key not in self._known:
            self._known[key] = self._descends(pid) or self._is_marked(pid)
        return self._known[key]

    def _descends(self, pid: int) -> bool:
        for _ in range(_LONGEST_CHAIN):
            if pid == self._root:
                return True
            found = self._stat(pid)
            if found is None or found[0] == 0:
                return False
            pid = found[0]
        return False

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._mark in (self._proc / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def _stat(self, pid: int) -> tuple[int, int] | None:
        """Parent and start time (clock ticks since boot); the name before them may hold anything."""
        try:
            fields = (self._proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return int(fields[1]), int(fields[19])


def _gone(pid: int) -> bool | None:
    """Of a process that /proc does not show: another user's may be hidden there, and is not ours."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    except OSError:
        pass
    return None


def uses_cuda(root: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process, or a child of it, has CUDA's memory device open: then NVML should list it."""
    pids, seen = [root], 0
    while seen < len(pids) < 1000:
        pid, seen = pids[seen], seen + 1
        try:
            for task in (proc / str(pid) / "task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            continue
    return any(_has_open(proc / str(pid) / "fd") for pid in pids)


def _has_open(folder: Path) -> bool:
    try:
        return any(os.readlink(each).startswith("/dev/nvidia-uvm") for each in folder.iterdir())
    except OSError:
        return False
