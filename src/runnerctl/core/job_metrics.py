"""What jobs used, as metrics in Prometheus' text format. Pure.

Counters are those of `runnerctl.guard.ledger_totals`: they never fall, and how many series there can be is
bounded there. Labels that jobs chose are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from runnerctl.core.exposition import Family, Sample, written
from runnerctl.core.jobs import Idle, JobRow

__all__ = ["JobTotals", "job_metrics"]


class JobTotals(NamedTuple):
    """What all ended jobs of one slot, repository and result add up to."""

    slot: str
    repository: str
    result: str
    jobs: int
    seconds: float
    gpu_seconds: float
    measured_gpu_seconds: float
    busy_gpu_seconds: float
    energy_joules: float
    xids: int


# Metric, help, field of the totals.
_COUNTERS = (
    ("job_seconds_total", "How long jobs ran.", "seconds"),
    ("job_gpu_seconds_total", "Time of GPUs that belonged to jobs.", "gpu_seconds"),
    (
        "job_gpu_measured_seconds_total",
        "The part of it in which utilisation was measured.",
        "measured_gpu_seconds",
    ),
    ("job_gpu_busy_seconds_total", "The part of the measured time in which GPUs worked.", "busy_gpu_seconds"),
    ("job_gpu_energy_joules_total", "Energy that GPUs used in jobs, where it is measured.", "energy_joules"),
    ("job_xid_errors_total", "Xid errors during jobs.", "xids"),
)


def job_metrics(
    totals: Sequence[JobTotals], *, running: Iterable[JobRow], idle: Iterable[Idle], now: float
) -> str:
    """The text of a ``.prom`` file. ``running``: jobs that run; ``idle``: shares of the last 24 hours."""
    families = [*_counters(totals), *_gauges(running, idle, now)]
    return "".join(written(family) for family in families if family.samples)


def _counters(totals: Sequence[JobTotals]) -> Iterator[Family]:
    jobs = tuple(({**_labels(each), "result": each.result}, float(each.jobs)) for each in totals)
    yield Family("jobs_total", "Jobs that ended, by what the runner reported.", jobs, "counter")
    for name, text, field in _COUNTERS:
        sums: dict[tuple[str, str], float] = {}
        for each in totals:
            key = (each.slot, each.repository)
            sums[key] = sums.get(key, 0.0) + getattr(each, field)
        samples = (({"slot": slot, "repository": name}, value) for (slot, name), value in sums.items())
        yield Family(name, text, tuple(samples), "counter")


def _labels(each: JobTotals) -> dict[str, str]:
    return {"slot": each.slot, "repository": each.repository}


def _gauges(running: Iterable[JobRow], idle: Iterable[Idle], now: float) -> Iterator[Family]:
    known = list(idle)
    busy: Mapping[str, int] = {}
    for row in running:
        busy = {**busy, row.slot: busy.get(row.slot, 0) + 1}
    names = sorted({*busy, *(each.slot for each in known if each.slot is not None)})
    yield Family(
        "slot_jobs", "Jobs that run now.", tuple(({"slot": name}, float(busy.get(name, 0))) for name in names)
    )
    yield Family("slot_gpus", "GPUs of the slot.", _by_slot((each.slot, float(each.gpus)) for each in known))
    yield Family(
        "slot_gpu_idle_ratio",
        "Share of the last 24 hours in which the slot's GPUs belonged to no job.",
        _by_slot((each.slot, each.share) for each in known),
    )
    host: tuple[Sample, ...] = tuple(
        ({}, each.share) for each in known if each.slot is None and each.share is not None
    )
    yield Family("host_gpu_idle_ratio", "The same of all slots that have GPUs.", tuple(host))
    moment = ((dict[str, str](), round(now, 3)),)
    yield Family("jobs_timestamp_seconds", "When this was written, in seconds since the epoch.", moment)


def _by_slot(values: Iterable[tuple[str | None, float | None]]) -> tuple[Sample, ...]:
    return tuple(({"slot": slot}, value) for slot, value in values if slot is not None and value is not None)
