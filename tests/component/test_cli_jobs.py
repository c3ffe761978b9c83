"""``runnerctl jobs`` on a database that a ledger wrote."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.guard.ledger import JobLedger
from runnerctl.guard.ledger_metrics import publish
from runnerctl.guard.ports import GpuUse, JobClaims, JobReport
from runnerctl.hostfile import load_host_spec
from tests.component.cli_support import Ran, call, host_json
from tests.promtool import promtool

NOW = 1_795_348_800.0
HOUR = 3600.0
USE = GpuUse("GPU-1", "L4", 3600.0, 3500.0, 1750.0, 50.0, 97, 8 * 2**30, 24 * 2**30, 180_000.0, 70)
GPUS = [f"GPU-{number:08d}-0000-4000-8000-000000000000" for number in range(2)]


def note(ledger: JobLedger, slot: str, hours_ago: float, hours: float | None, **changes: Any) -> None:
    """Write a job down that began so long ago and took so long."""
    began = NOW - hours_ago * HOUR
    ended = None if hours is None else began + hours * HOUR
    ledger.begin(JobReport(slot, began, ended, **changes))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with two slots, and three jobs in its database."""
    slots = [{"name": name, "gpus": [gpu]} for name, gpu in zip(("a", "b"), GPUS, strict=True)]
    host_json(tmp_path, url="https://github.com/acme/app", slots=slots)
    state = tmp_path / "var/lib/runnerctl"
    state.mkdir(parents=True)
    ledger = JobLedger(state / "jobs.db", clock=lambda: NOW)
    evil = JobClaims(
        "=cmd|' /C calc'!A0", "\x1b[31mred\n", job="build", run_id=7, actor="+ann", queued_seconds=5.0
    )
    note(ledger, "a", 30 * 24, 1, claims=JobClaims("acme/old"), result="Succeeded")
    note(
        ledger,
        "a",
        3,
        1,
        claims=JobClaims("acme/app", "CI"),
        result="Succeeded",
        gpus=(USE,),
        xids=("Xid 31",),
    )
    note(ledger, "b", 2, 0.5, claims=evil, result="Failed", gpus=(GpuUse("MIG-2", seconds=1800.0),))
    note(ledger, "a", 0.5, None, claims=JobClaims("acme/app", "Nightly"))
    ledger.settle()
    ledger.close()
    return tmp_path


def jobs(root: Path, *arguments: str, **more: Any) -> Ran:
    """The command, on that host."""
    return call("jobs", *arguments, root=root, **more)


def test_the_list_is_for_people(root: Path) -> None:
    """Newest first, 80 columns, running jobs too, nothing of a name's acts on a terminal."""
    ran = jobs(root)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert [line.split()[:1] for line in lines[:1]] == [["STARTED"]]
    assert [line.split()[3] for line in lines if line.startswith("2026")] == [
        "running",
        "failed",
        "succeeded",
    ]
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in ran.out
    assert "Xid 31" in ran.out
    assert "acme/old" not in ran.out
    assert "50 %" in lines[-4] + lines[-3]
    assert lines[-1].startswith("GPUs without a job: 9")


def test_json_and_filters(root: Path) -> None:
    """One schema; what is not known is null."""
    found = jobs(root, "-o", "json", "--slot", "b").json
    assert (found["schema"], found["host"], found["job_count"]) == ("runnerctl.jobs/1", "gpu-1", 1)
    (job,) = found["jobs"]
    assert (job["result"], job["queued_seconds"], job["busy_gpu_seconds"]) == ("failed", 5.0, None)
    assert job["gpus"][0]["memory_peak_bytes"] is None
    assert job["started_at"] == "2026-11-22T10:00:00Z"
    assert [each["slot"] for each in found["idle"]] == ["a", "b", None]
    for arguments, count in (
        (["--repository", "ACME/*"], 2),
        (["--repository", "acme/*", "--since", "60d"], 3),
        (["--result", "running"], 1),
        (["--workflow", "ci"], 1),
        (["--actor", "+ann"], 1),
        (["--until", "150m"], 1),
    ):
        assert jobs(root, "-o", "json", *arguments).json["job_count"] == count, arguments
    assert len(jobs(root, "-o", "json", "--limit", "1").json["jobs"]) == 1


