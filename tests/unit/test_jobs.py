"""Jobs: filters, sums, idle shares, moments, the reports a job gets, metrics."""

from __future__ import annotations

from typing import Any

import pytest

from runnerctl.core.job_metrics import JobTotals, job_metrics
from runnerctl.core.jobs import Idle, JobFilter, JobRow, idle_shares, outcome, totals
from runnerctl.core.jobs_period import moment
from runnerctl.errors import UsageError
from runnerctl.guard.ports import GpuUse, JobClaims, JobReport, Residue
from runnerctl.guard.report import summary_report, text_report

NOW = 1_795_348_800.0  # 2026-11-22T12:00:00Z, a Sunday
HOUR, DAY = 3600.0, 86400.0
MEASURED = GpuUse(
    "GPU-1", seconds=100, measured_seconds=80, busy_seconds=40, memory_peak_bytes=5, energy_joules=7
)
UNMEASURED = GpuUse("MIG-2", seconds=100)


def row(number: int = 1, **changes: Any) -> JobRow:
    """A job that ended well."""
    basis: dict[str, Any] = {
        "slot": "a",
        "started_at": NOW - 200,
        "ended_at": NOW - 100,
        "result": "Succeeded",
    }
    return JobRow(number, **{**basis, "repository": "acme/app", "workflow": "CI", **changes})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "succeeded"),
        ({"ended_at": None}, "running"),
        ({"refused": "a fork"}, "refused"),
        ({"interrupted": True, "result": None}, "interrupted"),
        ({"result": None}, "unknown"),
    ],
)
def test_how_a_job_went(changes: dict[str, Any], word: str) -> None:
    """One word for each way."""
    assert outcome(row(**changes)) == word


@pytest.mark.parametrize(
    ("chosen", "taken"),
    [
        (JobFilter(), True),
        (JobFilter(repository="ACME/*"), True),
        (JobFilter(repository="acme"), False),
        (JobFilter(workflow="ci"), True),
        (JobFilter(workflow="*/ci.yml@*"), True),
        (JobFilter(slot="a", result="succ*"), True),
        (JobFilter(actor="ann"), False),
        (JobFilter(actor="*"), True),
    ],
)
def test_filters(chosen: JobFilter, taken: bool) -> None:
    """Shell patterns in any case; a workflow by its name or its file."""
    assert chosen.takes(row(workflow_ref="acme/app/.github/workflows/ci.yml@main")) is taken


def test_sums_know_what_was_not_measured() -> None:
    """Time that was not measured is neither busy nor idle."""
    rows = [row(gpus=(MEASURED, UNMEASURED)), row(2, result="Failed", gpus=(UNMEASURED,), repository=None)]
    first, second = totals(rows, by="repository", now=NOW)
    assert (first.key, first.jobs, first.gpu_seconds, first.busy_share) == ("acme/app", 1, 200, 0.5)
    assert (first.energy_joules, first.memory_peak_bytes) == (7, 5)
    assert (second.key, second.failed, second.busy_share, second.energy_joules) == ("", 1, None, None)


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("week", ["2026-W47", "2026-W46"]),
        ("day", ["2026-11-22", "2026-11-15"]),
        ("slot", ["a"]),
        ("workflow", ["acme/app CI"]),
    ],
)
def test_groups(by: str, keys: list[str]) -> None:
    """Times: the newest first."""
    rows = [row(), row(2, started_at=NOW - 7 * DAY)]
    assert [total.key for total in totals(rows, by=by, now=NOW)] == keys


def test_idle_shares() -> None:
    """A job counts with its part of the period; refused jobs had no GPU; slots without GPUs do not count."""
    rows = [
        row(started_at=NOW - 10 * HOUR, ended_at=NOW - HOUR),
        row(2, slot="b", started_at=NOW - HOUR, ended_at=None),
        row(3, slot="b", started_at=NOW - 2 * HOUR, refused="no", ended_at=NOW - HOUR),
        row(4, slot="c"),
    ]
    found = idle_shares(rows, {"a": 1, "b": 2, "c": 0, "d": 1}, since=NOW - 4 * HOUR, until=NOW)
    assert [(each.slot, each.gpus, each.share) for each in found] == [
        ("a", 1, 0.25),
        ("b", 2, 0.75),
        ("d", 1, 1.0),
        (None, 4, 0.6875),
    ]
    assert idle_shares(rows, {}, since=0, until=NOW) == ()
    assert Idle("a", 1, 0.0, 0.0).share is None


