"""The job database: what it keeps, what it survives, who may look at it meanwhile."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.job_metrics import JobTotals
from runnerctl.core.jobs import JobRow
from runnerctl.errors import DataError, UnavailableError
from runnerctl.guard.ledger import JobLedger
from runnerctl.guard.ledger_read import reading
from runnerctl.guard.ledger_totals import MOST_REPOSITORIES, OTHERS
from runnerctl.guard.ports import GpuUse, JobClaims, JobReport, Residue

NOW = 1_795_348_800.0
DAY = 86400.0
USE = GpuUse(
    "GPU-1", "NVIDIA L4", 100.0, 90.0, 45.0, 50.0, 97, 2**30, 2**34, 5000.0, 70, ("power brake",), 0, 1
)
WRITER = """
import sys
from pathlib import Path
from runnerctl.guard.ledger import JobLedger
from runnerctl.guard.ports import JobReport
ledger = JobLedger(Path(sys.argv[1]))
for turn in range(1_000_000):
    number = ledger.begin(JobReport("main", 1700000000.0 + turn))
    ledger.update(number, JobReport("main", 1700000000.0 + turn, ended_at=1700000001.0 + turn))
    print(number, flush=True)
"""


def report(slot: str = "main", **changes: Any) -> JobReport:
    """A job that has begun."""
    return JobReport(**{"slot": slot, "started_at": NOW - 100, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "jobs.db"


class Clock:
    """The time, as a test wants it."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """It stands still."""
    return Clock()


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[JobLedger]:
    """An empty one."""
    made = JobLedger(path, clock=clock)
    yield made
    made.close()


def settled(ledger: JobLedger, clock: Clock) -> list[JobTotals]:
    """The counters when the dust has settled."""
    clock.now += 121
    ledger.settle()
    return totals(ledger.path)


def jobs(path: Path) -> list[JobRow]:
    """All of them, the newest first."""
    with reading(path) as found:
        return list(found.jobs(since=0, until=NOW + DAY))


def totals(path: Path) -> list[JobTotals]:
    """The counters."""
    with reading(path) as found:
        return found.totals()


def test_a_job_is_kept_as_it_was(ledger: JobLedger, path: Path, clock: Clock) -> None:
    """Every field comes back; the file is root's alone."""
    claims = JobClaims("acme/app", "CI", "acme/app/.github/workflows/x.yml@a", "build", 7, 2, "ann", "push")
    number = ledger.begin(report(claims=claims))
    assert jobs(path)[0].ended_at is None
    residue = Residue(("sleep",), ("/tmp/x", "/tmp/y"), ("stuck",))
    more: dict[str, Any] = {
        "result": "Succeeded",
        "gpus": (USE,),
        "xids": ("Xid 31 of GPU 0",),
        "residue": residue,
    }
    ledger.update(number, report(claims=claims, ended_at=NOW, **more))
    (row,) = jobs(path)
    assert (row.repository, row.run_id, row.actor, row.queued_seconds) == ("acme/app", 7, "ann", None)
    assert (row.result, row.xids, row.interrupted) == ("Succeeded", ("Xid 31 of GPU 0",), False)
    assert (row.residue_processes, row.residue_removed, row.residue_remains) == (1, 2, ("stuck",))
    (gpu,) = row.gpus
    assert {name: getattr(gpu, name) for name in USE.__struct_fields__} == {
        name: getattr(USE, name) for name in USE.__struct_fields__
    }
    assert totals(path) == []
    assert settled(ledger, clock) == [
        ("main", "acme/app", "succeeded", 1, 100.0, 100.0, 90.0, 45.0, 5000.0, 1)
    ]
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}


def test_what_a_job_says_is_data(ledger: JobLedger, path: Path) -> None:
    """Neither SQL nor size nor odd characters or numbers get through."""
    nasty = "x'); DROP TABLE jobs; --" + "\0\ud800" + "y" * 100_000
    claims = JobClaims(nasty, run_id=2**80, queued_seconds=float("nan"))
    ledger.begin(report(claims=claims, xids=("z" * 10_000,) * 1000))
    (row,) = jobs(path)
    assert row.repository is not None
    assert row.repository.startswith("x'); DROP TABLE jobs; --??yyy")
    assert (len(row.repository), row.run_id, row.queued_seconds) == (512, None, None)
    assert sum(map(len, row.xids)) <= 512


def test_repositories_are_bounded_in_the_totals(ledger: JobLedger, clock: Clock) -> None:
    """Whatever jobs call themselves, the number of series has an end."""
    for number in range(MOST_REPOSITORIES + 5):
        claims, began = JobClaims(f"acme/{number}"), NOW - 1000 + number
        ledger.begin(report(claims=claims, started_at=began, ended_at=NOW, result="new word"))
    found = settled(ledger, clock)
    assert len({row.repository for row in found}) == MOST_REPOSITORIES + 1
    assert [(row.jobs, row.result) for row in found if row.repository == OTHERS] == [(5, "unknown")]


