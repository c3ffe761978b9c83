"""Ghost rules over random fleets: how many records would be deleted wrongly, and how many ghosts are found.

The worlds and the oracle are those of the property test (tests/ghost_worlds.py): the oracle knows the machine
behind every record and never reads names.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from benchmarks.report import table
from runnerctl.core.ghosts import judge
from tests.ghost_worlds import World, found_ghosts, world_of, wrong_deletions

__all__ = ["run"]

FLEETS, SAMPLE = 20_000, 500
FIRST_SEED = 1
MEANING = {
    "unproven": "its host was off, out of reach, registering, or could not read a file",
    "ambiguous": "its name could be another host's, and nobody vouched for it",
    "ephemeral": "ephemeral, of a slot that exists: GitHub removes it within a day",
}


def run(*, quick: bool) -> list[str]:
    """Judge every record of the fleets; seeds stand in the answer, so that each fleet can be made again."""
    fleets = SAMPLE if quick else FLEETS
    began = time.perf_counter()
    counts: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for number in range(fleets):
        if number and number % 5000 == 0:
            print(f"prune: {number} of {fleets} fleets", file=sys.stderr, flush=True)
        _judge(world_of(FIRST_SEED + number), counts, kept)
    seconds = time.perf_counter() - began
    share = 100 * counts["found"] / max(counts["ghosts"], 1)
    head = ["fleets", "records", "deleted", "deleted wrongly", "true ghosts, offline and idle", "found"]
    row = [f"{fleets:,}", *(f"{counts[key]:,}" for key in ("records", "deleted", "wrong", "ghosts"))]
    rules = ", ".join(f"{kept[rule]:,} ({meaning})" for rule, meaning in MEANING.items() if kept[rule])
    return [
        table([head, [*row, f"{counts['found']:,} ({share:.0f} %)"]]),
        f"Ghosts that were kept for want of proof: {rules}.",
        f"Seeds {FIRST_SEED} to {FIRST_SEED + fleets - 1}; {seconds:.1f} s for rules and oracle together.",
    ]


def _judge(world: World, counts: Counter[str], kept: Counter[str]) -> None:
    evidence = world.evidence()
    ghosts, found = found_ghosts(world)
    wrong = wrong_deletions(world)
    counts.update({"records": len(world.truths), "ghosts": ghosts, "found": found, "wrong": len(wrong)})
    for truth in world.truths:
        verdict = judge(truth.record, evidence)
        counts["deleted"] += verdict.delete
        if truth.owner is None and truth.ours and not verdict.delete:
            kept[verdict.rule] += 1