def test_moments() -> None:
    """Ago, or a date; anything else is refused with the option's name."""
    assert moment("90m", now=NOW, option="--since") == NOW - 5400
    assert moment("2w", now=NOW, option="--since") == NOW - 14 * DAY
    assert moment("2026-11-22T12:00Z", now=0, option="--since") == NOW
    assert moment("2026-11-22", now=0, option="--since") == NOW - 12 * HOUR
    for wrong in ("yesterday", "-3d", "", "9" * 40):
        with pytest.raises(UsageError, match="--until"):
            moment(wrong, now=NOW, option="--until")


USE = GpuUse(
    uuid="GPU-1",
    name="NVIDIA H100",
    seconds=723,
    measured_seconds=720,
    busy_seconds=600,
    utilization_mean_percent=83.3,
    utilization_peak_percent=100,
    memory_peak_bytes=60 * 2**30,
    memory_total_bytes=80 * 2**30,
    energy_joules=500_000,
    temperature_peak_celsius=71,
    throttled=("power brake",),
    ecc_corrected=1,
    ecc_uncorrected=0,
)
EVIL = "::error::x ##[group]y\n::stop-commands::z </table><script>|[a](b) @all \x1b[31m"


def report(**changes: Any) -> JobReport:
    """A job that ran for twelve minutes."""
    claims = JobClaims(queued_seconds=41.0)
    return JobReport(**{"slot": "main", "started_at": 0.0, "ended_at": 723.0, "claims": claims, **changes})


def test_the_report_in_the_log() -> None:
    """Everything a person wants to know, one line each."""
    residue = Residue(processes=("sleep",), removed=("/tmp/x", "/tmp/y"))
    assert text_report(report(gpus=(USE,), residue=residue)).splitlines() == [
        "GPU report of slot main: ran 12 min 3 s, waited 41 s",
        "NVIDIA H100 (GPU-1)",
        "  memory:      peak 60.0 of 80.0 GiB",
        "  utilisation: mean 83 %, peak 100 %",
        "  energy:      0.139 kWh",
        "  temperature: peak 71 C",
        "  slowed down: power brake",
        "  ECC errors:  1 corrected, 0 uncorrected",
        "Xid errors:    none",
        "left behind:   1 process, ended (sleep); 2 things, removed",
    ]


def test_what_was_not_measured_is_said() -> None:
    """Never a zero."""
    text = text_report(report(gpus=(GpuUse("MIG-1", seconds=60.0),), claims=JobClaims()))
    assert "how long it waited is not known" in text
    assert text.count("not measured") == 6
    assert "nothing of 1 min 0 s" in text
    assert "no GPU" in text_report(report())


def test_no_name_steers_the_runner_or_the_page() -> None:
    """Workflow commands, markup, links, mentions and escapes are only text."""
    evil = report(
        slot=EVIL,
        gpus=(GpuUse(EVIL, name=EVIL),),
        xids=(EVIL,),
        residue=Residue((EVIL,), (), (EVIL,)),
        refused=EVIL,
    )
    text, summary = text_report(evil), summary_report(evil)
    for line in text.splitlines():
        assert "::" not in line
        assert "##[" not in line
    assert "\x1b" not in text + summary
    assert "<script" not in summary
    assert not any(line.lstrip().startswith("::") for line in summary.splitlines())
    assert "](b" not in summary.replace("\\]\\(b", "")
    assert " @" not in summary
    table = [line for line in summary.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {9}


def test_a_hundred_texts_are_cut() -> None:
    """A log is no place for all of them."""
    text = text_report(report(gpus=(USE,), xids=("Xid 31 " + "x" * 500,) * 100))
    assert "and 80 more" in text
    assert len(text) < 6000


def test_metrics() -> None:
    """Names with units, counters by slot and repository, escaped labels; what is not known is left out."""
    counted = [
        JobTotals("a", 'x"y\\', "succeeded", 3, 10.0, 20.0, 15.0, 5.0, 7.5, 1),
        JobTotals("a", 'x"y\\', "failed", 1, 1.0, 2.0, 0.0, 0.0, 0.0, 0),
    ]
    idle = idle_shares([], {"a": 2}, since=NOW - 10, until=NOW)
    lines = job_metrics(counted, running=[row(ended_at=None)], idle=idle, now=NOW).splitlines()
    labels = r'slot="a",repository="x\"y\\"'
    assert f'runnerctl_jobs_total{{{labels},result="succeeded"}} 3' in lines
    assert f"runnerctl_job_gpu_seconds_total{{{labels}}} 22" in lines
    assert f"runnerctl_job_gpu_energy_joules_total{{{labels}}} 7.5" in lines
    assert 'runnerctl_slot_jobs{slot="a"} 1' in lines
    assert 'runnerctl_slot_gpu_idle_ratio{slot="a"} 1' in lines
    nothing = job_metrics([], running=[], idle=(), now=NOW)
    assert [line.split()[0] for line in nothing.splitlines() if line[0] != "#"] == [
        "runnerctl_jobs_timestamp_seconds"
    ]
