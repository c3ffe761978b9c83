"""How jobs look: as a table, as JSON, as CSV. Pure. Names are the jobs' own, and are escaped."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from runnerctl.cli.output import NONE, escape, rfc3339, table
from runnerctl.core.jobs import Idle, JobRow, Total, outcome

__all__ = ["MOST_LISTED", "SCHEMA", "Answer", "csv_text", "json_value", "text"]

SCHEMA = "runnerctl.jobs/1"
MOST_LISTED = 100
_GIBIBYTE = 2**30
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula (OWASP, "CSV Injection")
_COLUMNS = (
    *("started_at", "ended_at", "result", "slot", "repository", "workflow", "workflow_ref", "job"),
    *("run_id", "run_attempt", "actor", "event", "ref", "fork", "seconds", "queued_seconds", "gpus"),
    *("gpu_seconds", "measured_gpu_seconds", "busy_gpu_seconds", "memory_peak_bytes", "energy_joules"),
    *("xids", "refused"),
)
_SUMS = (
    *("jobs", "failed", "seconds", "gpu_seconds", "measured_gpu_seconds", "busy_gpu_seconds"),
    *("energy_joules", "memory_peak_bytes", "xids"),
)


@dataclass(frozen=True)
class Answer:
    """What was found. ``rows``: the jobs, the newest first; ``totals`` of all when ``by`` is given."""

    host: str | None
    since: float
    until: float
    now: float
    rows: Sequence[JobRow]
    by: str | None
    totals: Sequence[Total]
    idle: Sequence[Idle]


def text(answer: Answer, *, most: int, width: int) -> str:
    """For people: a table that reads well at 80 columns, and the idle share below."""
    shown = _totals_table(answer, most, width) if answer.by else _jobs_table(answer, most, width)
    lines = [shown, "", *_idle_lines(answer)]
    return "\n".join(lines).rstrip()


def _jobs_table(answer: Answer, most: int, width: int) -> str:
    if not answer.rows:
        return f"no job between {rfc3339(answer.since)} and {rfc3339(answer.until)}"
    head = ("STARTED (UTC)", "SLOT", "RESULT", "RAN", "BUSY", "VRAM", "JOB")
    rows = [_listed(row, answer.now) for row in answer.rows[:most]]
    shown = table(head, rows, width=width)
    more = len(answer.rows) - most
    return f"{shown}\n... and {more} older; see --limit" if more > 0 else shown


def _listed(row: JobRow, now: float) -> tuple[object, ...]:
    job = " ".join(part for part in (row.repository, row.job or row.workflow, _run(row)) if part)
    notes = [f"refused: {row.refused}"] if row.refused else []
    notes += list(row.xids)
    return (
        rfc3339(row.started_at)[:16].replace("T", " "),
        row.slot,
        outcome(row),
        _duration(row.seconds(now)),
        _percent(_busy(row)),
        _gibibytes(row.memory_peak_bytes),
        "; ".join([job or NONE, *notes]),
    )


def _run(row: JobRow) -> str | None:
    return None if row.run_id is None else f"#{row.run_id}"


def _busy(row: JobRow) -> float | None:
    """Mean utilisation of the measured time of its GPUs, 0 to 1."""
    total = Total("")
    total.add(row, row.started_at)
    return total.busy_share


def _totals_table(answer: Answer, most: int, width: int) -> str:
    head = ("JOBS", "FAILED", "GPU-HOURS", "BUSY", "VRAM", "ENERGY", str(answer.by).upper())
    rows = [
        (
            total.jobs,
            total.failed,
            f"{total.gpu_seconds / 3600:.1f}",
            _percent(total.busy_share),
            _gibibytes(total.memory_peak_bytes),
            None if total.energy_joules is None else f"{total.energy_joules / 3.6e6:.2f} kWh",
            total.key,
        )
        for total in answer.totals[:most]
    ]
    return table(head, rows, width=width) if rows else "no job in this time"


def _idle_lines(answer: Answer) -> Iterator[str]:
    *slots, host = answer.idle or (None,)
    if host is None or host.share is None:
        return
    yield (
        f"GPUs without a job: {_percent(host.share)} of {host.gpu_seconds / 3600:.1f} GPU-hours "
        f"({host.gpus} GPU{'' if host.gpus == 1 else 's'})"
    )
    if len(slots) > 1 and answer.by == "slot":
        shares = ", ".join(f"{escape(each.slot or '')} {_percent(each.share)}" for each in slots if each)
        yield f"by slot: {shares}"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share * 100:.0f} %"


def _gibibytes(count: int | None) -> str:
    return NONE if count is None else f"{count / _GIBIBYTE:.1f} GiB"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def json_value(answer: Answer, *, most: int | None) -> dict[str, Any]:
    """For programs; ``jobs`` are left out when they were added up."""
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "host": answer.host,
        "since": rfc3339(answer.since),
        "until": rfc3339(answer.until),
        "job_count": len(answer.rows),
        "running_count": sum(row.ended_at is None for row in answer.rows),
        "idle": [_idle_json(each) for each in answer.idle],
    }
    if answer.by:
        totals = answer.totals[:most]
        value["by"] = answer.by
        value["totals"] = [{answer.by: each.key, **_sums(each)} for each in totals]
    else:
        value["jobs"] = [_job_json(row, answer.now) for row in answer.rows[:most]]
    return value


def _idle_json(idle: Idle) -> dict[str, Any]:
    return {
        "slot": idle.slot,
        "gpus": idle.gpus,
        "gpu_seconds": round(idle.gpu_seconds, 3),
        "job_gpu_seconds": round(idle.job_gpu_seconds, 3),
        "idle_share": None if idle.share is None else round(idle.share, 4),
    }


def _sums(total: Total) -> dict[str, Any]:
    return {name: _rounded(getattr(total, name)) for name in _SUMS}


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _job_json(row: JobRow, now: float) -> dict[str, Any]:
    flat = _flat(row, now)
    flat |= {"xids": list(row.xids), "gpus": [msgspec.to_builtins(gpu) for gpu in row.gpus]}
    residue = {
        "processes": row.residue_processes,
        "removed": row.residue_removed,
        "remains": list(row.residue_remains),
    }
    return {"number": row.number, **flat, "residue": residue}


def _flat(row: JobRow, now: float) -> dict[str, Any]:
    """One value for each of the columns."""
    own = {name: getattr(row, name, None) for name in _COLUMNS if name not in ("seconds", "gpus")}
    return {
        **own,
        "started_at": rfc3339(row.started_at),
        "ended_at": None if row.ended_at is None else rfc3339(row.ended_at),
        "result": outcome(row),
        "seconds": round(row.seconds(now), 3),
        "gpus": " ".join(gpu.uuid for gpu in row.gpus),
        "gpu_seconds": _rounded(row.summed("seconds")),
        "measured_gpu_seconds": _rounded(row.summed("measured_seconds")),
        "busy_gpu_seconds": _rounded(row.summed("busy_seconds")),
        "energy_joules": _rounded(row.summed("energy_joules")),
        "xids": "; ".join(row.xids),
    }


def csv_text(answer: Answer, *, most: int | None) -> str:
    """For spreadsheets (RFC 4180): no text in it can become a formula, or a line of its own."""
    if answer.by:
        rows: Iterable[dict[str, Any]] = (
            {answer.by: each.key, **_sums(each)} for each in answer.totals[:most]
        )
        names: tuple[str, ...] = (answer.by, *_SUMS)
    else:
        rows = (_flat(row, answer.now) for row in answer.rows[:most])
        names = _COLUMNS
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row[name]) for name in names] for row in rows)
    return out.getvalue().rstrip("\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    return escape(f"'{value}" if value.startswith(_FORMULA) or value.lstrip().startswith(_FORMULA) else value)
