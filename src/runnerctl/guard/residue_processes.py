"""End every process of a slot but those that are to stay, also those that do not want to be found.

A process belongs to a slot by its user or by its control group, never by what it says of itself. One that
forks faster than it is killed is stopped first: with the control group's freezer (version 2), and by one
signal that the kernel gives to all processes of the user in a single walk.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from runnerctl.guard.ports import SlotPlace
from runnerctl.guard.procs import Kernel, Process

__all__ = [
    "CLOCK_SLACK_SECONDS",
    "Spare",
    "begun",
    "end_all",
    "find",
    "of_unit",
    "resume",
    "started_at",
    "wake",
]

_CLEAN_LOOKS = 2
_UNIT = re.compile(r"gha-[a-z]+@[^/]+\.service")
_PATIENT_PASSES = 3
_WAIT_SECONDS = 0.01
CLOCK_SLACK_SECONDS = 0.011  # times of processes come in ticks, those of files from the kernel's coarse clock
_UNOWNED = 0xFFFFFFFD  # no process has it: a signal by this user reaches nobody, and nobody's reaches it
_SIGNAL_SECONDS = 5.0
_SIGNAL = """\
import os, sys
own, uid, number = map(int, sys.argv[1:])
os.setgroups([])
os.setresuid(own, uid, 0)
if uid and os.getresuid() == (own, uid, 0):
    for _ in range(20):  # what is not yet stopped may wake up what is
        os.kill(-1, number)
"""
# Told of all processes of a slot, it says which of them are to stay.
Spare = Callable[[Sequence[Process]], Collection[int]]


def find(kernel: Kernel, place: SlotPlace) -> list[Process]:
    """Every live process of the slot's user, or in its unit's control group."""
    found = []
    for pid in _pids(kernel):
        if (uids := _uids(kernel, pid)) is None:
            continue
        if place.uid in uids or (uids != {0} and _in_units(kernel.group(pid), place)):
            process = kernel.process(pid)
            found += [process] if process is not None else []
    return found


def of_unit(kernel: Kernel, place: SlotPlace, found: Sequence[Process]) -> list[Process]:
    """Those in the control group of the slot's own unit, as far as they are not its engine's."""
    return [process for process in found if _unit(kernel.group(process.pid)) == place.unit]


def end_all(
    kernel: Kernel, place: SlotPlace, *, spare: Spare | None, seconds: float
) -> tuple[list[Process], list[Process]]:
    """End all but the spared; returns those that were there, and those that still are when time is up.

    A look at /proc can miss what hops from one process id to the next. So the last look is one at processes
    that have been stopped, or, where none can be spared (None), that have all been sent SIGKILL at once.
    """
    deadline = time.monotonic() + seconds
    ended: dict[tuple[int, int], Process] = {}
    kept = spare or (lambda _found: ())
    for _ in range(_PATIENT_PASSES):
        if not _kill_found(kernel, place, kept, ended):
            break
    if spare is None:
        _signal_user(place.uid, signal.SIGKILL)
        while _kill_found(kernel, place, kept, ended) and time.monotonic() < deadline:
            pass
    else:
        _kill_stopped(kernel, place, kept, ended, deadline)
    return list(ended.values()), _others(kernel, place, kept)


def _kill_stopped(
    kernel: Kernel,
    place: SlotPlace,
    spare: Spare,
    ended: dict[tuple[int, int], Process],
    deadline: float,
) -> None:
    """Look at processes that stand still, until nothing is found that has to end."""
    freezers = {_freezer(kernel, place, pid) for pid in spare(find(kernel, place))} - {""}
    try:
        clean = 0
        while clean < _CLEAN_LOOKS and time.monotonic() < deadline:
            for freezer in freezers:
                _freeze(freezer, "1")
            _signal_user(place.uid, signal.SIGSTOP)
            clean = 0 if _kill_found(kernel, place, spare, ended) else clean + 1 + len(freezers)
    finally:
        _wake([process.pid for process in find(kernel, place)], freezers)  # also what began just before


def _kill_found(
    kernel: Kernel, place: SlotPlace, spare: Spare, ended: dict[tuple[int, int], Process]
) -> bool:
    """Look once and kill what is there; whether anything was."""
    left = _others(kernel, place, spare)
    for process in left:
        ended.setdefault((process.pid, process.started), process)
        kernel.kill(process, within=None)
    until = time.monotonic() + 20 * _WAIT_SECONDS
    while any(kernel.lives(process) for process in left) and time.monotonic() < until:
        time.sleep(_WAIT_SECONDS)
    return bool(left)


def _wake(pids: Collection[int], freezers: Collection[str]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    for freezer in freezers:
        _freeze(freezer, "0")


def begun(found: Sequence[Process], listener: int) -> list[Process]:
    """The jobs that a listener runs now: its own children, whatever their names.

    One that was just forked is not yet called ``Runner.Worker``; nobody else can become its child.
    """
    return [process for process in found if listener and process.parent == listener]


def _others(kernel: Kernel, place: SlotPlace, spare: Spare) -> list[Process]:
    found = find(kernel, place)
    spared = spare(found)
    return [process for process in found if process.pid not in spared]


def started_at(process: Process) -> float:
    """When a process began, in seconds since the epoch."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + process.started / os.sysconf("SC_CLK_TCK")


