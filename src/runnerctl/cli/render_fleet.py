"""How the verdict on a fleet looks: a table for people, worst first, and JSON. Pure functions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import msgspec

from runnerctl.cli.output import NONE, ascii_json, escape, width_of
from runnerctl.core.findings import SEVERITY, Status
from runnerctl.core.fleet import Able, Fleet, FleetHost, FleetRow
from runnerctl.core.fleet_causes import Cause

__all__ = [
    "ABLE_WORDS",
    "able_line",
    "counts_line",
    "hosts_line",
    "other_causes",
    "render_json",
    "render_text",
    "sorted_rows",
    "untold",
]

ABLE_WORDS: dict[Able, str] = {"yes": "yes", "busy": "busy", "no": "NO", "unknown": "unknown"}
_COLOURS: dict[Status, str] = {"OK": "32", "WARNING": "33", "UNKNOWN": "35", "CRITICAL": "31"}
_ABLE_ORDER: dict[Able, int] = {"no": 0, "unknown": 1, "busy": 2, "yes": 3}
_HEAD = ("HOST", "SLOT", "TAKES JOBS", "WHY NOT, AND WHAT TO DO")
_GAP = "  "
_WIDEST = (22, 14)  # columns of a host's and a slot's name; a longer one has a line of its own
_NARROWEST = 24  # columns of the last column


def render_json(fleet: Fleet) -> str:
    """The verdict as JSON in ASCII: no name in it can steer a terminal."""
    return ascii_json(msgspec.json.format(msgspec.json.encode(fleet), indent=2).decode())


def render_text(fleet: Fleet, *, width: int = 80, colour: bool = False, verbose: bool = False) -> str:
    """Head lines, then a row for each slot, those that take no job first, with the reason and the remedy."""
    rows = sorted_rows(fleet)
    lines = [
        f"{_paint(fleet.status, colour)}  {counts_line(fleet)}",
        hosts_line(fleet),
        *(f"note: {escape(note)}" for note in fleet.notes),
        "",
    ]
    lines = [part for line in lines for part in (textwrap.wrap(line, width) or [""])]
    columns = _columns(rows)
    lines.append(_GAP.join(text.ljust(size) for text, size in zip(_HEAD, (*columns, 0), strict=True)))
    above = ""
    for row in rows:
        told = _told(row, max(width - sum(columns) - 3 * len(_GAP), _NARROWEST), verbose=verbose)
        said = "\n".join([row.host, *told])
        lines += _row(row, ["as above"] if said == above and row.why else told, columns, colour=colour)
        above = said
    lines += _hosts(fleet, width=width, colour=colour, verbose=verbose)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def counts_line(fleet: Fleet) -> str:
    """How many runners can take a job, and what keeps the others."""
    counts = fleet.counts
    more = [f"{counts.busy} busy now"] if counts.busy else []
    more += [f"{counts.unable} cannot"] if counts.unable else []
    more += [f"{counts.unknown} not known"] if counts.unknown else []
    return f"{able_line(fleet)} ({', '.join(more)})" if more else able_line(fleet)


def able_line(fleet: Fleet) -> str:
    """How many runners of all can take a job, those that run one included."""
    counts = fleet.counts
    noun = "runner" if counts.runners == 1 else "runners"
    return f"{counts.able + counts.busy} of {counts.runners} {noun} can take a job"


def hosts_line(fleet: Fleet) -> str:
    """How the hosts stand."""
    counts = fleet.counts
    parts = [
        f"{number} {name}"
        for name, number in (
            ("CRITICAL", counts.hosts_critical),
            ("UNKNOWN", counts.hosts_unknown),
            ("WARNING", counts.hosts_warning),
            ("OK", counts.hosts_ok),
        )
        if number
    ]
    noun = "host" if counts.hosts == 1 else "hosts"
    return f"{counts.hosts} {noun}: {', '.join(parts) or 'none'}"


def sorted_rows(fleet: Fleet) -> list[FleetRow]:
    """Those with something wrong first, the worst before all; then by host and slot."""
    return sorted(
        fleet.rows,
        key=lambda row: (
            -SEVERITY[row.status],
            _ABLE_ORDER[row.can_take_a_job] if row.status != "OK" else 0,
            row.host,
            row.slot or row.runner_name or "",
        ),
    )


def untold(fleet: Fleet) -> list[FleetHost]:
    """Hosts with something wrong that no row tells: it hurts no slot, and counts for the verdict."""
    told: dict[str, set[str]] = {}
    for row in fleet.rows:
        told.setdefault(row.host, set()).update(cause.summary for cause in row.causes)
    found = []
    for host in fleet.hosts:
        here = told.get(host.host, set())
        left = tuple(each for each in host.findings if not any(each.summary in summary for summary in here))
        if left:
            found.append(msgspec.structs.replace(host, findings=left, status=left[0].status))
    return found


def _columns(rows: list[FleetRow]) -> tuple[int, int, int]:
    hosts = max((width_of(escape(row.host)) for row in rows), default=0)
    names = max((width_of(_slot(row)) for row in rows), default=0)
    return (
        max(min(hosts, _WIDEST[0]), len(_HEAD[0])),
        max(min(names, _WIDEST[1]), len(_HEAD[1])),
        len(_HEAD[2]),
    )


def _slot(row: FleetRow) -> str:
    if row.kind == "record":
        return escape((row.runner_name or "").removeprefix(f"{row.host}-")) or NONE
    return escape(row.slot or NONE)


def _row(row: FleetRow, told: list[str], columns: tuple[int, int, int], *, colour: bool) -> Iterator[str]:
    names = (escape(row.host), _slot(row))
    word = ABLE_WORDS[row.can_take_a_job]
    painted = _paint(row.status, colour, word) + " " * (columns[2] - len(word))
    indent = sum(columns) + 3 * len(_GAP)
    if any(width_of(text) > size for text, size in zip(names, columns, strict=False)):
        yield _GAP.join(names)
        names = ("", "")
    padded = [text + " " * (size - width_of(text)) for text, size in zip(names, columns, strict=False)]
    start = _GAP.join([*padded, painted]) + _GAP
    for number, line in enumerate(told):
        yield (start if number == 0 else " " * indent) + line


def _told(row: FleetRow, room: int, *, verbose: bool) -> list[str]:
    """The reason, folded; then what to do, marked by an arrow. All reasons when ``verbose``."""
    hidden = len(other_causes(row))
    more = f" (+{hidden} more)" if hidden else ""
    reasons = [(row.why + more, row.remedy)]
    if verbose and row.causes:
        reasons = [(cause.summary, cause.remedy) for cause in row.causes]
    lines: list[str] = []
    for why, remedy in reasons:
        lines += _wrap(escape(why) or NONE, room)
        lines += _wrap(escape(remedy), room, lead="-> ") if remedy else []
    return lines


def other_causes(row: FleetRow) -> list[Cause]:
    """What is wrong besides what the row says anyway."""
    return [cause for cause in row.causes if cause.summary not in row.why]


def _hosts(fleet: Fleet, *, width: int, colour: bool, verbose: bool) -> Iterator[str]:
    found = untold(fleet)
    if not found:
        return
    yield ""
    yield "BESIDES, ON HOSTS"
    for host in found:
        shown = host.findings if verbose else host.findings[:1]
        for number, each in enumerate(shown):
            more = len(host.findings) - 1
            tail = f" (+{more} more)" if more and not verbose else ""
            where = "" if each.subject in ("", "host") else f"{escape(each.subject)}: "
            name = _paint(each.status, colour) if number == 0 else each.status
            yield f"{escape(host.host)}  {name}  {escape(each.id)}"
            yield from _wrap(f"{where}{escape(each.summary)}{tail}", width - 4, indent="    ")
            if each.remedy:
                yield from _wrap(escape(each.remedy), width - 4, lead="-> ", indent="    ")


def _wrap(text: str, room: int, *, lead: str = "", indent: str = "") -> list[str]:
    lines = textwrap.wrap(
        text,
        max(room, _NARROWEST),
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [indent + line for line in lines]


def _paint(status: Status, colour: bool, word: str = "") -> str:
    text = word or status
    return f"\x1b[{_COLOURS[status]};1m{text}\x1b[0m" if colour else text
