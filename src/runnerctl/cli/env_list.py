"""``runnerctl env list``: what the store holds."""

from __future__ import annotations

from typing import Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.env_options import StoreOption
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption

__all__ = ["app", "environments", "span"]

SCHEMA = "runnerctl.env.list/1"
EXAMPLE = """
runnerctl env list
sudo runnerctl env list -o json
"""
SHORT = 12  # characters of a digest that people see; env verify --digest takes them
_HEAD = ("DIGEST", "SIZE", "FILES", "PYTHON", "MADE", "USED", "LEASES", "FOR", "NAME")
_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
app = new_app()


@app.command("list", cls=Command, epilog=EXAMPLE)
def environments(context: typer.Context, store: StoreOption = None, output: OutputOption = None) -> int:
    """List the environments of the store.

    The one used last comes first. MADE and USED say how long ago; LEASES how many running jobs or shells keep
    it from being removed; FOR whose jobs may see it. One that was made from private channels is seen by its
    owner's slots and by root only. JSON has the whole digests.
    """
    from runnerctl.cli.env_access import access
    from runnerctl.cli.output import rfc3339, table

    command: Context = context.obj
    source = access(command, store)
    found = source.environments()
    if command.wants_json(output):
        rows = [{**row, **{name: rfc3339(row[name]) for name in ("created_at", "used_at")}} for row in found]
        command.say_json({"schema": SCHEMA, "store": source.place, "environments": rows})
    elif found:
        rows_text = [_row(row, command.clock()) for row in found]
        command.say(table(_HEAD, rows_text, width=command.width))
    else:
        command.say(f"no environments in {source.place}")
    return 0


def _row(row: Any, now: float) -> tuple[object, ...]:
    from runnerctl.cli.env_shown import size_text

    return (
        row["digest"][:SHORT],
        size_text(row["size_bytes"]),
        row["files"],
        row.get("python_version"),
        span(now - row["created_at"]),
        span(now - row["used_at"]),
        row.get("leases", 0),
        row.get("owner") or "all",
        row.get("names", ()),
    )


def span(seconds: float) -> str:
    """How long ago, in the largest unit that fits: ``3d``."""
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "now"
