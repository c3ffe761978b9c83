"""Every job of this host, in an SQLite database: what it said it was, what its GPUs did, how it ended.

A job is written down when it begins, and again as more is known, so that a power cut loses little. Texts of
a job's are cut to a length and stored as they are: data, whatever they contain. What cannot be written (the
disk is full) is an error of the call's, and no reason to stop a job: the caller tries again.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runnerctl.guard.ledger_file import DamagedError, explained, is_damage, open_to_write, put_aside
from runnerctl.guard.ledger_schema import GPU_COLUMNS, JOB_COLUMNS
from runnerctl.guard.ledger_totals import settle
from runnerctl.guard.ports import GpuUse, JobClaims, JobReport

__all__ = ["DATABASE", "JobLedger"]

DATABASE = Path("/var/lib/runnerctl/jobs.db")
LONGEST_TEXT = 512  # characters
MOST_GPUS, MOST_TEXTS = 64, 64
SETTLED_SECONDS = 120.0  # after its end, nothing new comes to be known of a job
DAY = 86400.0
_BATCH = 500  # jobs that are forgotten in one transaction
_LARGEST_INTEGER = 2**63 - 1
_CLAIMS = tuple(field.name for field in msgspec.structs.fields(JobClaims))

T = TypeVar("T")


class JobLedger:
    """The database at ``path``; a `Ledger`. It is opened by the first call.

    ``keep_days``: how long a job is kept after its end. ``note`` gets a line about what the ledger did about
    trouble. Any number of processes may use one database. A job is known by its slot and its start, besides
    its number: what is tried again, or goes on in a new database, is there once.
    """

    def __init__(
        self,
        path: Path = DATABASE,
        *,
        keep_days: int = 400,
        note: Callable[[str], None] = lambda _text: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._keep_days, self._note, self._clock = keep_days, note, clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def begin(self, report: JobReport) -> int:
        """Note a job that has begun; returns its number here. Raises RunnerctlError."""
        return self._do(lambda connection: self._write(connection, None, report))

    def update(self, number: int, report: JobReport) -> None:
        """Note what is known by now. Raises RunnerctlError."""
        self._do(lambda connection: self._write(connection, number, report))

    def close_open(self, *, at: float) -> int:
        """End the jobs that an earlier guard, or a power cut, left open; returns how many.

        Such a job ended when it was seen last, at ``at`` (epoch seconds) at the latest; one that goes on all
        the same is opened again by its next `update`. The file is checked first. Raises RunnerctlError.
        """
        self.close()
        return self._do(lambda connection: _close_all(connection, at), check=True)

    def settle(self) -> None:
        """Count what ended a while ago, and forget what is old; every writing call does it, too.

        Raises RunnerctlError.
        """
        self._do(lambda _connection: None)

    def close(self) -> None:
        """Close the file; the next call would open it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _do(self, work: Callable[[sqlite3.Connection], T], *, check: bool = False) -> T:
        """Do it in one transaction. A damaged database is put aside, and a new one begun."""
        with self._lock:
            try:
                return self._once(work, check=check)
            except DamagedError as damage:
                self.close()
                aside = put_aside(self.path, self._clock())
                self._note(
                    f"{self.path} is damaged ({damage}): put aside as {aside.name}; a new one is begun"
                )
            try:
                return self._once(work, check=False)
            except DamagedError as damage:
                self.close()
                raise explained(sqlite3.DatabaseError(str(damage)), self.path) from None

    def _once(self, work: Callable[[sqlite3.Connection], T], *, check: bool) -> T:
        if self._connection is None:
            self._connection = open_to_write(self.path, check=check)
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            done = work(connection)
            settle(connection, before=self._clock() - SETTLED_SECONDS)
            self._forget(connection)
            connection.execute("COMMIT")
            return done
        except sqlite3.Error as error:
            # After some errors SQLite has rolled back by itself; a fresh connection is sure of its state.
            self.close()
            if is_damage(error):
                raise DamagedError(str(error)) from None
            raise explained(error, self.path) from None

    def _forget(self, connection: sqlite3.Connection) -> None:
        """Once a day, and not too many at once, remove what is older than is to be kept."""
        now = self._clock()
        (kept,) = connection.execute("SELECT value FROM meta WHERE key = 'kept_at'").fetchone()
        if abs(now - kept) < DAY:
            return
        # The clock of a host that has just booted may be years ahead: what was written last knows better.
        (newest,) = connection.execute("SELECT max(started_at) FROM jobs").fetchone()
        before = min(now, newest or 0.0) - self._keep_days * DAY
        old = "SELECT number FROM jobs WHERE ended_at < ? AND counted ORDER BY ended_at LIMIT ?"
        gone = connection.execute(f"DELETE FROM jobs WHERE number IN ({old})", (before, _BATCH)).rowcount
        if gone < _BATCH:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'kept_at'", (now,))

    def _write(self, connection: sqlite3.Connection, number: int | None, report: JobReport) -> int:
        values = {**_row(report), "seen_at": _number(self._seen(report))}
        same = "slot = ? AND started_at = ?"
        who = (values["slot"], values["started_at"])
        found = None
        if number is not None:
            query = f"SELECT number FROM jobs WHERE number = ? AND {same}"
            found = connection.execute(query, (number, *who)).fetchone()
        found = found or connection.execute(f"SELECT number FROM jobs WHERE {same}", who).fetchone()
        if found:
            names = ", ".join(f"{name} = ?" for name in values)
            connection.execute(f"UPDATE jobs SET {names} WHERE number = ?", (*values.values(), found[0]))
        else:
            names, marks = ", ".join(values), ", ".join("?" * len(values))
            insert = f"INSERT INTO jobs ({names}) VALUES ({marks})"
            found = (connection.execute(insert, tuple(values.values())).lastrowid,)
        known = int(found[0] or 0)
        _write_gpus(connection, known, report.gpus)
        return known

    def _seen(self, report: JobReport) -> float:
        return self._clock() if report.ended_at is None else report.ended_at


