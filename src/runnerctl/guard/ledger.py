"""Every job of this host, in an SQLite database: what it said it was, what its GPUs did, how it ended.

A job is written down when it begins, and again as more is known, so that a power cut loses little. Texts of
a job's are cut to a length and stored as they are: data, whatever they contain. What cannot be written (the
disk is full) never stops a job: it is written later, or not at all, and said.
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

from runnerctl.errors import RunnerctlError
from runnerctl.guard.ledger_file import DamagedError, explained, is_damage, open_to_write, put_aside
from runnerctl.guard.ledger_schema import GPU_COLUMNS, JOB_COLUMNS
from runnerctl.guard.ledger_totals import count
from runnerctl.guard.ports import GpuUse, JobClaims, JobReport

__all__ = ["DATABASE", "JobLedger"]

DATABASE = Path("/var/lib/runnerctl/jobs.db")
LONGEST_TEXT = 512  # characters
MOST_GPUS, MOST_TEXTS, MOST_PENDING = 64, 64, 256
DAY = 86400.0
_BATCH = 500  # jobs that are forgotten in one transaction
_LARGEST_INTEGER = 2**63 - 1
_CLAIMS = tuple(field.name for field in msgspec.structs.fields(JobClaims))

T = TypeVar("T")


class JobLedger:
    """The database at ``path``; a `Ledger`. It is opened by the first call.

    ``keep_days``: how long a job is kept after its end. ``note`` gets a line about what the ledger did about
    trouble. One process writes; any number may read meanwhile.
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
        self._provisional = 0
        self._late: dict[int, int | None] = {}  # provisional number -> its real one, once it has one
        self._open: set[int] = set()
        self._kept_at = -math.inf

    def begin(self, report: JobReport) -> int:
        """Note a job that has begun; returns its number here.

        When it cannot be written now, that is noted, and the number is a provisional, negative one, with
        which `update` writes the job as soon as it can. Raises nothing.
        """
        with self._lock:
            try:
                number = self._do(lambda connection: self._insert(connection, report))
                self._open.add(number)
                return number
            except RunnerctlError as error:
                self._note(f"a job of slot {report.slot} could not be written down: {error}")
                self._provisional -= 1
                self._late[self._provisional] = None
                for old in list(self._late)[:-MOST_PENDING]:
                    del self._late[old]
                return self._provisional

    def update(self, number: int, report: JobReport) -> None:
        """Note what is known by now. Raises RunnerctlError.

        With an ``ended_at`` the job is over, and counts in the totals: give it once.
        """
        with self._lock:
            self._late[number] = self._do(lambda connection: self._change(connection, number, report))
            if report.ended_at is not None:
                del self._late[number]
                self._open.discard(number)
                self._keep()

    def close_open(self, *, at: float) -> int:
        """End the jobs that an earlier guard, or a power cut, left open; returns how many.

        Such a job ended when it was seen last, at ``at`` (epoch seconds) at the latest.
        Raises RunnerctlError.
        """
        with self._lock:
            closed = self._do(lambda connection: _close_all(connection, at))
            self._keep()
            return closed

    def close(self) -> None:
        """Close the file; the next call would open it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _keep(self) -> None:
        """Once a day, forget what is older than is to be kept."""
        if self._clock() - self._kept_at < DAY:
            return
        try:
            while self._do(self._forget) == _BATCH:
                pass
            self._kept_at = self._clock()
        except RunnerctlError as error:
            self._note(f"old jobs could not be removed: {error}")

    def _forget(self, connection: sqlite3.Connection) -> int:
        # The clock of a host that has just booted may be years ahead: what was written last knows better.
        (newest,) = connection.execute("SELECT max(seen_at) FROM jobs").fetchone()
        before = min(self._clock(), newest or 0.0) - self._keep_days * DAY
        old = "SELECT number FROM jobs WHERE ended_at < ? ORDER BY ended_at LIMIT ?"
        return connection.execute(f"DELETE FROM jobs WHERE number IN ({old})", (before, _BATCH)).rowcount

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it in one transaction. A damaged database is put aside, and a new one begun."""
        for attempt in (1, 2):
            try:
                return self._once(work)
            except DamagedError as damage:
                self.close()
                aside = put_aside(self.path, self._clock())
                self._note(
                    f"{self.path} is damaged ({damage}): put aside as {aside.name}; a new one is begun"
                )
                self._late.update(dict.fromkeys(self._open))  # their numbers were the old one's
                if attempt == 2:
                    break
        raise explained(sqlite3.DatabaseError("it is damaged again and again"), self.path)

    def _once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = open_to_write(self.path)
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            done = work(connection)
            connection.execute("COMMIT")
            return done
        except sqlite3.Error as error:
            # After some errors SQLite has rolled back by itself; a fresh connection is sure of its state.
            self.close()
            if is_damage(error):
                raise DamagedError(str(error)) from None
            raise explained(error, self.path) from None

    def _insert(self, connection: sqlite3.Connection, report: JobReport) -> int:
        values = {**_row(report), "seen_at": _number(self._seen(report))}
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        cursor = connection.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", tuple(values.values()))
        number = int(cursor.lastrowid or 0)
        _write_gpus(connection, number, report.gpus)
        if report.ended_at is not None:
            count(connection, number)
        return number

    def _change(self, connection: sqlite3.Connection, name: int, report: JobReport) -> int:
        """Returns the job's number in this database, which is not its ``name`` when it came late."""
        number = self._late.get(name, name)
        found = connection.execute("SELECT ended_at FROM jobs WHERE number = ?", (number,)).fetchone()
        if number is None or found is None:
            return self._insert(connection, report)
        values = {**_row(report), "seen_at": _number(self._seen(report))}
        names = ", ".join(f"{name} = ?" for name in values)
        connection.execute(f"UPDATE jobs SET {names} WHERE number = ?", (*values.values(), number))
        _write_gpus(connection, number, report.gpus)
        if report.ended_at is not None and found[0] is None:
            count(connection, number)
        return number

    def _seen(self, report: JobReport) -> float:
        return self._clock() if report.ended_at is None else report.ended_at


def _close_all(connection: sqlite3.Connection, at: float) -> int:
    query = "SELECT number, started_at, seen_at FROM jobs WHERE ended_at IS NULL"
    found = connection.execute(query).fetchall()
    for number, started, seen in found:
        ended = max(min(seen, at), started)
        change = "UPDATE jobs SET ended_at = ?, interrupted = 1 WHERE number = ?"
        connection.execute(change, (ended, number))
        count(connection, number)
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
