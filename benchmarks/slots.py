"""Slots on a real host, beside the stock way: ``python -m benchmarks.slots [--quick]``.

From one job's end to the next one's start, what the hooks cost a job, how open systemd finds the units, how
many of a hostile job's attempts are stopped, and what the guard and its meter take. One host, one run.
Prints its tables and puts them into docs/benchmarks.md. Nothing is asserted: a figure is a figure.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import meter_cost
from benchmarks.report import put, table
from benchmarks.slot_turns import Turn, hook_seconds, middle, stock, turns
from benchmarks.slot_units import exposures
from tests.fakes.mirror import Mirror
from tests.hostile.cases import CASES
from tests.hostile.siege import Verdict
from tests.hosts.controller import Controller
from tests.hosts.lab import Lab
from tests.hosts.world import RUNNER_VERSION, World
from tests.system import test_hostile as hostile
from tests.system.site import Site

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PAYLOAD_MIB = 190  # with its 5,000 files about what the real archive weighs
JOBS, HOOK_JOBS, METER_SECONDS, IDLE_SECONDS = 6, 50, 15.0, 20.0
MODES = ("persistent", "ephemeral")


def main() -> int:
    """Measure, print, and keep what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slots", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few jobs, no siege; the page is not written")
    quick = parser.parse_args().quick
    began = time.monotonic()
    say("host")
    with _site(PAYLOAD_MIB) as site:
        text = _measure(site, quick=quick)
    text = f"{_where(time.monotonic() - began)}\n\n{text}\n"
    print(text)
    if not quick:
        put(PAGE, "benchmarks/slots.py", text)
    return 0


@contextmanager
def _site(payload_mib: int) -> Iterator[Site]:
    """A host with three GPUs: two persistent slots, an ephemeral one."""
    directory = Path(tempfile.mkdtemp(prefix="rb-slots-"))
    lab = Lab.open(directory)
    try:
        with Mirror(directory / "mirror", host=lab.network.gateway) as mirror:
            mirror.add_miniforge()
            with World.build(lab.network.gateway, mirror) as world:
                world.publish(RUNNER_VERSION, payload_mib=payload_mib)
                controller = Controller(directory / "play", lab.keys)
                name = f"bench-slots-{os.getpid()}"
                site = hostile.make_site(world, lambda **more: lab.host(name, **more), controller, directory)
                yield site
                hostile.release_disks(site)
    finally:
        lab.close()
        shutil.rmtree(directory, ignore_errors=True)


def _measure(site: Site, *, quick: bool) -> str:
    jobs = 2 if quick else JOBS
    say("turns of persistent and ephemeral slots")
    ways = {
        "persistent slot": turns(site, "slot-a", jobs, unit="gha-runner@a.service"),
        "ephemeral slot": turns(site, "slot-e", jobs, unit="gha-ephemeral@e.service"),
    }
    say("turns of the stock way")
    ways["stock: remove, unpack, config.sh --ephemeral, run.sh"] = stock(site, jobs)
    say("hooks")
    hooks = hook_seconds(site, "slot-a", 5 if quick else HOOK_JOBS)
    say("guard")
    idle = _idle_share(site, 2.0 if quick else IDLE_SECONDS)
    say("meter")
    cost = meter_cost.measure(2.0 if quick else METER_SECONDS)
    parts = [_turns(ways), _hooks(hooks), _exposures(site), _costs(idle, cost)]
    if not quick:
        say("siege")
        parts.append(_sieges({mode: hostile.siege(site, mode) for mode in MODES}))
    return "\n\n".join(parts)


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"slots: {what}", file=sys.stderr, flush=True)


def _where(seconds: float) -> str:
    now, load = datetime.now(timezone.utc), os.getloadavg()[0]
    return (
        f"Measured on {now:%Y-%m-%d} in {seconds:.0f} s: {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load average at the end {load:.1f}; the host is a container "
        "with Debian 12 and systemd on this machine, each slot has a disk of its own; "
        f"the runner's archive holds {PAYLOAD_MIB} MiB."
    )


def _turns(ways: dict[str, list[Turn]]) -> str:
    rows = [
        ("a job's worker ends", "turns", "next listener begins", "it listens", "next job's worker begins")
    ]
    for way, found in ways.items():
        cells = (
            middle([turn.listener for turn in found]),
            middle([turn.listening for turn in found]),
            middle([turn.worker for turn in found]),
        )
        rows.append((way, str(len(found)), *cells))
    return table(rows)


def _hooks(hooks: dict[str, list[float]]) -> str:
    rows: list[tuple[str, ...]] = [("hook", "jobs", "p50", "p95", "most")]
    for name, seconds in hooks.items():
        ranked = sorted(seconds)
        chosen = (ranked[len(ranked) // 2], ranked[math.ceil(0.95 * len(ranked)) - 1], ranked[-1])
        rows.append((name, str(len(ranked)), *(f"{1000 * each:.0f} ms" for each in chosen)))
    return table(rows)


def _exposures(site: Site) -> str:
    rows = [("unit", "`systemd-analyze security`: 0 is closed, 10 is open")]
    rows += [(title, value) for title, value in exposures(site).items()]
    return table(rows)


def _costs(idle: float, cost: meter_cost.MeterCost) -> str:
    return table(
        [
            ("what it takes", "of one core"),
            ("guard with its meter, three slots, no job", f"{idle:.2%}"),
            ("meter, eight GPUs in eight jobs", f"{cost.child_share:.2%}"),
            ("guard's side of that meter", f"{cost.parent_share:.3%}"),
        ]
    )


def _idle_share(site: Site, seconds: float) -> float:
    """The share of a core that the guard takes, its children included."""
    before, began = _spent(site), time.monotonic()
    time.sleep(seconds)
    return (_spent(site) - before) / (time.monotonic() - began)


def _spent(site: Site) -> float:
    """Seconds of CPU of the guard, of its children that have ended, and of its meter."""
    main = site.shell("systemctl show --property=MainPID --value runnerctl-guard.service").strip()
    ticks = site.shell(f"cat /proc/{main}/stat").rpartition(")")[2].split()[11:15]
    meter = site.shell(f"for pid in $(pgrep -P {main} -f meter_work); do cat /proc/$pid/schedstat; done")
    nanoseconds = sum(int(line.split()[0]) for line in meter.splitlines())
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") + nanoseconds / 1e9


def _sieges(found: dict[str, dict[str, Verdict]]) -> str:
    head = ("hostile job on a slot", "attempts", "stopped", "open, as SECURITY.md says", "open besides")
    rows: list[tuple[str, ...]] = [head]
    for mode, verdicts in found.items():
        known = {case.id for case in CASES if mode in case.open}
        reached = {each.id for each in verdicts.values() if each.outcome != "stopped"}
        counts = (len(verdicts), len(verdicts) - len(reached), len(reached & known), len(reached - known))
        rows.append((mode, *map(str, counts)))
        for name in sorted(reached - known):
            say(f"{mode}: {verdicts[name]}")
    return table(rows)


if __name__ == "__main__":
    raise SystemExit(main())
