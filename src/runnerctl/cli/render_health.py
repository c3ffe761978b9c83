"""How a health verdict looks: text for people, worst first, and JSON. Pure functions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from runnerctl.cli.output import escape
from runnerctl.core.findings import SEVERITY, Finding, Status
from runnerctl.core.health import Health, encode

__all__ = ["WIDTH", "render_json", "render_text"]

WIDTH = 80
_COLOURS: dict[Status, str] = {"OK": "32", "WARNING": "33", "UNKNOWN": "35", "CRITICAL": "31"}
_MARGIN = 10  # columns of a status with its gap
_WIDEST_NAME = 26  # columns; a longer name gets a line of its own


def render_json(health: Health) -> str:
    """The verdict as JSON, in ASCII: no name in it can steer a terminal."""
    text = encode(health).decode()
    return "".join(char if char.isascii() and char != "\x7f" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """A JSON escape; beyond the basic plane a pair of surrogates."""
    data = char.encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(data[at : at + 2], 'big'):04x}" for at in range(0, len(data), 2))


def render_text(health: Health, *, width: int = WIDTH, colour: bool = False) -> str:
    """The verdict for people: a head line, then the findings, worst first, a remedy under each bad one."""
    findings = sorted(health.findings, key=lambda finding: -SEVERITY[finding.status])
    lines = [_head(health, colour=colour), ""]
    names = max((len(_name(finding)) for finding in findings), default=0)
    column = _MARGIN + min(names, _WIDEST_NAME) + 2
    for finding in findings:
        lines += _finding(finding, column=column, width=width, colour=colour)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _head(health: Health, *, colour: bool) -> str:
    counts = _counts(health.findings)
    status = _painted(health.status, health.status, colour=colour)
    took = f"{health.duration_seconds:.2f} s"
    return f"{escape(health.host)}: {status}  ({counts}; {health.checked_at:%Y-%m-%d %H:%M:%SZ}, took {took})"


def _counts(findings: Iterable[Finding]) -> str:
    statuses = [finding.status for finding in findings]
    order = sorted(SEVERITY, key=SEVERITY.__getitem__, reverse=True)
    parts = [f"{statuses.count(status)} {status}" for status in order if status in statuses]
    return ", ".join(parts) or "nothing could be checked"


def _name(finding: Finding) -> str:
    subject = "" if finding.subject == "host" else f" {escape(finding.subject)}"
    return f"{finding.id}{subject}"


def _finding(finding: Finding, *, column: int, width: int, colour: bool) -> list[str]:
    status = _painted(f"{finding.status:<8}", finding.status, colour=colour)
    summary = _wrap(escape(finding.summary), width - column) or [""]
    name, indent = _name(finding), " " * column
    if _MARGIN + len(name) + 2 > column:  # too long for its column: the summary begins below
        lines = [f"{status}  {name}", *(indent + line for line in summary)]
    else:
        first, *more = summary
        lines = [f"{status}  {name:<{column - _MARGIN}}{first}", *(indent + line for line in more)]
    if finding.remedy:
        remedy = _wrap(f"-> {escape(finding.remedy)}", width - column, indent="   ")
        lines += [indent + line for line in remedy]
    return lines


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent=indent, break_on_hyphens=False)


def _painted(text: str, status: Status, *, colour: bool) -> str:
    return f"\x1b[{_COLOURS[status]}m{text}\x1b[0m" if colour else text
