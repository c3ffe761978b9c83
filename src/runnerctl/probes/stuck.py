"""Processes that survived SIGKILL: written down, so that no second one joins them while they live.

A call that sleeps uninterruptibly in the kernel (state D) cannot be ended, and each further one like it would
be left behind, too. The marker names the very process: its id alone may be given to another one later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.reading import Unavailable
from runnerctl.probes.files import read_bytes, read_line
from runnerctl.replace import replace_file

__all__ = ["DIRECTORY", "SCHEMA", "Guard", "Stuck", "start_ticks", "state_of", "wchan_of"]

SCHEMA = "runnerctl.stuck/1"
DIRECTORY = "/run/runnerctl"  # gone after a reboot, as the process is
_PROC = Path("/proc")


class Stuck(msgspec.Struct, frozen=True):
    """A process that was left behind: ``start_ticks`` is field 22 of /proc/PID/stat (proc(5)).

    ``parts``: what it had handed over by then.
    """

    pid: int
    start_ticks: int
    boot_id: str
    call: str
    gpu: int | None
    wchan: str
    since: datetime
    parts: list[Any] = []
    schema: str = SCHEMA

    def again(self) -> Unavailable:
        """The verdict of the probe that this process is stuck in, as long as it lives."""
        on = f" on GPU {self.gpu}" if self.gpu is not None else ""
        where = f" (in {self.wchan})" if self.wchan else ""
        since = f"{self.since:%Y-%m-%dT%H:%M:%SZ}"
        reason = f"process {self.pid} has been stuck in {self.call or 'the probe'}{on} since {since}{where}"
        return Unavailable(reason, call=self.call, gpu=self.gpu, kind="timeout")


@dataclass(frozen=True)
class Guard:
    """The markers below a directory. ``proc`` is where processes are looked up."""

    directory: Path
    proc: Path = _PROC

    def standing(self, name: str) -> Stuck | None:
        """The process that is still stuck in the probe of that name; the marker of one that ended goes."""
        path = self._path(name)
        data = read_bytes(path)
        if not isinstance(data, bytes):
            return None
        with contextlib.suppress(msgspec.MsgspecError):  # a marker that says nothing holds nothing up
            stuck = msgspec.json.decode(data, type=Stuck)
            if stuck.schema == SCHEMA and self._lives(stuck):
                return stuck
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def record(
        self, name: str, pid: int, *, call: str, gpu: int | None = None, parts: Sequence[Any] = ()
    ) -> str:
        """Write a process down. Returns an empty text, or why the next probe will not know of it."""
        ticks = start_ticks(pid, self.proc)
        if ticks is None:
            return ""  # it ended after all
        stuck = Stuck(
            pid=pid,
            start_ticks=ticks,
            boot_id=self._boot_id(),
            call=call,
            gpu=gpu,
            wchan=wchan_of(pid, self.proc),
            since=datetime.now(timezone.utc).replace(microsecond=0),
            parts=list(parts),
        )
        path = self._path(name)
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(path, msgspec.json.encode(stuck) + b"\n", mode=0o644)  # whoever asks shall know
        except OSError as error:
            return f"it could not be written down in {path}: {error.strerror}"
        return ""

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}-stuck.json"

    def _boot_id(self) -> str:
        return read_line(self.proc / "sys/kernel/random/boot_id") or ""

    def _lives(self, stuck: Stuck) -> bool:
        """Whether it is the very same process, and not one that has ended and waits to be collected."""
        same = stuck.boot_id == self._boot_id() and start_ticks(stuck.pid, self.proc) == stuck.start_ticks
        return same and state_of(stuck.pid, self.proc) not in ("Z", "X")


def _stat(pid: int, proc: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third on (the second may hold anything, blanks included)."""
    return (read_line(proc / str(pid) / "stat") or "").rpartition(")")[2].split()


def start_ticks(pid: int, proc: Path = _PROC) -> int | None:
    """When a process started, in clock ticks since boot; None when there is no such process."""
    fields = _stat(pid, proc)
    return int(fields[19]) if len(fields) > 19 else None


def state_of(pid: int, proc: Path = _PROC) -> str:
    """The kernel's letter for what a process does (D: sleeps uninterruptibly); empty: no such process."""
    fields = _stat(pid, proc)
    return fields[0] if fields else ""


def wchan_of(pid: int, proc: Path = _PROC) -> str:
    """The kernel function that a process sleeps in, as far as the kernel tells."""
    where = read_line(proc / str(pid) / "wchan") or ""
    return "" if where == "0" else where
