"""Make attempts from within a running unit: its control groups, its namespaces, its user, and no more.

A sibling unit with the same settings would prove the settings. This enters what really runs: whatever was
added to the unit since it started, or is missing from it, counts.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from runnerctl.core.isolation import Attempt, Status, Tried
from runnerctl.core.reading import Unavailable
from runnerctl.probes.bounded import Report, Task, run_all
from runnerctl.probes.isolation_attempts import attempt

__all__ = ["SECONDS", "parse_status", "processes_of", "read_status", "try_all"]

SECONDS = 30.0
_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
# In this order: with the user namespace the right to enter the others is gone.
_NAMESPACES = ("cgroup", "ipc", "uts", "net", "mnt", "user")
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _LAST_CAPABILITY = 24, 38, 63


def try_all(
    plans: Mapping[str, tuple[int, Sequence[Attempt]]], *, seconds: float = SECONDS
) -> dict[str, tuple[Tried, ...] | Unavailable]:
    """Slot -> what became of its attempts, all slots at once; ``plans`` gives the unit's main process."""
    tasks = {
        slot: Task(partial(_inside, pid=pid, attempts=tuple(attempts)), seconds)
        for slot, (pid, attempts) in plans.items()
    }
    found: dict[str, tuple[Tried, ...] | Unavailable] = {}
    for slot, outcome in run_all(tasks).items():
        tried = tuple(Tried(each, *part) for each, part in zip(plans[slot][1], outcome.parts, strict=False))
        found[slot] = outcome.failure or tried
    return found


def _inside(report: Report, *, pid: int, attempts: Sequence[Attempt]) -> None:
    """In a child: become what a job is, then try."""
    report.stage("entering the unit")
    _enter(pid)
    for each in attempts:
        report.stage(f"{each.kind} {each.target}")
        report.part(attempt(each.kind, each.target))


def _enter(pid: int) -> None:
    """Control groups, namespaces, groups, user; then no way back. Raises OSError."""
    status = read_status(pid)
    if status is None:
        raise OSError(f"process {pid} has ended")
    handles = _namespaces(pid)
    for procs in _procs_files(pid):
        procs.write_text("0")
    if read_status(pid) != status:
        raise OSError(f"process {pid} has ended")
    os.setgroups(list(status.groups))
    for handle in handles:
        if _LIBC.setns(handle, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"a namespace cannot be entered: {os.strerror(number)}")
        os.close(handle)
    os.chdir("/")
    for capability in range(_LAST_CAPABILITY + 1):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setresgid(status.gid, status.gid, status.gid)
    os.setresuid(status.uid, status.uid, status.uid)
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _namespaces(pid: int) -> list[int]:
    """Handles of those namespaces of a process that are not ours already."""
    handles = []
    for name in _NAMESPACES:
        theirs = _PROC / str(pid) / "ns" / name
        if theirs.exists() and os.readlink(theirs) != os.readlink(_PROC / "self/ns" / name):
            handles.append(os.open(theirs, os.O_RDONLY | os.O_CLOEXEC))
    return handles


def _procs_files(pid: int) -> list[Path]:
    """Where to write oneself down to be in the control groups of a process; never into a frozen one."""
    files = []
    for line in (_PROC / str(pid) / "cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "freezer" or group == "/":
            continue
        name = controllers.removeprefix("name=")
        roots = [_GROUPS / name] if controllers else [_GROUPS / "unified", _GROUPS]
        found = [root / group.lstrip("/") / "cgroup.procs" for root in roots]
        files += [path for path in found if path.exists()][:1]
    return files


def read_status(pid: int) -> Status | None:
    """Whose a process is and what it may do; None when it has ended."""
    try:
        return parse_status((_PROC / str(pid) / "status").read_text())
    except (OSError, KeyError, ValueError, IndexError):
        return None


def parse_status(text: str) -> Status:
    """``/proc/PID/status`` (proc(5)). Raises KeyError where a line is missing."""
    fields: dict[str, Any] = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return Status(
        uid=int(fields["Uid"].split()[1]),
        gid=int(fields["Gid"].split()[1]),
        groups=tuple(int(word) for word in fields["Groups"].split()),
        no_new_privileges=fields.get("NoNewPrivs", "0").strip() == "1",
        filtered=fields.get("Seccomp", "0").strip() == "2",
        capabilities=int(fields["CapEff"], 16) | int(fields["CapPrm"], 16) | int(fields["CapAmb"], 16),
        bounding=int(fields["CapBnd"], 16),
    )


def processes_of(group: str) -> list[int]:
    """The processes in a unit's control group and below."""
    for root in (_GROUPS, _GROUPS / "unified", _GROUPS / "systemd"):
        top = root / group.lstrip("/")
        if group and top.is_dir():
            files = [top / "cgroup.procs", *top.rglob("cgroup.procs")]
            return sorted({int(word) for path in files for word in _words(path)})
    return []


def _words(path: Path) -> list[str]:
    try:
        return [word for word in path.read_text().split() if word.isdigit()]
    except OSError:
        return []
