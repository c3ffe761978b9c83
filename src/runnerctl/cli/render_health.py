"""How a health verdict looks: text for people, worst first, and JSON. Pure functions."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from runnerctl.cli.output import escape
from runnerctl.core.findings import SEVERITY, Finding, Status
from runnerctl.core.health import Health, encode

__all__ = ["WIDTH", "folded", "render_json", "render_text"]

WIDTH = 80
_COLOURS: dict[Status, str] = {"OK": "32", "WARNING": "33", "UNKNOWN": "35", "CRITICAL": "31"}
_MARGIN = 10  # columns of a status with its gap
_WIDEST_NAME = 26  # columns; a longer name gets a line of its own
_GPU = re.compile(r"GPU \d+")
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.-]*[\w-])")
_OF_SLOTS = ("slot.", "github.", "gpu.slots", "isolation.")


def render_json(health: Health) -> str:
    """The verdict as JSON, in ASCII: no name in it can steer a terminal."""
    text = encode(health).decode()
    return "".join(char if char.isascii() and char != "\x7f" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """A JSON escape; beyond the basic plane a pair of surrogates."""
    data = char.encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(data[at : at + 2], 'big'):04x}" for at in range(0, len(data), 2))


def render_text(health: Health, *, width: int = WIDTH, colour: bool = False, verbose: bool = False) -> str:
    """The verdict for people: a head line, then the findings, worst first, a remedy under each bad one.

    What is OK on several GPUs or slots is one line for each check, unless ``verbose``.
    """
    shown = health.findings if verbose else folded(health.findings)
    findings = sorted(shown, key=lambda finding: -SEVERITY[finding.status])
    lines = [_head(health, colour=colour), ""]
    names = max((len(_name(finding)) for finding in findings), default=0)
    column = _MARGIN + min(names, _WIDEST_NAME) + 2
    for finding in findings:
        lines += _finding(finding, column=column, width=width, colour=colour)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def folded(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with one for all that are OK of one check and speak of several GPUs or slots."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for number, finding in enumerate(findings):
        kind = _kind(finding) if finding.status == "OK" else ""
        groups.setdefault((finding.id, kind or str(number)), []).append(finding)
    return [
        (
            group[0]
            if len(group) == 1
            else Finding(name, "OK", f"{len(group)} {kind}", _common([each.summary for each in group]))
        )
        for (name, kind), group in groups.items()
    ]


def _kind(finding: Finding) -> str:
    """What a finding speaks of, in the plural; empty where several are not to be put together."""
    if _GPU.fullmatch(finding.subject):
        return "GPUs"
    return "slots" if finding.id.startswith(_OF_SLOTS) and finding.subject != "host" else ""


def _common(summaries: Sequence[str]) -> str:
    """What all summaries say, part by part; where they have nothing in common, the range of their numbers."""
    if len(set(summaries)) == 1:
        return summaries[0]
    shapes = {_NUMBER.sub("#", text) for text in summaries}
    if len(shapes) == 1:
        columns = zip(*(_NUMBER.findall(text) for text in summaries), strict=True)
        ranges = iter([_range(column) for column in columns])
        return _NUMBER.sub(lambda _: next(ranges), summaries[0])
    parts = [set(re.split(r"[,;] ", text)) for text in summaries]
    common = [part for part in re.split(r"[,;] ", summaries[0]) if all(part in each for each in parts)]
    return ", ".join(common) or "all well"


def _range(numbers: Sequence[str]) -> str:
    low, high = min(numbers, key=float), max(numbers, key=float)
    return low if low == high else f"{low}-{high}"


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
