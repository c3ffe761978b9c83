"""Puts what jobs used where Prometheus' textfile collector finds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runnerctl.core.job_metrics import job_metrics
from runnerctl.core.jobs import idle_shares
from runnerctl.core.sections import HostSpec
from runnerctl.errors import UnavailableError, UsageError
from runnerctl.guard.ledger import DATABASE, JobLedger
from runnerctl.guard.ledger_read import reading
from runnerctl.replace import replace_file

__all__ = ["gpus_of_slots", "metrics_text", "publish", "write_metrics"]

_DAY = 86400.0
_MODE = 0o644  # the exporter runs as a user of its own


def gpus_of_slots(spec: HostSpec | None) -> dict[str, int]:
    """How many GPUs each slot has, whole or MIG, in the spec's order; empty without a spec."""
    if spec is None:
        return {}
    laid = {share.name: len(share.gpus) for share in spec.layout.slots} if spec.layout else {}
    return {slot.name: laid.get(slot.name, len(slot.gpus)) for slot in spec.github_runner.slots}


def metrics_text(database: Path, *, gpus: Mapping[str, int], now: float) -> str:
    """The metrics of a job database; ``gpus``: how many each slot has. Raises RunnerctlError."""
    with reading(database) as found:
        since = max(now - _DAY, found.begun_at)
        rows = list(found.jobs(since=since, until=now))
        totals = found.totals()
    running = [row for row in rows if row.ended_at is None]
    idle = idle_shares(rows, gpus, since=since, until=now)
    return job_metrics(totals, running=running, idle=idle, now=now)


def write_metrics(path: Path, database: Path, *, gpus: Mapping[str, int], now: float) -> None:
    """Replace the file at ``path`` at once, readable for everybody. Raises RunnerctlError."""
    if path.suffix != ".prom":
        remedy = "collectors read files named *.prom only"
        raise UsageError("does not end in .prom", where=str(path), remedy=remedy)
    text = metrics_text(database, gpus=gpus, now=now)
    try:
        replace_file(path, text.encode(), mode=_MODE)
    except OSError as error:
        remedy = "give a file in a directory that exists"
        raise UnavailableError(
            f"cannot be written: {error.strerror}", where=str(path), remedy=remedy
        ) from None


def publish(spec: HostSpec, *, database: Path = DATABASE, now: float) -> None:
    """Bring the file that ``runnerctl_jobs_prometheus`` names up to date; without one there is nothing to do.

    For the guard, in a child with a deadline: after each job, and now and then. Raises RunnerctlError.
    """
    if spec.runnerctl.jobs_prometheus is None:
        return
    ledger = JobLedger(database, keep_days=spec.runnerctl.jobs_keep_days, clock=lambda: now)
    try:
        ledger.settle()
    finally:
        ledger.close()
    write_metrics(Path(spec.runnerctl.jobs_prometheus), database, gpus=gpus_of_slots(spec), now=now)
