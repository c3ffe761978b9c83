"""The figures as a page and as text: both are Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.plays import Cost, Spread

__all__ = ["Figures", "put", "refresh", "table", "text"]

END = "<!-- end of figures -->"
PLAYS = {"first": "first converge", "second": "second converge", "floor": "one empty task"}
COMMANDS = {
    ("host", "python"): "bare Python, on a host",
    ("host", "help"): "`runnerctl --help`, on a host",
    ("host", "health offline"): "`runnerctl health`, no GPU, no API to ask",
    ("host", "health"): "`runnerctl health`, no GPU, API on the same machine",
    ("controller", "python"): "bare Python, on the controller",
    ("controller", "help"): "`runnerctl --help`, on the controller",
}


@dataclass
class Figures:
    """All that was measured. ``plays``: (what, number of hosts) -> one cost a run."""

    payload_mib: int
    load: float
    controller: dict[str, Spread]
    host: dict[str, Spread] = field(default_factory=dict)
    plays: dict[tuple[str, int], list[Cost]] = field(default_factory=dict)


def text(figures: Figures) -> str:
    """Where and when, the plays, the commands."""
    return f"{_circumstances(figures)}\n\n{_plays(figures)}\n\n{_commands(figures)}\n\n{_aims(figures)}\n"


def refresh(page: Path, figures: Figures) -> None:
    """Put the figures of a converge into the page."""
    put(page, "benchmarks/converge.py", text(figures))


def put(page: Path, program: str, figures: str) -> None:
    """Replace what stands between the page's marks of this program. Raises ValueError when it has none."""
    mark = f"<!-- figures: written by {program} -->"
    before, begin, rest = page.read_text().partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: {mark} or {END} is missing")
    page.write_text(f"{before}{mark}\n{figures}{END}{after}")


def _circumstances(figures: Figures) -> str:
    now = datetime.now(timezone.utc)
    return (
        f"Measured on {now:%Y-%m-%d}: {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load average at the start {figures.load:.1f}; hosts are "
        "containers with Debian 12 and systemd on the same machine; the runner's archive holds "
        f"{figures.payload_mib} MiB."
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first one is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def _plays(figures: Figures) -> str:
    head = ("play", "hosts", "runs", "wall: median (least)", "CPU: controller", "CPU: hosts")
    rows: list[tuple[str, ...]] = [(*head, "tasks", "changed", "API calls", "writes", "downloads")]
    for (what, count), costs in sorted(figures.plays.items(), key=_order):
        wall = Spread(tuple(cost.wall_seconds for cost in costs))
        controller = Spread(tuple(cost.controller_seconds for cost in costs))
        hosts = Spread(tuple(cost.hosts_seconds for cost in costs))
        last = costs[-1]
        numbers = (last.tasks, last.changed, last.api_calls, last.api_writes, last.downloads)
        times = (
            f"{wall.median:.2f} s ({wall.least:.2f})",
            f"{controller.median:.2f} s",
            f"{hosts.median:.2f} s",
        )
        rows.append((PLAYS[what], str(count), str(len(costs)), *times, *map(str, numbers)))
    return table(rows)


def _order(entry: tuple[tuple[str, int], object]) -> tuple[int, int]:
    what, count = entry[0]
    return list(PLAYS).index(what), count


def _commands(figures: Figures) -> str:
    rows = [("command", "least", "median", "in bare Python starts")]
    for (place, name), title in COMMANDS.items():
        times = figures.host if place == "host" else figures.controller
        spread, bare = times[name], times["python"]
        ratio = f"{spread.least / bare.least:.1f}"
        rows.append((title, f"{1000 * spread.least:.0f} ms", f"{1000 * spread.median:.0f} ms", ratio))
    return table(rows)


def _aims(figures: Figures) -> str:
    """What was aimed at, beside what was reached."""
    seconds = {
        count: Spread(tuple(cost.wall_seconds for cost in costs)).median
        for (what, count), costs in figures.plays.items()
        if what == "second"
    }
    one, (many, most) = seconds[1], max(seconds.items())
    rows = [
        ("aim", "limit", "reached"),
        ("second converge, one host", "8 s", f"{one:.2f} s"),
        (f"second converge, {many} hosts, in times of one host", "2", f"{most / one:.2f}"),
    ]
    for place, times in (("a host", figures.host), ("the controller", figures.controller)):
        ratio = times["help"].least / times["python"].least
        rows.append((f"`runnerctl --help` on {place}, in bare Python starts", "8", f"{ratio:.1f}"))
    offline = f"{1000 * figures.host['health offline'].least:.0f} ms"
    rows.append(("`runnerctl health` without GPU and network", "300 ms", offline))
    return table(rows)
