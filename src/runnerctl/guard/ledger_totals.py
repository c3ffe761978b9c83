"""What all ended jobs add up to, by slot, repository and result: a job is counted once all of it is known.

They are counters: they never fall, also when jobs are forgotten. How many there can be is bounded, since a
repository's name is what a job says it is.
"""

from __future__ import annotations

import json
import sqlite3

__all__ = ["OTHERS", "RESULTS", "settle"]

OTHERS = "(others)"
MOST_REPOSITORIES = 100  # of one host; the jobs of further ones are added up together
RESULTS = frozenset(
    {
        "succeeded",
        "succeededwithissues",
        "failed",
        "canceled",
        "abandoned",
        "skipped",
        "refused",
        "interrupted",
    }
)
_SUMS = (
    "jobs",
    "seconds",
    "gpu_seconds",
    "measured_gpu_seconds",
    "busy_gpu_seconds",
    "energy_joules",
    "xids",
)


def settle(connection: sqlite3.Connection, *, before: float) -> None:
    """Count the jobs that ended before then, within the caller's transaction. Raises sqlite3.Error."""
    query = "SELECT number FROM jobs WHERE NOT counted AND ended_at < ? ORDER BY ended_at"
    for (number,) in connection.execute(query, (before,)).fetchall():
        _count(connection, number)
        connection.execute("UPDATE jobs SET counted = 1 WHERE number = ?", (number,))


def _count(connection: sqlite3.Connection, number: int) -> None:
    job = connection.execute(
        "SELECT slot, repository, result, refused, interrupted, ended_at - started_at, xids"
        " FROM jobs WHERE number = ?",
        (number,),
    ).fetchone()
    gpus = connection.execute(
        "SELECT total(seconds), total(CASE WHEN busy_seconds IS NOT NULL THEN measured_seconds END),"
        " total(busy_seconds), total(energy_joules) FROM gpus WHERE job = ?",
        (number,),
    ).fetchone()
    slot, repository, result, refused, interrupted, seconds, xids = job
    word = "refused" if refused is not None else "interrupted" if interrupted else (result or "").lower()
    key = (slot, _label(connection, repository or ""), word if word in RESULTS else "unknown")
    connection.execute("INSERT OR IGNORE INTO totals (slot, repository, result) VALUES (?, ?, ?)", key)
    sums = ", ".join(f"{name} = {name} + ?" for name in _SUMS)
    where = "slot = ? AND repository = ? AND result = ?"
    values = (1, max(seconds, 0.0), *gpus, len(json.loads(xids or "[]")))
    connection.execute(f"UPDATE totals SET {sums} WHERE {where}", (*values, *key))


def _label(connection: sqlite3.Connection, repository: str) -> str:
    name = repository[:140].lower()  # GitHub's names are the same in any case
    known = "SELECT 1 FROM totals WHERE repository = ? LIMIT 1"
    if connection.execute(known, (name,)).fetchone():
        return name
    (others,) = connection.execute("SELECT count(DISTINCT repository) FROM totals").fetchone()
    return name if others < MOST_REPOSITORIES else OTHERS