def wake(kernel: Kernel, place: SlotPlace) -> None:
    """Let all that stands still go on, should whoever stopped it have been killed: hooks and jobs, too."""
    resume(kernel, place, [process.pid for process in find(kernel, place)])


def resume(kernel: Kernel, place: SlotPlace, pids: Collection[int]) -> None:
    """Let processes go on that a killed guard had stopped."""
    for pid in pids:
        process = kernel.process(pid)
        if process is not None and process.state == "T" and place.uid in (_uids(kernel, pid) or ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        _freeze(_freezer(kernel, place, pid), "0")


def _pids(kernel: Kernel) -> list[int]:
    return [int(name) for name in os.listdir(kernel.proc) if name.isdigit()]


def _uids(kernel: Kernel, pid: int) -> set[int] | None:
    """All user ids of a process: real, effective, saved, of the file system; None when it is gone."""
    try:
        with open(f"{kernel.proc}/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Uid:"):
                    return {int(word) for word in line.split()[1:]}
    except OSError:
        return None
    return None


def _in_units(group: str, place: SlotPlace) -> bool:
    """Whether a control group is that of the slot's unit or engine, or below it.

    Below it a job may name groups as it likes. What root runs in a unit, before and after, is systemd's.
    """
    return _unit(group) in (place.unit, f"gha-containers@{place.name}.service")


def _unit(group: str) -> str:
    """The runners' unit that a control group belongs to: the outermost one in its path."""
    first = _UNIT.search(group)
    return first[0] if first else ""


def _freezer(kernel: Kernel, place: SlotPlace, pid: int) -> str:
    """The unit's freezer, found by a process in it; empty where there is none (version 1)."""
    group = kernel.group(pid)
    found = _UNIT.search(group)
    if found is None or found[0] != place.unit:
        return ""
    for mount in ("", "/unified"):
        path = f"{kernel.groups}{mount}{group[: found.end()]}/cgroup.freeze"
        if os.path.isfile(path):
            return path
    return ""


def _freeze(path: str, value: str) -> None:
    with contextlib.suppress(OSError):
        if path:
            Path(path).write_text(value)


def _signal_user(uid: int, number: int) -> None:
    """Send a signal to all processes of a user at once (kill(2) with -1).

    From a child that none of them can reach: its effective user is the slot's, which decides whom it may
    signal; its real one is nobody's, so that no process of the slot may signal or trace it.
    """
    argv = [sys.executable, "-IS", "-c", _SIGNAL, str(_UNOWNED), str(uid), str(number)]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(argv, env={}, check=False, timeout=_SIGNAL_SECONDS, capture_output=True)
