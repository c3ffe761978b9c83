"""Registrations under the faults of a bad day: 200 random fleets, counted in the end.

Each fleet registers through `runnerctl.reconcile.Fleet` while the stand-in plays faults of the API contract's
section 9, while answers are lost and processes are killed between their steps, and while somebody deletes
records, occupies runners and changes labels. Then it converges without faults until nothing is left to do.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import table
from tests.component.fault_runs import FAULTS, Outcome, World, run_fleet
from tests.fakes.github_api import GithubApi

__all__ = ["run"]

RUNS = 200
QUICK_RUNS = 8


def run(*, quick: bool) -> list[str]:
    """Measure; Markdown blocks."""
    begin = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="rb-faults-") as folder, GithubApi() as github:
        world = World(github, Path(folder))
        for seed in range(QUICK_RUNS if quick else RUNS):
            outcomes.append(run_fleet(world, seed))
            _tell(outcomes[-1])
    return _blocks(outcomes, time.monotonic() - begin)


def _tell(outcome: Outcome) -> None:
    """Progress; what is not as it should be stands out with its seed, which plays it again."""
    if not outcome.sound:
        print(f"WRONG {outcome}", file=sys.stderr, flush=True)
    elif outcome.seed % 20 == 19:
        print(f"{outcome.seed + 1} runs", file=sys.stderr, flush=True)


def _blocks(outcomes: Sequence[Outcome], seconds: float) -> list[str]:
    ended = Counter(name for outcome in outcomes for name in outcome.ended)
    met = Counter(name for outcome in outcomes for fault in outcome.faults for name in fault.split(","))
    slots = sum(outcome.slots for outcome in outcomes)
    rows = [
        ("runs", "slots", "lost", "registered twice", "not at rest", "requests that break the description"),
        (
            str(len(outcomes)),
            str(slots),
            str(sum(len(outcome.lost) for outcome in outcomes)),
            str(sum(len(outcome.duplicates) for outcome in outcomes)),
            str(sum(outcome.restless for outcome in outcomes)),
            str(sum(len(outcome.breaches) for outcome in outcomes)),
        ),
    ]
    requests = statistics.median(outcome.requests for outcome in outcomes)
    crowds = sorted({outcome.crowd for outcome in outcomes})
    return [
        table(rows),
        f"{len(FAULTS)} kinds of faults; requests met {sum(met.values())} of them: "
        f"{', '.join(f'{name} {count}' for name, count in sorted(met.items()))}. "
        f"Runs that were cut short: {', '.join(f'{name} {count}' for name, count in ended.most_common())}. "
        f"Beside the fleets there were {', '.join(map(str, crowds))} other runners. A run's whole life took "
        f"{requests:.0f} requests (median), all runs together {seconds:.0f} s: waits cost nothing here.",
    ]
