"""What a converge costs: ``python -m benchmarks.converge [--quick]`` from the checkout, as root.

Does its own set-up: Docker Engine, host images, stand-ins for GitHub and the mirrors. Prints its figures and
puts them into docs/benchmarks.md. Nothing is asserted: a figure is a figure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import on_controller, on_host
from benchmarks.plays import Cost, Fleet
from benchmarks.report import Figures, refresh, text
from tests.fakes.mirror import Mirror
from tests.hosts.controller import Controller
from tests.hosts.lab import Lab
from tests.hosts.world import RUNNER_VERSION, World

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
# Packages of jobs come from the distribution's archive: its speed is not ours to measure.
VARIABLES: dict[str, Any] = {"github_runner_packages": []}


@dataclass(frozen=True)
class Effort:
    """How much to measure."""

    fleets: tuple[int, ...] = (1, 4)
    firsts: int = 2
    seconds: int = 5
    commands: int = 20
    payload_mib: int = 175  # of the release, in some 5,000 files: what the real one has, roughly


QUICK = Effort(fleets=(1, 2), firsts=1, seconds=1, commands=3, payload_mib=0)


def main() -> int:
    """Measure, print, and without ``--quick`` write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.converge", description="Measure a converge.")
    parser.add_argument("--quick", action="store_true", help="few runs, small files, the page stays as it is")
    quick = parser.parse_args().quick
    figures = measure(QUICK if quick else Effort())
    sys.stdout.write(text(figures))
    if not quick:
        refresh(PAGE, figures)
        _say(f"{PAGE} has these figures now")
    return 0


def measure(effort: Effort) -> Figures:
    """Fresh fleets one after another; then all sizes in turn, so that what else runs here meets all alike."""
    load = os.getloadavg()[0]
    with _lab() as (lab, mirror), ExitStack() as kept:
        own = on_controller(runs=effort.commands)
        figures = Figures(payload_mib=effort.payload_mib, load=load, controller=own)
        fleets = []
        for count in effort.fleets:
            for _ in range(effort.firsts - 1):
                with _fleet(lab, mirror, count=count, payload_mib=effort.payload_mib) as fleet:
                    _add(figures, "first", fleet.provision(**VARIABLES), count)
            fleet = kept.enter_context(_fleet(lab, mirror, count=count, payload_mib=effort.payload_mib))
            _add(figures, "first", fleet.provision(**VARIABLES), count)
            fleets.append(fleet)
        for _ in range(effort.seconds):
            for fleet in fleets:
                _add(figures, "second", fleet.provision(**VARIABLES), len(fleet.hosts))
                _add(figures, "floor", fleet.ping(), len(fleet.hosts))
        figures.host.update(on_host(fleets[0].hosts[0], runs=effort.commands))
    return figures


@contextmanager
def _lab() -> Iterator[tuple[Lab, Mirror]]:
    directory = Path(tempfile.mkdtemp(prefix="rb-"))
    try:
        lab = Lab.open(directory)
        with Mirror(directory / "mirror", host=lab.network.gateway) as mirror:
            mirror.add_miniforge()
            yield lab, mirror
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _fleet(lab: Lab, mirror: Mirror, *, count: int, payload_mib: int) -> Iterator[Fleet]:
    """Fresh hosts, with a GitHub of their own."""
    inner = Lab(lab.engine, lab.network, lab.keys, numbers=lab.numbers)
    try:
        with World.build(lab.network.gateway, mirror) as world:
            world.publish(RUNNER_VERSION, payload_mib=payload_mib)
            hosts = [inner.host(f"bench-{os.getpid()}-{next(inner.numbers)}") for _ in range(count)]
            with tempfile.TemporaryDirectory(prefix="rb-play-") as directory:
                yield Fleet(hosts, world, Controller(Path(directory), lab.keys))
    finally:
        inner.close()


def _add(figures: Figures, what: str, cost: Cost, count: int) -> None:
    figures.plays.setdefault((what, count), []).append(cost)
    _say(
        f"{what}, hosts: {count}: {cost.wall_seconds:.2f} s, CPU {cost.controller_seconds:.2f} + "
        f"{cost.hosts_seconds:.2f} s, load {os.getloadavg()[0]:.1f}"
    )


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
