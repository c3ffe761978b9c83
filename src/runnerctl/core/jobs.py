"""Jobs that ran on a host: which ones are meant, what they add up to, how idle the GPUs were. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from fnmatch import fnmatchcase

import msgspec

__all__ = [
    "GROUPS",
    "GpuUse",
    "Idle",
    "JobFilter",
    "JobRow",
    "Total",
    "idle_shares",
    "outcome",
    "totals",
]


class GpuUse(msgspec.Struct, frozen=True):
    """What one GPU did during a job, which had it for ``seconds``.

    ``busy_seconds``: its utilisation, summed up over the ``measured_seconds``. None: not measured, which is
    no zero: a MIG device has no utilisation and no energy of its own, and NVML may not answer.
    """

    uuid: str
    name: str | None = None
    seconds: float = 0.0
    measured_seconds: float | None = None
    busy_seconds: float | None = None
    utilization_mean_percent: float | None = None
    utilization_peak_percent: int | None = None
    memory_peak_bytes: int | None = None
    memory_total_bytes: int | None = None
    energy_joules: float | None = None
    temperature_peak_celsius: int | None = None
    throttled: tuple[str, ...] = ()
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None


class JobRow(msgspec.Struct, frozen=True):
    """A job as it was written down. Times are seconds since the epoch; ``ended_at`` None: it runs.

    ``interrupted``: its end was not seen, because the guard or the host ended first; it is then when the job
    was seen last. ``queued_seconds`` None: how long it waited is not known. Texts are as the job told them.
    """

    number: int
    slot: str
    started_at: float
    ended_at: float | None = None
    interrupted: bool = False
    result: str | None = None
    refused: str | None = None
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
    xids: tuple[str, ...] = ()
    residue_processes: int = 0
    residue_removed: int = 0
    residue_remains: tuple[str, ...] = ()
    gpus: tuple[GpuUse, ...] = ()

    def seconds(self, now: float) -> float:
        """How long it ran, or has been running."""
        return max((now if self.ended_at is None else self.ended_at) - self.started_at, 0.0)

    def summed(self, field: str) -> float | None:
        """A field of its GPUs, added up; None when none of them was measured."""
        known = [value for gpu in self.gpus if (value := getattr(gpu, field)) is not None]
        return float(sum(known)) if known else None

    @property
    def memory_peak_bytes(self) -> int | None:
        """The most memory that it used on one GPU."""
        return max(
            (gpu.memory_peak_bytes for gpu in self.gpus if gpu.memory_peak_bytes is not None), default=None
        )


def outcome(row: JobRow) -> str:
    """How it went, as one lower-case word: running, refused, interrupted, the runner's word, or unknown."""
    if row.ended_at is None:
        return "running"
    if row.refused is not None:
        return "refused"
    if row.interrupted:
        return "interrupted"
    return (row.result or "unknown").lower()


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs are meant. Names are patterns as the shell's, in any case; None: all."""

    repository: str | None = None
    workflow: str | None = None
    slot: str | None = None
    actor: str | None = None
    result: str | None = None

    def takes(self, row: JobRow) -> bool:
        """Whether this job is one of them."""
        asked = (
            (self.repository, row.repository),
            (self.slot, row.slot),
            (self.actor, row.actor),
            (self.result, outcome(row)),
        )
        plain = all(_matches(pattern, value) for pattern, value in asked)
        return plain and (_matches(self.workflow, row.workflow) or _matches(self.workflow, row.workflow_ref))


def _matches(pattern: str | None, value: str | None) -> bool:
    return pattern is None or fnmatchcase((value or "").lower(), pattern.lower())


class Total(msgspec.Struct):
    """What some jobs add up to. ``measured_gpu_seconds``: the part whose utilisation is known."""

    key: str
    jobs: int = 0
    failed: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    measured_gpu_seconds: float = 0.0
    busy_gpu_seconds: float = 0.0
    energy_joules: float | None = None
    memory_peak_bytes: int | None = None
    xids: int = 0

    def add(self, row: JobRow, now: float) -> None:
        """One more job."""
        self.jobs += 1
        self.failed += outcome(row) == "failed"
        self.seconds += row.seconds(now)
        self.xids += len(row.xids)
        for gpu in row.gpus:
            self.gpu_seconds += gpu.seconds
            if gpu.busy_seconds is not None:
                self.busy_gpu_seconds += gpu.busy_seconds
                self.measured_gpu_seconds += gpu.measured_seconds or 0.0
            if gpu.energy_joules is not None:
                self.energy_joules = (self.energy_joules or 0.0) + gpu.energy_joules
        if row.memory_peak_bytes is not None:
            self.memory_peak_bytes = max(self.memory_peak_bytes or 0, row.memory_peak_bytes)

    @property
    def busy_share(self) -> float | None:
        """Mean utilisation of the measured time, 0 to 1."""
        return self.busy_gpu_seconds / self.measured_gpu_seconds if self.measured_gpu_seconds > 0 else None


def _moment(row: JobRow) -> datetime:
    return datetime.fromtimestamp(row.started_at, tz=timezone.utc)


# What jobs may be added up by. Weeks are ISO 8601's; days and weeks are UTC's.
GROUPS: Mapping[str, Callable[[JobRow], str]] = {
    "repository": lambda row: row.repository or "",
    "workflow": lambda row: f"{row.repository or ''} {row.workflow or ''}".strip(),
    "slot": lambda row: row.slot,
    "week": lambda row: _moment(row).strftime("%G-W%V"),
    "day": lambda row: _moment(row).strftime("%Y-%m-%d"),
}


def totals(rows: Iterable[JobRow], *, by: str, now: float) -> list[Total]:
    """Sums by one of `GROUPS`: the newest first for times, else the most GPU time first."""
    found: dict[str, Total] = {}
    for row in rows:
        key = GROUPS[by](row)
        found.setdefault(key, Total(key)).add(row, now)
    if by in ("week", "day"):
        return sorted(found.values(), key=lambda total: total.key, reverse=True)
    return sorted(found.values(), key=lambda total: (-total.gpu_seconds, -total.seconds, total.key))


class Idle(msgspec.Struct, frozen=True):
    """How much of a slot's GPU time, or the host's (``slot`` None), was in no job."""

    slot: str | None
    gpus: int
    gpu_seconds: float
    job_gpu_seconds: float

    @property
    def share(self) -> float | None:
        """The idle part, 0 to 1; None without GPUs or time."""
        if self.gpu_seconds <= 0:
            return None
        return min(max(1 - self.job_gpu_seconds / self.gpu_seconds, 0.0), 1.0)


def idle_shares(
    rows: Sequence[JobRow], gpus: Mapping[str, int], *, since: float, until: float
) -> tuple[Idle, ...]:
    """The slots that have GPUs (``gpus``: how many), in order, and the host last, between two moments.

    A job counts with the part of it that lies between them; one that was refused had no GPU.
    """
    period = max(until - since, 0.0)
    used = dict.fromkeys(gpus, 0.0)
    for row in rows:
        if row.slot in used and row.refused is None:
            end = until if row.ended_at is None else min(row.ended_at, until)
            used[row.slot] += max(end - max(row.started_at, since), 0.0) * gpus[row.slot]
    slots = [Idle(name, count, period * count, used[name]) for name, count in gpus.items() if count]
    host = Idle(
        None,
        sum(each.gpus for each in slots),
        sum(each.gpu_seconds for each in slots),
        sum(each.job_gpu_seconds for each in slots),
    )
    return (*slots, host) if slots else ()
