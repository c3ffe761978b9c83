"""Twenty faults of runners on a real host: ``python -m benchmarks.runner_faults [--quick] [--only PATTERN]``.

Each is made, then judged by what everybody has (``systemctl is-active`` and the status in GitHub's REST API)
and by ``runnerctl health``, without a credential and with one. A sound host and a slot on hold show false
alarms. Prints its table and puts it into docs/benchmarks.md. Nothing is asserted: a figure is a figure.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.report import put, table
from runnerctl.core.health import Health
from tests.fakes.mirror import Mirror
from tests.hosts.controller import Controller
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.runner_acts import GROUP, ORGANISATION, online, slots
from tests.system.runner_faults import FAULTS, Baseline, Fault, ask, baseline, worst
from tests.system.site import Site

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
QUICK = 3  # faults


@dataclass(frozen=True)
class Answer:
    """What was said of one state of the host."""

    title: str
    base: Baseline
    host: Health
    github: Health
    fault: Fault | None = None

    def named(self, health: Health) -> bool:
        """Whether the first of the worst findings has the cause in words."""
        return self.fault is not None and self.fault.named_by(health)


def main() -> int:
    """Make, ask, undo; print, and keep what was said."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runner_faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} faults; the page is not written")
    parser.add_argument("--only", default="*", help="faults whose title fits; the page is not written")
    given = parser.parse_args()
    chosen = [fault for fault in FAULTS if fnmatch.fnmatch(fault.title.lower(), given.only.lower())]
    chosen = chosen[:QUICK] if given.quick else chosen
    with _site() as site:
        answers = [_sound(site), _held(site), *(_faulty(site, fault) for fault in chosen)]
    text = _text(answers)
    print(text)
    if not given.quick and given.only == "*":
        put(PAGE, "benchmarks/runner_faults.py", text)
    return 0


@contextmanager
def _site() -> Iterator[Site]:
    """A host with three slots, and the GitHub that they are registered with."""
    directory = Path(tempfile.mkdtemp(prefix="rb-faults-"))
    lab = Lab.open(directory)
    try:
        with Mirror(directory / "mirror", host=lab.network.gateway) as mirror:
            mirror.add_miniforge()
            with World.build(lab.network.gateway, mirror) as world:
                world.control.add_group(ORGANISATION, GROUP)
                variables = {
                    "conda_manage": False,
                    "nvidia_driver_manage": False,
                    "runnerctl_health_timer": False,
                    "github_runner_slots": slots(world.github.url),
                }
                host = lab.host(f"bench-faults-{os.getpid()}")
                site = Site([host], world, Controller(directory / "play", lab.keys), variables)
                site.provision()
                yield site
    finally:
        lab.close()
        shutil.rmtree(directory, ignore_errors=True)


def _sound(site: Site) -> Answer:
    for slot in "abc":
        online(site, slot)
    return Answer("none: a sound host", baseline(site, "a"), ask(site, github=False), ask(site))


def _held(site: Site) -> Answer:
    site.host.ssh("runnerctl drain b")
    try:
        said = baseline(site, "b"), ask(site, github=False), ask(site)
        return Answer("none: a slot on hold", *said)
    finally:
        site.host.ssh("runnerctl resume b")
        online(site, "b")


def _faulty(site: Site, fault: Fault) -> Answer:
    try:
        fault.make(site)
        api = fault.api(site) if fault.api else ""
        said = [ask(site, github=github, later=fault.later, api=api) for github in (False, True)]
        answer = Answer(fault.title, baseline(site, fault.slot), said[0], said[1], fault)
    finally:
        fault.undo(site)
        if fault.converge:
            site.slots()
        online(site, fault.slot)
    right = answer.named(answer.host) or answer.named(answer.github)
    print("named" if right else "MISSED", fault.title, file=sys.stderr, flush=True)
    return answer


def _text(answers: list[Answer]) -> str:
    now = datetime.now(timezone.utc)
    where = (
        f"Measured on {now:%Y-%m-%d}: {os.cpu_count()} cores, Linux {platform.release()}, Python "
        f"{platform.python_version()}; the host is a container with Debian 12 and systemd on this machine."
    )
    return f"{where}\n\n{_sums(answers)}\n\n{_rows(answers)}\n"


def _sums(answers: list[Answer]) -> str:
    bad = [answer for answer in answers if answer.fault]
    sound = [answer for answer in answers if not answer.fault]
    rows = [("asked", "faults: alarm", "cause named first", "sound and held: false alarms")]
    rows.append(
        (
            "`systemctl is-active` and the REST status",
            f"{sum(answer.base.alarm for answer in bad)} of {len(bad)}",
            f"0 of {len(bad)}",
            f"{sum(answer.base.alarm for answer in sound)} of {len(sound)}",
        )
    )
    for title, health in (
        ("`runnerctl health`, no credential", "host"),
        ("`runnerctl health`, with a credential", "github"),
    ):
        said = [(answer, getattr(answer, health)) for answer in bad]
        calm = [getattr(answer, health) for answer in sound]
        rows.append(
            (
                title,
                f"{sum(each.status != 'OK' for _, each in said)} of {len(bad)}",
                f"{sum(answer.named(each) for answer, each in said)} of {len(bad)}",
                f"{sum(each.status in ('CRITICAL', 'UNKNOWN') for each in calm)} of {len(calm)}",
            )
        )
    return table(rows)


def _rows(answers: list[Answer]) -> str:
    rows: list[tuple[str, ...]] = [
        ("fault", "is-active, REST", "`runnerctl health`: check", "says", "remedy")
    ]
    for answer in answers:
        needs = bool(answer.fault) and not answer.named(answer.host)
        bad = worst(answer.github if needs else answer.host)
        first = bad[0] if bad else None
        check = f"{first.id} {first.status}" if first else "OK"
        title = f"{answer.title} (credential)" if needs else answer.title
        said = (first.summary, first.remedy) if first else ("", "")
        rows.append((title, f"{answer.base.active}, {answer.base.status}", check, *map(_cell, said)))
    return table(rows)


def _cell(text: str) -> str:
    """A cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
