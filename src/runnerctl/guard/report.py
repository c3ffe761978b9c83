"""What a job is told of itself at its end: lines for its log, and a table for its summary page. Pure.

Both are read by the runner, which acts on what it finds in a log (`::command::`, `##[command]`), and by a
browser. Whatever is not ours in them (an Xid line has the name of a job's own process) is made harmless.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from runnerctl.guard.ports import GpuUse, JobReport, Residue

__all__ = ["summary_report", "text_report"]

NOT_MEASURED = "not measured"
_MOST_LINES, _LONGEST = 20, 200
_WELL_MEASURED = 0.9  # of the time; with less it is said how much
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~@$:.-])")
_GIBIBYTE = 2**30


def text_report(report: JobReport) -> str:
    """Plain lines, ASCII but for names; none of them can be taken for a command of the runner's."""
    lines = [f"GPU report of slot {report.slot}: {_times(report)}"]
    for use in report.gpus:
        lines.append(f"{_gpu(use)}")
        lines += [f"  {name + ':':<13}{value}" for name, value in _facts(use)]
    if not report.gpus:
        lines.append("  this slot has no GPU")
    lines += [f"{name + ':':<15}{value}" for name, value in _rest(report)]
    return "\n".join(_harmless(line) for line in lines)


def summary_report(report: JobReport) -> str:
    """Markdown for GITHUB_STEP_SUMMARY: a heading, a row for each GPU, and the rest below."""
    lines = [f"### GPU report of slot {_plain(report.slot)}", "", f"{_plain(_capital(_times(report)))}.", ""]
    if report.gpus:
        head = ["GPU", *(_capital(name) for name, _ in _facts(report.gpus[0], table=True))]
        lines += [_row(head), _row(["---"] * len(head))]
        lines += [_row([_plain(_gpu(use)), *_cells(use)]) for use in report.gpus]
        lines.append("")
    lines += [f"- {_capital(name)}: {_plain(value)}" for name, value in _rest(report)]
    return "\n".join([*lines, ""])


def _times(report: JobReport) -> str:
    ran = "it still runs"
    if report.ended_at is not None:
        ran = f"ran {_duration(report.ended_at - report.started_at)}"
    waited = report.claims.queued_seconds
    return f"{ran}, {'how long it waited is not known' if waited is None else f'waited {_duration(waited)}'}"


def _facts(use: GpuUse, *, table: bool = False) -> Iterator[tuple[str, str]]:
    yield "memory", _memory(use)
    yield "utilisation", _utilization(use)
    yield "energy", _energy(use.energy_joules)
    heat = use.temperature_peak_celsius
    yield "temperature", NOT_MEASURED if heat is None else f"peak {heat} C"
    measured = use.measured_seconds
    yield "slowed down", NOT_MEASURED if measured is None else ", ".join(use.throttled) or "no"
    yield "ECC errors", _ecc(use)
    if table or measured is None or measured < _WELL_MEASURED * use.seconds:
        share = "nothing" if measured is None else _duration(measured)
        yield "measured", f"{share} of {_duration(use.seconds)}"


def _cells(use: GpuUse) -> list[str]:
    return [_plain(value) for _, value in _facts(use, table=True)]


def _gpu(use: GpuUse) -> str:
    return f"{use.name or 'GPU'} ({use.uuid})"


def _memory(use: GpuUse) -> str:
    if use.memory_peak_bytes is None:
        return NOT_MEASURED
    peak = f"peak {use.memory_peak_bytes / _GIBIBYTE:.1f}"
    return (
        f"{peak} of {use.memory_total_bytes / _GIBIBYTE:.1f} GiB" if use.memory_total_bytes else f"{peak} GiB"
    )


def _utilization(use: GpuUse) -> str:
    mean, peak = use.utilization_mean_percent, use.utilization_peak_percent
    known = [f"mean {mean:.0f} %"] if mean is not None else []
    known += [f"peak {peak} %"] if peak is not None else []
    return ", ".join(known) or NOT_MEASURED


def _energy(joules: float | None) -> str:
    if joules is None:
        return NOT_MEASURED
    return f"{joules / 3.6e6:.3f} kWh" if joules >= 3.6e5 else f"{joules / 3600:.2f} Wh"


def _ecc(use: GpuUse) -> str:
    if use.ecc_corrected is None and use.ecc_uncorrected is None:
        return NOT_MEASURED
    return f"{use.ecc_corrected or 0} corrected, {use.ecc_uncorrected or 0} uncorrected"


def _rest(report: JobReport) -> Iterator[tuple[str, str]]:
    if report.gpus:
        yield "Xid errors", "; ".join(_cut(report.xids)) or "none"
    yield "left behind", _left(report.residue)
    if report.residue.remains:
        yield "still there", "; ".join(_cut(report.residue.remains))
    if report.refused is not None:
        yield "refused", report.refused[:_LONGEST]


def _left(residue: Residue) -> str:
    found = []
    if residue.processes:
        named = ", ".join(_cut(residue.processes))
        found.append(f"{_number(len(residue.processes), 'process', 'processes')}, ended ({named})")
    if residue.removed:
        found.append(f"{_number(len(residue.removed), 'thing', 'things')}, removed")
    return "; ".join(found) or "nothing"


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _cut(texts: tuple[str, ...]) -> tuple[str, ...]:
    shown = tuple(text[:_LONGEST] for text in texts[:_MOST_LINES])
    more = len(texts) - len(shown)
    return (*shown, f"and {more} more") if more else shown


def _duration(seconds: float) -> str:
    """For people: ``41 s``, ``12 min 3 s``, ``3 h 7 min``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _printable(text: str) -> str:
    """One line without what a terminal or a browser would act on."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def _harmless(line: str) -> str:
    """No command of the runner's: it looks for ``::`` at a line's start and for ``##[`` anywhere."""
    indent = " " * (len(line) - len(line.lstrip(" ")))
    text = "".join(char if char.isprintable() else "?" for char in line.strip())
    return indent + text.replace("::", ": :").replace("##[", "# #[")


def _plain(text: str) -> str:
    """Text in Markdown that is only text: no markup, no link, no mention, no cell of its own."""
    return _MARKDOWN.sub(r"\\\1", html.escape(_printable(text), quote=False))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
