"""How ``runnerctl list`` looks: a table of the columns that fit, or JSON with everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runnerctl.cli.output import NARROWEST_LAST_COLUMN, NONE, cell, escape, table, width_of
from runnerctl.errors import UsageError

if TYPE_CHECKING:
    from runnerctl.cli.listing_rows import Row
    from runnerctl.github.models import Runner

__all__ = [
    "COLUMNS",
    "absent_json",
    "check_columns",
    "notes",
    "runner_json",
    "slot_json",
    "summary",
    "text_table",
]

GAP = 2
COLUMNS: dict[str, Callable[[Row], object]] = {
    "slot": lambda row: row.slot,
    "host": lambda row: row.host,
    "runner": lambda row: row.runner,
    "status": lambda row: row.status,
    "unit": lambda row: row.local.unit_state if row.local else None,
    "busy": lambda row: row.busy,
    "group": lambda row: row.group,
    "version": lambda row: row.version,
    "expiry": lambda row: row.expiry.text if row.expiry else None,
    "gpus": lambda row: row.gpus.text if row.gpus else None,
    "quarantine": lambda row: row.quarantine,
    "labels": lambda row: row.custom,
}
# What goes first where a line is too short; those that are not here stay.
DROPPED = ("unit", "group", "gpus", "expiry", "version", "host", "busy", "labels")


def check_columns(text: str | None) -> tuple[str, ...] | None:
    """The columns of ``--columns``; None for those that fit. Raises UsageError for an unknown one."""
    if text is None:
        return None
    if text.strip() == "all":
        return tuple(COLUMNS)
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or not names:
        raise UsageError(
            f"no such column: {escape(unknown[0])}" if unknown else "names no column",
            where="--columns",
            remedy=f"give all, or some of {','.join(COLUMNS)}",
        )
    return names


def text_table(
    rows: Sequence[Row], *, width: int, columns: Sequence[str] | None = None
) -> tuple[str, tuple[str, ...]]:
    """The table, and the names of columns that say something and did not fit.

    ``columns`` are shown whatever their width; without them those that are known and fit ``width``.
    """
    wanted = list(COLUMNS) if columns is None else list(columns)
    cells = {name: [cell(value(row)) for row in rows] for name, value in COLUMNS.items() if name in wanted}
    widths = {name: max([len(name), *map(width_of, texts)]) for name, texts in cells.items()}
    shown, hidden = (wanted, ()) if columns is not None else _choose(cells, widths, width)
    lines = zip(*(cells[name] for name in shown), strict=True)
    return table([name.upper() for name in shown], lines, width=width), tuple(hidden)


def _choose(
    cells: dict[str, list[str]], widths: dict[str, int], width: int
) -> tuple[list[str], tuple[str, ...]]:
    """Columns of which nothing is known say nothing; then the least needed go until a line fits."""
    empty = {name for name, texts in cells.items() if all(text == NONE for text in texts)}
    if not cells["status"]:
        return ["runner", "status", "busy", "version", "labels"], ()
    kept = {"status"} if "unit" in empty else set()
    shown = [name for name in cells if name not in empty - kept]
    if "runner" in shown and NONE not in cells["slot"] + cells["host"]:
        shown.remove("runner")  # host and slot say as much
    hidden = set()
    one_host = ["host"] if len(set(cells["host"])) == 1 else []
    for name in [*one_host, *DROPPED]:
        if _needed(shown, widths) <= width:
            break
        if name in shown and (name != "host" or "runner" not in shown):
            shown.remove(name)
            hidden.add(name)
    return shown, tuple(name for name in cells if name in hidden)


def _needed(names: Sequence[str], widths: dict[str, int]) -> int:
    last = names[-1]
    room = min(widths[last], NARROWEST_LAST_COLUMN) if last == "labels" else widths[last]
    return sum(widths[name] for name in names[:-1]) + room + GAP * (len(names) - 1)


def notes(rows: Sequence[Row]) -> list[str]:
    """What does not fit into a cell: why slots are held, what waits, what is left over."""
    found = [f"{row.slot}: held: {row.local.hold_reason}" for row in rows if row.local and row.held]
    found += [f"{row.slot}: restarts when idle" for row in rows if row.local and row.local.restart_pending]
    found += [f"{row.slot}: not in host.json" for row in rows if row.local and not row.local.in_spec]
    return [escape(line) for line in found]


def summary(rows: Sequence[Row], scope: str, hidden: Sequence[str] = ()) -> str:
    """How many there are, and which columns were left out for want of room."""
    online = sum(row.status == "online" for row in rows)
    busy = sum(row.busy is True for row in rows)
    there = sum(row.record is not None for row in rows)
    others = {"drained": sum(row.drained is True for row in rows), "absent": len(rows) - there}
    text = f"{there} runner{'' if there == 1 else 's'} of {scope}: {online} online, {busy} busy"
    text += "".join(f", {count} {word}" for word, count in others.items() if count)
    return text + (f"; not shown: {', '.join(hidden)} (--columns)" if hidden else "")


def slot_json(row: Row) -> dict[str, Any]:
    """A slot of this host."""
    slot = row.local
    if slot is None:
        return {}
    return {
        "slot": slot.name,
        "host": row.host,
        "runner_name": slot.runner_name,
        "url": slot.url,
        "unit": slot.unit,
        "unit_state": slot.unit_state,
        "busy": slot.busy,
        "version": slot.version,
        "gpus": list(slot.gpus),
        "gpu_state": row.gpus.text if row.gpus else None,
        "gpus_out": list(row.gpus.out) if row.gpus else [],
        "labels": list(slot.labels),
        "hold_reason": slot.hold_reason,
        "quarantine": row.quarantine,
        "restart_pending": slot.restart_pending,
        "in_spec": slot.in_spec,
        "on_github": row.record is not None if row.asked else None,
        "github": runner_json(row, row.record) if row.record else None,
    }


def absent_json(row: Row) -> dict[str, Any]:
    """A slot of the inventory whose runner GitHub does not know."""
    return {"name": row.runner, "host": row.host, "slot": row.slot}


def runner_json(row: Row, runner: Runner) -> dict[str, Any]:
    """A runner as GitHub sees it; ``host`` and ``slot`` as the inventory knows them."""
    return {
        "id": runner.id,
        "name": runner.name,
        "host": row.host,
        "slot": row.slot,
        "os": runner.os,
        "status": runner.status,
        "busy": runner.busy,
        "labels": [label.name for label in runner.labels],
        "runner_group_id": runner.runner_group_id,
        "group": row.group,
        "version": runner.version,
        "version_ends_at": row.expiry.rfc3339 if row.expiry else None,
        "version_days_left": row.expiry.days if row.expiry else None,
        "version_end_known": row.expiry is not None,
        "drained": row.drained,
        "ephemeral": runner.ephemeral,
    }
