"""Read the job database, also while the guard writes to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.job_metrics import JobTotals
from runnerctl.core.jobs import GpuUse, JobRow
from runnerctl.guard.ledger_file import explained, open_to_read
from runnerctl.guard.ledger_schema import GPU_COLUMNS, JOB_COLUMNS

__all__ = ["Reading", "reading"]

_LISTS = ("xids", "residue_remains")
_FLAGS = ("interrupted", "fork")


class Reading:
    """One look at the database, in which nothing changes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def begun_at(self) -> float:
        """Since when jobs are written down (epoch seconds)."""
        created = "SELECT value FROM meta WHERE key = 'created_at'"
        query = f"SELECT min(began) FROM (SELECT min(started_at) AS began FROM jobs UNION ALL {created})"
        (began,) = self._connection.execute(query).fetchone()
        return float(began or 0.0)

    def jobs(self, *, since: float, until: float) -> Iterator[JobRow]:
        """Those that ran at some time between the two moments, the newest first."""
        where = "started_at < ? AND (ended_at IS NULL OR ended_at >= ?)"
        gpus = self._gpus(where, (until, since))
        names = ("number", *JOB_COLUMNS)
        query = f"SELECT {', '.join(names)} FROM jobs WHERE {where} ORDER BY started_at DESC, number DESC"
        for row in self._connection.execute(query, (until, since)):
            yield _job(dict(zip(names, row, strict=True)), gpus.get(row[0], ()))

    def _gpus(self, where: str, values: tuple[float, float]) -> dict[int, tuple[GpuUse, ...]]:
        names = ", ".join(GPU_COLUMNS)
        chosen = f"SELECT number FROM jobs WHERE {where}"
        query = f"SELECT job, {names} FROM gpus WHERE job IN ({chosen}) ORDER BY job, place"
        found: dict[int, tuple[GpuUse, ...]] = {}
        for job, *row in self._connection.execute(query, values):
            gpu = dict(zip(GPU_COLUMNS, row, strict=True))
            gpu["throttled"] = _texts(gpu["throttled"])
            found[job] = (*found.get(job, ()), GpuUse(**gpu))
        return found

    def totals(self) -> list[JobTotals]:
        """What all jobs that ever ended add up to, in a fixed order."""
        names = ", ".join(JobTotals._fields)
        query = f"SELECT {names} FROM totals ORDER BY slot, repository, result"
        return [JobTotals(*row) for row in self._connection.execute(query)]


def _job(row: dict[str, Any], gpus: tuple[GpuUse, ...]) -> JobRow:
    for name in _LISTS:
        row[name] = _texts(row[name])
    for name in _FLAGS:
        row[name] = None if row[name] is None else bool(row[name])
    return JobRow(**row, gpus=gpus)


def _texts(data: str | None) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(data or "[]", type=tuple[str, ...])
    except msgspec.MsgspecError:
        return ()


@contextmanager
def reading(path: Path) -> Iterator[Reading]:
    """Look at the database. Raises RunnerctlError: it is not there, may not be read, is damaged, is newer."""
    with closing(open_to_read(path)) as connection:
        try:
            connection.execute("BEGIN")
            yield Reading(connection)
        except sqlite3.Error as error:
            raise explained(error, path) from None
