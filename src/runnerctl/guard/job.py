"""One job as the guard knows it, and where that is kept, so that a guard that was killed goes on with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from runnerctl.guard.ports import GpuUse, JobClaims, JobReport, Residue
from runnerctl.guard.procs import Process
from runnerctl.probes.files import read_bytes
from runnerctl.replace import replace_file

__all__ = ["Job", "JobFiles", "Kept", "joined"]

SCHEMA = "runnerctl.guard-job/1"
State = Literal["waiting", "admitted", "refused"]


class Kept(msgspec.Struct, kw_only=True):
    """What outlives the guard. ``waiting``: it has not asked yet, or not been answered.

    ``pid`` and ``started`` (clock ticks after boot) name the worker; ``listener`` is its parent.
    """

    slot: str
    pid: int
    started: int
    boot_id: str
    listener: int
    began_at: float
    unit: str
    schema: str = SCHEMA
    state: State = "waiting"
    reason: str = ""
    warnings: tuple[str, ...] = ()
    claims: JobClaims = JobClaims()
    number: int | None = None
    ended_at: float | None = None
    reports: int = 0
    residue: Residue = Residue()
    xids: tuple[str, ...] = ()


@dataclass
class Job:
    """One job, from its worker's begin until it has been written down.

    ``shells``: hooks that are known to be ours, by process id and start; ``checking``: shells that may be;
    ``suspects``: what should not be there, and since when. These times are the loop's.
    """

    kept: Kept
    worker: Process
    shells: dict[tuple[int, int], str] = field(default_factory=dict)
    suspects: dict[tuple[int, int], float] = field(default_factory=dict)
    checking: set[tuple[int, int]] = field(default_factory=set)
    shell_seen_at: float | None = None
    refused_at: float | None = None
    ending: bool = False
    uses: tuple[GpuUse, ...] = ()
    result: str | None = None

    @property
    def key(self) -> str:
        """Its name among the files."""
        return f"{self.kept.slot}.{self.kept.pid}.{self.kept.started}"

    def report(self) -> JobReport:
        """What is known of it by now."""
        kept = self.kept
        return JobReport(
            slot=kept.slot,
            started_at=kept.began_at,
            ended_at=kept.ended_at,
            claims=kept.claims,
            result=self.result,
            refused=(kept.reason or None) if kept.state == "refused" else None,
            gpus=self.uses,
            xids=kept.xids,
            residue=kept.residue,
        )


@dataclass(frozen=True)
class JobFiles:
    """The jobs' files; nothing depends on one that cannot be written."""

    directory: Path

    def save(self, job: Job) -> None:
        """Replace a job's file."""
        with contextlib.suppress(OSError):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path(job.key), msgspec.json.encode(job.kept), mode=0o600)

    def drop(self, job: Job) -> None:
        """It has been written down."""
        with contextlib.suppress(OSError):
            self._path(job.key).unlink()

    def load(self, *, boot_id: str) -> Iterator[Kept]:
        """The jobs of this boot that an earlier guard knew; what cannot be read goes."""
        for path in sorted(self.directory.glob("*.json")) if self.directory.is_dir() else ():
            data = read_bytes(path)
            with contextlib.suppress(msgspec.MsgspecError):
                kept = msgspec.json.decode(data if isinstance(data, bytes) else b"", type=Kept)
                if kept.schema == SCHEMA and kept.boot_id == boot_id:
                    yield kept
                    continue
            with contextlib.suppress(OSError):
                path.unlink()

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.json"


def joined(one: Residue, other: Residue) -> Residue:
    """What was found before a worker's end and after; only what remained at last remains."""
    return Residue(
        processes=(*one.processes, *other.processes)[:200],
        removed=(*one.removed, *other.removed)[:200],
        remains=other.remains[:200],
    )
