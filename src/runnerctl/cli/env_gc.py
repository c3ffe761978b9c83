"""``runnerctl env gc``: remove what was not used for long."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.env_options import StoreOption, bytes_given, days_given
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption

__all__ = ["app", "gc"]

SCHEMA = "runnerctl.env.gc/1"
EXAMPLE = """
runnerctl env gc --check
sudo runnerctl env gc --budget 200GiB --keep 14
runnerctl env gc --store user --budget 20%
"""
app = new_app()
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="SIZE",
        help="How much the store may take: 200GiB, or 20% of its file system.",
        show_default=False,
    ),
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="DAYS",
        help="Remove what was not used for longer, whatever the budget.",
        show_default=False,
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check", "--dry-run", help="Say what would go, and remove nothing.")
]


@app.command("gc", cls=Command, epilog=EXAMPLE)
def gc(
    context: typer.Context,
    budget: BudgetOption = None,
    keep: KeepOption = None,
    check: CheckOption = False,
    store: StoreOption = None,
    output: OutputOption = None,
) -> int:
    """Remove what was not used for long.

    The environment used longest ago goes first, until the store is within its budget. One that a running job
    or shell uses stays, whatever the budget. Packages that no environment needs go with them, and what a
    build that was killed left behind. Without a budget and days, the host's own count
    (conda_store_budget_gib, conda_store_keep_days); a user's store has none. A timer runs this on hosts;
    there it needs root.
    """
    from runnerctl.cli.env_access import access

    command: Context = context.obj
    source = access(command, store)
    budget_bytes = bytes_given(budget, "--budget", source.place)
    found = source.gc(budget_bytes, days_given(keep, "--keep"), dry_run=check)
    if command.wants_json(output):
        command.say_json({"schema": SCHEMA, "store": source.place, "dry_run": check, **found})
    else:
        _tell(command, found, check=check)
    return 0


_WHY = {"unused": "not used for long", "budget": "budget", "quota": "the owner's quota"}


def _tell(command: Context, found: Any, *, check: bool) -> None:
    from runnerctl.cli.env_list import span
    from runnerctl.cli.env_shown import counted, size_text
    from runnerctl.cli.output import table

    removed = found.get("removed", ())
    if removed:
        rows = [
            (
                each["digest"],
                size_text(each["size_bytes"]),
                span(command.clock() - each["last_used_at"]),
                each.get("owner") or "all",
                _WHY.get(each["why"], each["why"]),
            )
            for each in removed
        ]
        command.say(table(("DIGEST", "SIZE", "USED", "FOR", "WHY"), rows, width=command.width))
    freed = f"{size_text(found['freed_bytes'])} {'would be freed' if check else 'freed'}"
    kept = (
        f"{counted(found['kept'], 'environment')}, {found['leased']} in use, {size_text(found['size_bytes'])}"
    )
    command.say(f"{freed}; left: {kept}")
    if found.get("over_budget"):
        command.note("runnerctl: the store is over its budget: what is left is in use")
