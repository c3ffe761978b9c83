"""Is the verdict right, and how quick is it: ``python -m benchmarks.health [--quick] [--only PATTERN]``.

Every fault of faults.toml, over the stand-in for NVML, a kernel log and files of /sys and /proc; the same
faults for the tools that PyPI has. Then how long a verdict takes. Prints its tables and puts them into
docs/benchmarks.md. Nothing is asserted: a figure is a figure.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import tools
from benchmarks.faults import Case, FaultHost, cases, healthy
from benchmarks.plays import Spread
from benchmarks.report import put, table
from benchmarks.tools import DEADLINE_SECONDS, LIMIT_SECONDS, RUNNERCTL, Answer, Tool
from tests.fakes.nvml import build

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
SLACK_SECONDS = 0.5  # what a verdict may take beyond its deadline
LATENCIES = {"no GPU, no driver": 0, "1 healthy GPU": 1, "8 healthy GPUs": 8}


@dataclass
class Figures:
    """Answers by tool and case, and wall times by question and tool."""

    answers: dict[str, list[tuple[Case, Answer]]] = field(default_factory=dict)
    times: dict[str, dict[str, Spread]] = field(default_factory=dict)


def main() -> int:
    """Measure, print, and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="runnerctl only, few runs; the page is not written"
    )
    parser.add_argument(
        "--only", default="*", help="cases whose name fits this pattern; the page is not written"
    )
    given = parser.parse_args()
    chosen = [case for case in cases() if fnmatch.fnmatch(case.id.lower(), given.only.lower())]
    compared = [tools.runnerctl()]
    if not given.quick:
        compared += tools.peers(tools.install(ROOT / ".cache" / "peers"))
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="runnerctl-faults-") as folder:
        library = build(Path(folder) / "nvml")
        for number, case in enumerate(chosen):
            host = FaultHost(case, Path(folder) / f"case-{number}")
            host.lay_out()
            for tool in compared:
                figures.answers.setdefault(tool.name, []).append((case, tool.ask(host, library)))
            _tell(case, figures.answers[RUNNERCTL][-1][1])
        if given.only == "*":
            _measure(figures, compared, library, Path(folder), runs=3 if given.quick else 20)
    text = _text(figures)
    print(text)
    if given.only == "*" and not given.quick:
        put(PAGE, "benchmarks/health.py", text)
    return 0


def _tell(case: Case, answer: Answer) -> None:
    """Progress; what is not as it should be stands out."""
    verdict = "right" if _right(case, answer) else "WRONG"
    line = f"{verdict:<6}{answer.seconds:5.2f} s  {case.id}"
    print(f"{line}  [{answer.detail}]" if answer.detail else line, file=sys.stderr, flush=True)


def _right(case: Case, answer: Answer) -> bool:
    """The right status by the right finding, nothing else beside it, in time."""
    late = answer.seconds > DEADLINE_SECONDS + SLACK_SECONDS
    return answer.named and not answer.detail and not late and answer.alarm != case.sound


def _measure(figures: Figures, compared: Sequence[Tool], library: Path, folder: Path, *, runs: int) -> None:
    """All tools in turn, so that noise meets all alike; the first turn warms the caches."""
    for title, gpus in LATENCIES.items():
        host = FaultHost(healthy(gpus), folder / f"latency-{gpus}")
        host.lay_out()
        seconds: dict[str, list[float]] = {tool.name: [] for tool in compared}
        for turn in range(runs + 1):
            for tool in compared:
                answer = tool.ask(host, library)
                if turn:
                    seconds[tool.name].append(answer.seconds)
        figures.times[title] = {name: Spread(tuple(times)) for name, times in seconds.items()}


def _text(figures: Figures) -> str:
    now = datetime.now(timezone.utc)
    where = (
        f"Measured on {now:%Y-%m-%d}: {os.cpu_count()} cores, Linux {platform.release()}, Python "
        f"{platform.python_version()}; deadline of runnerctl {DEADLINE_SECONDS:.0f} s, "
        f"limit of the others {LIMIT_SECONDS:.0f} s."
    )
    parts = [where, _matrix(figures.answers)]
    if figures.times:
        parts.append(_latencies(figures.times))
    return "\n\n".join(parts) + "\n"


def _matrix(answers: Mapping[str, Sequence[tuple[Case, Answer]]]) -> str:
    rows = [
        ("tool", "faults: alarm", "cause named", "sound hosts: false alarms", "no answer in time", "crashed")
    ]
    for name, given in answers.items():
        bad = [answer for case, answer in given if not case.sound]
        sound = [answer for case, answer in given if case.sound]
        limit = DEADLINE_SECONDS + SLACK_SECONDS if name == RUNNERCTL else LIMIT_SECONDS
        late = sum(answer.rc is None or answer.seconds > limit for _, answer in given)
        rows.append(
            (
                f"`{name}`",
                f"{sum(answer.alarm for answer in bad)} of {len(bad)}",
                f"{sum(answer.named for answer in bad)} of {len(bad)}",
                f"{sum(answer.alarm for answer in sound)} of {len(sound)}",
                str(late),
                str(sum(answer.crashed for _, answer in given)),
            )
        )
    own = answers[RUNNERCTL]
    right = sum(_right(case, answer) for case, answer in own)
    slowest = max(answer.seconds for _, answer in own)
    exact = (
        f"`runnerctl health` is held to more: the right status and exit code, by the right finding, "
        f"and nothing else beside it: {right} of {len(own)}. Its slowest verdict took {slowest:.2f} s."
    )
    return f"{table(rows)}\n\n{exact}"


def _latencies(times: Mapping[str, Mapping[str, Spread]]) -> str:
    names = list(next(iter(times.values())))
    rows = [("wall time, median (least)", *(f"`{name}`" for name in names))]
    for title, spreads in times.items():
        cells = (f"{1000 * spreads[name].median:.0f} ms ({1000 * spreads[name].least:.0f})" for name in names)
        rows.append((title, *cells))
    return table(rows)


if __name__ == "__main__":
    sys.exit(main())
