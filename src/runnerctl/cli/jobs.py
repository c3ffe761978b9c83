"""``runnerctl jobs``: the jobs that ran on this host, what they used, and how idle its GPUs were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.errors import AccessError, UsageError

if TYPE_CHECKING:
    from runnerctl.cli.jobs_view import Answer
    from runnerctl.core.jobs import JobFilter, JobRow

__all__ = ["app", "jobs"]

EXAMPLE = """
runnerctl jobs --since 24h
runnerctl jobs --since 30d --by repository
runnerctl jobs --repository 'acme/*' --result failed -o csv >failed.csv
"""
app = new_app()
Pattern = str | None
SinceOption = Annotated[
    str,
    typer.Option("--since", metavar="TIME", help="From when on: 90m, 12h, 7d, 2w, or a date (UTC)."),
]
UntilOption = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Until when. Default: now.", show_default=False),
]
RepositoryOption = Annotated[
    Pattern,
    typer.Option("--repository", metavar="PATTERN", help="Only of these, like 'acme/*'.", show_default=False),
]
WorkflowOption = Annotated[
    Pattern,
    typer.Option("--workflow", metavar="PATTERN", help="Only of workflows so named.", show_default=False),
]
SlotOption = Annotated[
    Pattern, typer.Option("--slot", metavar="PATTERN", help="Only on these slots.", show_default=False)
]
ActorOption = Annotated[
    Pattern,
    typer.Option("--actor", metavar="PATTERN", help="Only of who started them.", show_default=False),
]
ResultOption = Annotated[
    Pattern,
    typer.Option(
        "--result",
        metavar="PATTERN",
        help="Only with this result: succeeded, failed, canceled, refused, interrupted, running, unknown.",
        show_default=False,
    ),
]
LimitOption = Annotated[
    str | None,
    typer.Option(
        "--limit", metavar="N", help="At most so many, the newest. Default: 100.", show_default=False
    ),
]
ByOption = Annotated[
    Literal["repository", "workflow", "slot", "week", "day"] | None,
    typer.Option("--by", help="Add them up instead of listing them.", show_default=False),
]
OutputOption = Annotated[
    Literal["text", "json", "csv"] | None,
    typer.Option("--output", "-o", help="How to print the answer. Default: text.", show_default=False),
]
PrometheusOption = Annotated[
    str | None,
    typer.Option(
        "--prometheus",
        metavar="FILE",
        help="Write metrics to FILE (*.prom) for Prometheus' textfile collector, and print nothing.",
        show_default=False,
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="FILE",
        help="Read this copy of a job database. Default: /var/lib/runnerctl/jobs.db.",
        show_default=False,
    ),
]


@app.command("jobs", cls=Command, epilog=EXAMPLE)
def jobs(
    context: typer.Context,
    since: SinceOption = "7d",
    until: UntilOption = None,
    repository: RepositoryOption = None,
    workflow: WorkflowOption = None,
    slot: SlotOption = None,
    actor: ActorOption = None,
    result: ResultOption = None,
    limit: LimitOption = None,
    by: ByOption = None,
    prometheus: PrometheusOption = None,
    database: DatabaseOption = None,
    output: OutputOption = None,
) -> int:
    """List the jobs that ran on this host, and what they used.

    The newest come first, with those that run now. Patterns are the shell's, in any case. What is not known
    (how long a job waited, what a MIG device's utilisation was) is "-" or null, never a zero. Below stands
    how much of the slots' GPU time belonged to no job. Names are what the jobs said of themselves.

    It needs root, or a copy of the database (`--database`), which may lie anywhere.
    """
    from runnerctl.core.jobs import JobFilter

    command: Context = context.obj
    file = _database(command, database)
    if prometheus is not None:
        _write_metrics(command, prometheus, file)
        return 0
    chosen = JobFilter(repository=repository, workflow=workflow, slot=slot, actor=actor, result=result)
    answer = _answer(command, file, chosen, period=_period(command, since, until), by=by)
    _say(command, answer, output, most=_number(limit))
    return 0


def _database(context: Context, given: str | None) -> Path:
    if given is not None:
        return Path(given)
    if context.user_id() != 0:
        remedy = "run this as root, or give a copy with --database"
        raise AccessError("jobs are for root to read", where="the job database", remedy=remedy)
    return context.paths.state / "jobs.db"


def _period(context: Context, since: str, until: str | None) -> tuple[float, float]:
    from runnerctl.core.jobs_period import moment

    now = context.clock()
    end = now if until is None else moment(until, now=now, option="--until")
    start = moment(since, now=now, option="--since")
    if start >= end:
        raise UsageError("is not before the period's end", where="--since", remedy="give an earlier time")
    return start, end


def _number(limit: str | None) -> int | None:
    if limit is None:
        return None
    if not (limit.isascii() and limit.isdigit() and int(limit[:9]) > 0 and len(limit) < 9):
        raise UsageError(f"is {limit!r}", where="--limit", remedy="give a whole number, 1 or more")
    return int(limit)


def _answer(
    context: Context, file: Path, chosen: JobFilter, *, period: tuple[float, float], by: str | None
) -> Answer:
    from runnerctl.cli.jobs_view import Answer
    from runnerctl.core.jobs import idle_shares, totals
    from runnerctl.guard.ledger_read import reading

    since, until = period
    with reading(file) as found:
        rows = list(found.jobs(since=since, until=until))
        begun = found.begun_at
    now = context.clock()
    taken = [row for row in rows if chosen.takes(row)]
    host, gpus = _gpus(context, rows, file)
    return Answer(
        host=host,
        since=since,
        until=until,
        now=now,
        rows=taken,
        by=by,
        totals=totals(taken, by=by, now=now) if by else [],
        idle=idle_shares(rows, gpus, since=max(since, begun), until=min(until, now)),
    )


def _gpus(context: Context, rows: list[JobRow], file: Path) -> tuple[str | None, dict[str, int]]:
    """The host's name, and how many GPUs each slot has: by the spec, or for a copy by what jobs had."""
    from runnerctl.guard.ledger_metrics import gpus_of_slots
    from runnerctl.hostfile import load_host_spec

    if file == context.paths.state / "jobs.db" and (spec := load_host_spec(context.paths.host_file)):
        return spec.host, gpus_of_slots(spec)
    most: dict[str, int] = {}
    for row in rows:
        most[row.slot] = max(most.get(row.slot, 0), len(row.gpus))
    return None, dict(sorted(most.items()))


def _write_metrics(context: Context, prometheus: str, file: Path) -> None:
    from runnerctl.guard.ledger_metrics import write_metrics

    _, gpus = _gpus(context, [], file)
    write_metrics(Path(prometheus), file, gpus=gpus, now=context.clock())


def _say(context: Context, answer: Answer, output: str | None, *, most: int | None) -> None:
    from runnerctl.cli import jobs_view

    if output == "csv":
        context.say(jobs_view.csv_text(answer, most=most))
    elif context.wants_json(output):
        context.say_json(jobs_view.json_value(answer, most=most))
    else:
        context.say(
            jobs_view.text(answer, most=jobs_view.MOST_LISTED if most is None else most, width=context.width)
        )
