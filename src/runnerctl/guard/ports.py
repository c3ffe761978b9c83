"""What the parts of the guard know of each other: slots, jobs, and who does what to them.

Whatever comes from a job is a claim: it is bounded, and nothing that must be true rests on it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import msgspec

from runnerctl.core.jobs import GpuUse

__all__ = [
    "Cleaner",
    "GpuUse",
    "JobClaims",
    "JobReport",
    "Ledger",
    "Meter",
    "Residue",
    "SlotPlace",
]


class SlotPlace(msgspec.Struct, frozen=True):
    """A slot of this host: who its jobs run as, where, in which unit, with which GPUs (UUIDs).

    ``root`` is its directory, with ``_work``, ``_diag`` and ``home`` in it.
    """

    name: str
    user: str
    uid: int
    gid: int
    root: Path
    unit: str
    mode: str = "persistent"
    gpus: tuple[str, ...] = ()
    containers: str = "none"


class JobClaims(msgspec.Struct, frozen=True):
    """What a job says of itself, as the runner told the hook: each text bounded and printable.

    Names as GitHub's: ``workflow_ref`` is ``owner/name/.github/workflows/file@ref``; ``fork``: whether it is
    a pull request from a fork. None: not told.
    """

    repository: str | None = None
    workflow: str | None = None
    workflow_ref: str | None = None
    job: str | None = None
    run_id: int | None = None
    run_attempt: int | None = None
    actor: str | None = None
    event: str | None = None
    ref: str | None = None
    fork: bool | None = None
    queued_seconds: float | None = None


class Residue(msgspec.Struct, frozen=True):
    """What a job left behind and what became of it; ``remains``: what could not be removed, one line each."""

    processes: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    remains: tuple[str, ...] = ()


class JobReport(msgspec.Struct, frozen=True):
    """One job from its worker's start to its end, as the guard saw it. Times are seconds since the epoch.

    ``result`` is what the runner reported (``Succeeded``, ``Failed``, ``Canceled``, ...), None where that is
    not known; ``refused``: why the job was turned away, if it was. ``xids``: those of its GPUs meanwhile.
    """

    slot: str
    started_at: float
    ended_at: float | None = None
    claims: JobClaims = JobClaims()
    result: str | None = None
    refused: str | None = None
    gpus: tuple[GpuUse, ...] = ()
    xids: tuple[str, ...] = ()
    residue: Residue = Residue()


class Ledger(Protocol):
    """Where jobs are written down. Every call is bounded in time and raises RunnerctlError."""

    def begin(self, report: JobReport) -> int:
        """Note a job that has begun; returns its number here."""
        ...

    def update(self, number: int, report: JobReport) -> None:
        """Note what is known by now."""
        ...

    def close_open(self, *, at: float) -> int:
        """End the jobs that an earlier guard, or a power cut, left open; returns how many."""
        ...


class Meter(Protocol):
    """Reads the GPUs of running jobs, now and then, in a process of its own that may hang."""

    def start(self, slot: str, gpus: tuple[str, ...], *, ran_seconds: float = 0.0) -> None:
        """Begin to measure for a slot's job, which may have run for a while already."""
        ...

    def read(self, slot: str) -> tuple[GpuUse, ...]:
        """What its GPUs did so far; never waits for a GPU."""
        ...

    def stop(self, slot: str) -> tuple[GpuUse, ...]:
        """The same, and no more measuring for it."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


class Cleaner(Protocol):
    """Removes what jobs leave behind. Bounded in time; what cannot be removed is said, never raised."""

    def during(self, place: SlotPlace, *, spare: Collection[int]) -> Residue:
        """At the end of a job, before its worker ends: all but the processes in ``spare``, and all files."""
        ...

    def after(self, place: SlotPlace, *, listener: int, before: float, alone: bool = False) -> Residue:
        """When the worker has ended: what is left, as far as it is older than ``before`` (epoch).

        ``listener``: the process of the runner's that stays; 0 for none. ``alone``: no later job has been
        admitted, so that it has no processes yet but those that descend from its worker.
        """
        ...

    def fresh(self, place: SlotPlace) -> Residue:
        """Before an ephemeral slot starts, when nothing of it runs: make everything of it new."""
        ...
