"""Record what a real GPU is like: ``python -m tests.gpu.costs FOLDER``.

Writes ``costs.json`` (what each NVML call takes, and health and ``nvidia-smi`` as a whole) and
``snapshot.json`` (redacted, fit to be a fixture). Nothing here judges: the tests beside this file do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runnerctl.probes import nvml
from runnerctl.probes.bounded import Report

__all__ = ["Stopwatch", "main", "whole"]

ROUNDS = 10
SECONDS = 120
HEALTH = (sys.executable, "-m", "runnerctl", "health", "--no-network", "-o", "json")
SMI = ("nvidia-smi", "--query-gpu=uuid,temperature.gpu,power.draw,memory.used", "--format=csv,noheader")


class Stopwatch(Report):
    """Measures from each stage to the next: the call, and the little that Python does with its answer."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, list[float]] = {}
        self.parts: list[Any] = []
        self._call, self._since = "", 0.0

    def stage(self, call: str, gpu: int | None = None) -> None:
        """A call begins; the one before it has ended."""
        del gpu
        self.stop()
        self._call, self._since = call, time.perf_counter()

    def stop(self) -> None:
        """The last call has ended."""
        if self._call:
            took = (time.perf_counter() - self._since) * 1000
            self.milliseconds.setdefault(self._call, []).append(round(took, 4))
        self._call = ""

    def part(self, value: Any) -> None:
        """Kept."""
        self.parts.append(value)


def whole(command: Sequence[str]) -> dict[str, float]:
    """Median and worst of several runs of a command, in milliseconds; its exit status does not matter."""
    took = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL)
        took.append((time.perf_counter() - begin) * 1000)
    return {"median": round(statistics.median(took), 2), "worst": round(max(took), 2)}


def _calls() -> dict[str, dict[str, float]]:
    watch = Stopwatch()
    for _ in range(ROUNDS):
        nvml.read(watch)
        watch.stop()
    return {
        call: {
            "calls": len(took) / ROUNDS,
            "median": round(statistics.median(took), 4),
            "worst": max(took),
        }
        for call, took in sorted(watch.milliseconds.items())
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Record everything into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where costs.json and snapshot.json go")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    costs = {"milliseconds": {"health": whole(HEALTH), "nvidia-smi": whole(SMI)}, "calls": _calls()}
    (folder / "costs.json").write_text(f"{json.dumps(costs, indent=2)}\n")
    snapshot = subprocess.run(
        [sys.executable, "-m", "runnerctl", "snapshot", "-o", "json"],
        capture_output=True,
        timeout=SECONDS,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    (folder / "snapshot.json").write_bytes(snapshot.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