def test_open_jobs_are_closed_when_they_were_seen_last(ledger: JobLedger, path: Path, clock: Clock) -> None:
    """A night without power is no GPU time. One that ran on after all is opened again."""
    number = ledger.begin(report())
    ledger.begin(report("other"))
    ledger.update(number, report(gpus=(USE,)))
    ledger.close()
    clock.now += DAY
    assert ledger.close_open(at=NOW + DAY) == 2
    assert ledger.close_open(at=NOW + DAY) == 0
    assert [(row.ended_at, row.interrupted) for row in jobs(path)] == [(NOW, True), (NOW, True)]
    ledger.update(number, report())
    assert [row.ended_at for row in jobs(path)] == [NOW, None]
    assert settled(ledger, clock)[-1].result == "interrupted"


def test_old_jobs_are_forgotten_and_still_counted(path: Path, clock: Clock) -> None:
    """Counters never fall; a clock that is years ahead forgets nothing."""
    ledger = JobLedger(path, keep_days=10, clock=clock)
    ledger.begin(report(started_at=NOW - 12 * DAY, ended_at=NOW - 11 * DAY))
    ledger.begin(report(started_at=NOW - 9 * DAY, ended_at=NOW - 8 * DAY))
    clock.now += 9999 * DAY
    ledger.settle()
    assert len(jobs(path)) == 2
    clock.now = NOW + DAY
    ledger.begin(report(ended_at=NOW))
    assert [row.started_at for row in jobs(path)] == [NOW - 100, NOW - 9 * DAY]
    assert settled(ledger, clock)[0].jobs == 3
    ledger.close()


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_damaged_database_is_put_aside(path: Path, content: bytes) -> None:
    """Accounting goes on with a new one; the old one is kept, and it is said."""
    path.write_bytes(content)
    notes: list[str] = []
    ledger = JobLedger(path, note=notes.append)
    ledger.begin(report())
    assert len(jobs(path)) == 1
    (aside,) = path.parent.glob("jobs.db.damaged-*Z")
    assert aside.read_bytes() == content
    assert len(notes) == 1
    assert "put aside" in notes[0]
    ledger.close()


def test_a_database_that_breaks_meanwhile(path: Path) -> None:
    """A job that began in the old one is in the new one, once, whatever its number is there."""
    first, number = JobLedger(path).begin(report("other", ended_at=NOW)), JobLedger(path).begin(
        report("slow")
    )
    for each in path.parent.iterdir():
        each.unlink()
    path.write_bytes(b"x" * 100_000)
    notes: list[str] = []
    ledger = JobLedger(path, note=notes.append)
    assert [ledger.begin(report("quick")), ledger.begin(report("quicker"))] == [first, number]
    for changes in ({}, {"ended_at": NOW, "result": "Failed"}):
        JobLedger(path).update(number, report("slow", **changes))
    found = sorted((row.slot, row.result) for row in jobs(path))
    assert found == [("quick", None), ("quicker", None), ("slow", "Failed")]
    assert len(notes) == 1
    ledger.close()


def test_what_is_tried_again_is_there_once(path: Path) -> None:
    """A writer that ended before it could say so had written all the same."""
    numbers = {JobLedger(path).begin(report()) for _ in range(3)}
    assert len(numbers) == len(jobs(path)) == 1


def test_a_newer_or_foreign_database_is_left_alone(ledger: JobLedger, path: Path, tmp_path: Path) -> None:
    """A newer one belongs to a newer runnerctl; somebody else's is no job database."""
    ledger.begin(report())
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataError, match="upgrade runnerctl"), reading(path):
        pass
    with pytest.raises(DataError, match="upgrade runnerctl"):
        ledger.close_open(at=NOW)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(DataError, match="no job database"), reading(foreign):
        pass
    with pytest.raises(UnavailableError, match="there is no job database"), reading(tmp_path / "none.db"):
        pass


def test_a_full_disk_is_said_and_harms_nothing(path: Path) -> None:
    """One clear line; what was there stays, and there is a next time."""
    ledger = JobLedger(path)
    ledger.begin(report("first"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(UnavailableError, match=r"jobs.db: cannot be used: .*; .*file system"):
            ledger.begin(report("second"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    ledger.begin(report("second"))
    assert sorted(row.slot for row in jobs(path)) == ["first", "second"]
    ledger.close()


def test_a_reader_sees_whole_jobs_while_one_is_written(ledger: JobLedger, path: Path) -> None:
    """One look is one moment; the writer does not wait for it."""
    ledger.begin(report())
    with reading(path) as found:
        assert len(list(found.jobs(since=0, until=NOW))) == 1
        began = time.monotonic()
        ledger.begin(report("other"))
        assert time.monotonic() - began < 1
        assert len(list(found.jobs(since=0, until=NOW))) == 1
    assert len(jobs(path)) == 2


@pytest.mark.exhaustive
def test_a_writer_that_is_killed_at_any_moment_loses_nothing(path: Path) -> None:
    """What was said to be written is there, and the file is sound."""
    for turn in range(12):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(0.01 + 0.007 * turn)
            os.kill(writer.pid, signal.SIGKILL)
            lines = [first, *writer.stdout.readlines()]
        said = int([line for line in lines if line.endswith(b"\n")][-1])
        notes: list[str] = []
        ledger = JobLedger(path, note=notes.append)
        assert ledger.close_open(at=NOW) <= 1
        ledger.settle()
        ledger.close()
        found = jobs(path)
        assert notes == []
        assert said in {row.number for row in found}
        assert sum(row.jobs for row in totals(path)) == len(found)
