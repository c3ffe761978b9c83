"""``runnerctl clean``: keep the slots' disk use in bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption
from runnerctl.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runnerctl.core.clean import Doomed

__all__ = ["app", "clean"]

SCHEMA = "runnerctl.clean/1"
EXAMPLE = """
runnerctl clean --dry-run
runnerctl clean main
runnerctl clean -o json
"""
app = new_app()
SlotsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="SLOT", help="Slots by name. Default: all, and the images.", show_default=False),
]
DryRunOption = Annotated[
    bool, typer.Option("--check", "--dry-run", help="Say what would go, and remove nothing.")
]


@app.command("clean", cls=Command, epilog=EXAMPLE)
def clean(
    context: typer.Context,
    slots: SlotsArgument = None,
    dry_run: DryRunOption = False,
    output: OutputOption = None,
) -> int:
    """Keep the slots' disk use in bounds.

    Workspaces, tools, logs of ended jobs and container images stay within the budgets of inventory
    (runnerctl_clean_work_gib and its like): the oldest go first. What root left in a slot's directories, and
    what was put aside to be deleted, goes at once. A slot that runs a job is not touched. A timer runs this;
    it needs root.
    """
    from runnerctl.cli.clean_host import CleanHost

    command: Context = context.obj
    host = CleanHost(command, slots)
    plan = host.plan()
    gone = plan if dry_run else host.remove(plan)
    _tell(command, gone, skipped=host.skipped, failed=host.failed, dry_run=dry_run, output=output)
    return UnavailableError.exit_code if host.failed else 0


def _tell(
    context: Context,
    gone: Sequence[Doomed],
    *,
    skipped: dict[str, str],
    failed: list[str],
    dry_run: bool,
    output: str | None,
) -> None:
    from runnerctl.cli.output import escape

    for slot, reason in skipped.items():
        context.note(f"runnerctl: slot {slot} {reason}: it is left alone")
    for line in failed:
        context.note(f"runnerctl: {escape(line)}")
    freed = sum(each.thing.size_bytes for each in gone)
    if context.wants_json(output):
        busy = [{"slot": slot, "reason": reason} for slot, reason in skipped.items()]
        removed = [_json(each) for each in gone]
        answer = {"schema": SCHEMA, "dry_run": dry_run, "freed_bytes": freed, "removed": removed}
        context.say_json({**answer, "skipped": busy, "failed": failed})
        return
    if gone:
        context.say(_table(gone, context.width))
    verb = "would be freed" if dry_run else "freed"
    context.say(f"{_size(freed)} {verb}" if gone else "nothing to remove")


def _json(each: Doomed) -> dict[str, Any]:
    from runnerctl.cli.output import rfc3339

    thing = each.thing
    return {
        "kind": thing.kind,
        "slot": thing.slot or None,
        "name": thing.name,
        "size_bytes": thing.size_bytes,
        "used_at": rfc3339(thing.used_at),
        "reason": each.reason,
    }


def _table(gone: Sequence[Doomed], width: int) -> str:
    from runnerctl.cli.output import table

    rows = [
        (each.thing.slot, each.thing.kind, _size(each.thing.size_bytes), each.reason, each.thing.name)
        for each in gone
    ]
    return table(("SLOT", "KIND", "SIZE", "WHY", "NAME"), rows, width=width)


def _size(count: int) -> str:
    """Bytes for people."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