def test_sums(root: Path) -> None:
    """By repository, slot or time, in all three forms."""
    found = jobs(root, "--by", "repository", "-o", "json").json
    assert found["totals"][0]["repository"] == "acme/app"
    assert found["totals"][0]["gpu_seconds"] == 3600
    assert "GPU-HOURS" in jobs(root, "--by", "week").out
    assert "by slot: a" in jobs(root, "--by", "slot").out
    assert jobs(root, "--by", "day", "-o", "csv").out.startswith("day,jobs,failed,")


def test_csv_has_no_formulas(root: Path) -> None:
    """A repository called =cmd|... is a text in a spreadsheet."""
    rows = list(csv.DictReader(io.StringIO(jobs(root, "-o", "csv").out)))
    assert len(rows) == 3
    assert rows[1]["repository"] == "'=cmd|' /C calc'!A0"
    assert rows[1]["actor"] == "'+ann"
    assert rows[1]["workflow"] == "\\x1b[31mred\\x0a"
    assert (rows[0]["ended_at"], rows[1]["energy_joules"], rows[2]["xids"]) == ("", "", "Xid 31")


def test_metrics_are_prometheus_own(root: Path, tmp_path: Path) -> None:
    """promtool has no complaint; the file is there at once and readable."""
    file = tmp_path / "jobs.prom"
    assert jobs(root, "--prometheus", str(file)).code == 0
    text = file.read_text()
    assert 'runnerctl_jobs_total{slot="a",repository="acme/app",result="succeeded"} 1' in text
    assert 'runnerctl_slot_gpus{slot="b"} 1' in text
    assert file.stat().st_mode & 0o777 == 0o644
    check = [str(promtool()), "check", "metrics"]
    done = subprocess.run(check, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert jobs(root, "--prometheus", str(tmp_path / "jobs.txt")).code == 64
    file.unlink()
    spec = load_host_spec(root / "etc/runnerctl/host.json")
    assert spec is not None
    publish(spec, database=root / "var/lib/runnerctl/jobs.db", now=NOW)
    assert not file.exists()
    wanted = msgspec.structs.replace(spec.runnerctl, jobs_prometheus=str(file))
    spec = msgspec.structs.replace(spec, runnerctl=wanted)
    publish(spec, database=root / "var/lib/runnerctl/jobs.db", now=NOW)
    assert file.read_text() == text


def test_a_copy_can_be_read_anywhere(root: Path, tmp_path: Path) -> None:
    """Without root and without a host; how many GPUs there are, the jobs say."""
    copy = tmp_path / "copy.db"
    copy.write_bytes((root / "var/lib/runnerctl/jobs.db").read_bytes())
    ran = call("jobs", "--database", str(copy), "-o", "json", root=tmp_path / "nowhere", user_id=1000)
    assert ran.json["job_count"] == 3
    assert json.loads(ran.out)["idle"][-1]["gpus"] == 2


@pytest.mark.parametrize(
    ("arguments", "user", "code", "text"),
    [
        ([], 1000, 77, "run this as root, or give a copy"),
        (["--since", "soon"], 0, 64, "--since"),
        (["--since", "1d", "--until", "2d"], 0, 64, "not before"),
        (["--limit", "0"], 0, 64, "--limit"),
        (["--database", "/none.db"], 0, 69, "no job database"),
        (["--by", "moon"], 0, 64, "moon"),
    ],
)
def test_bad_input_is_one_clear_line(
    root: Path, arguments: list[str], user: int, code: int, text: str
) -> None:
    """What, where, what to do."""
    ran = jobs(root, *arguments, user_id=user)
    assert ran.code == code
    assert text in ran.err
    assert "Traceback" not in ran.err