def _close_all(connection: sqlite3.Connection, at: float) -> int:
    query = "SELECT number, started_at, seen_at FROM jobs WHERE ended_at IS NULL"
    found = connection.execute(query).fetchall()
    for number, started, seen in found:
        ended = max(min(seen, at), started)
        change = "UPDATE jobs SET ended_at = ?, interrupted = 1 WHERE number = ?"
        connection.execute(change, (ended, number))
    return len(found)


def _row(report: JobReport) -> dict[str, Any]:
    claims = {name: getattr(report.claims, name) for name in _CLAIMS}
    residue = report.residue
    values = {
        **claims,
        "slot": report.slot,
        "started_at": report.started_at,
        "ended_at": report.ended_at,
        "interrupted": 0,
        "result": report.result,
        "refused": report.refused,
        "xids": _texts(report.xids),
        "residue_processes": len(residue.processes),
        "residue_removed": len(residue.removed),
        "residue_remains": _texts(residue.remains),
    }
    return {name: _plain(values[name]) for name in JOB_COLUMNS}


def _write_gpus(connection: sqlite3.Connection, number: int, gpus: tuple[GpuUse, ...]) -> None:
    connection.execute("DELETE FROM gpus WHERE job = ?", (number,))
    names = ", ".join(("job", "place", *GPU_COLUMNS))
    marks = ", ".join("?" * (len(GPU_COLUMNS) + 2))
    for place, gpu in enumerate(gpus[:MOST_GPUS]):
        values = {**msgspec.structs.asdict(gpu), "throttled": _texts(gpu.throttled)}
        row = (number, place, *(_plain(values[name]) for name in GPU_COLUMNS))
        connection.execute(f"INSERT INTO gpus ({names}) VALUES ({marks})", row)


def _plain(value: Any) -> Any:
    """What SQLite can hold: a text of bounded length, a number that fits; anything else is not known."""
    if isinstance(value, str):
        return value[:LONGEST_TEXT].encode("utf-8", "replace").decode().replace("\0", "?")
    return _number(value)


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        return None
    return value


def _texts(texts: tuple[str, ...]) -> str:
    """Several texts in one: a JSON list, each text cut so that the whole is no longer than one may be."""
    kept: list[str] = []
    room = LONGEST_TEXT
    for text in texts[:MOST_TEXTS]:
        clean = text.encode("utf-8", "replace").decode()[:160]
        room -= len(msgspec.json.encode(clean)) + 1
        if room < 2:
            break
        kept.append(clean)
    return msgspec.json.encode(kept).decode()
