"""Upgrades while jobs run: simulated hosts, the real engine, a stand-in GitHub, and days that go wrong.

One upgrade is one host with two slots and jobs in the queue. Its release is good, or its listener ends at
once, or connects and is refused, or never connects. GitHub answers with errors now and then, and the
controller may be killed before any operation and started again. Time is compressed: pauses are short, jobs
last under a second. Counted are jobs that did not succeed and slots that are not online, routed and free
afterwards.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec

from benchmarks.report import table
from benchmarks.upgrade_host import Killed, SimHost
from runnerctl.core.labels import DRAINED
from runnerctl.core.scope import parse_scope
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.errors import RunnerctlError
from runnerctl.github.auth import credentials
from runnerctl.github.client import GitHubClient
from runnerctl.github.registry import Registry
from runnerctl.reconcile import Fleet, Release
from runnerctl.rollout.upgrade import Upgrade
from runnerctl.rollout.upgrade_github import FleetRoutes
from runnerctl.rollout.upgrade_ports import BY, Pace
from tests.fakes.github_api import Control, GithubApi
from tests.fakes.github_api.clients import Caller

__all__ = ["Tally", "run", "simulate"]

OLD, NEW = "2.336.0", "2.337.0"
TOKEN = "ghp_upgrade0000000000000000000000000"
PACE = Pace(quiet=0.25, wait=20.0, online=1.2, settle=0.25, begin=0.1, look=0.05, poll=0.04)
RELEASES = ("good", "good", "exits", "refused", "silent")
OPERATIONS = 30  # of one upgrade, about: a kill strikes before one of them
MOST_RUNS = 6


@dataclass
class Tally:
    """What came of many upgrades."""

    upgrades: int = 0
    kills: int = 0
    jobs: int = 0
    killed_jobs: int = 0
    offline: int = 0
    left: int = 0
    wrong_version: int = 0
    by_release: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class QuickFleet(Fleet):
    """A fleet whose client waits a hundredth of what it would."""

    def registry(self, url: str) -> Registry:
        """The scope's registry, with a client in compressed time."""
        scope = parse_scope(url)
        if scope.url not in self._registries:
            api = f"{scope.url.rsplit('/', 2)[0]}/api/v3"
            credential = credentials(self.environment, api_url=api, scope=scope)
            client = GitHubClient(api, credential, sleep=lambda seconds: time.sleep(seconds / 100))
            self._registries[scope.url] = Registry(client, scope)
        return self._registries[scope.url]


def run(*, quick: bool) -> list[str]:
    """The section of `benchmarks.github`."""
    tally = simulate(5 if quick else 100, seed=20261122, progress=True)
    hasty = simulate(5 if quick else 50, seed=20261122, pace=msgspec.structs.replace(PACE, quiet=0.0))
    middle = sorted(tally.seconds)[len(tally.seconds) // 2]
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(tally.by_release.items()))
    rows = [
        ("", ""),
        ("upgrades of a host with two slots", f"{tally.upgrades}"),
        ("releases", kinds),
        ("controllers killed and started again", f"{tally.kills}"),
        ("jobs that ran meanwhile", f"{tally.jobs}"),
        ("**jobs killed or failed**", f"**{tally.killed_jobs}**"),
        ("**runners left offline**", f"**{tally.offline}**"),
        ("runners left on hold or out of routing", f"{tally.left}"),
        ("runners with another release than they should have", f"{tally.wrong_version}"),
        ("for comparison: jobs that fail without the quiet period", f"{hasty.killed_jobs} of {hasty.jobs}"),
        ("time of one upgrade, compressed, median", f"{middle:.1f} s"),
    ]
    return [table(rows), *(f"Problem: {problem}" for problem in tally.problems[:5])]


def simulate(count: int, *, seed: int, workers: int = 4, pace: Pace = PACE, progress: bool = False) -> Tally:
    """Run ``count`` upgrades, each a host of its own, ``workers`` at a time."""
    tally, dice = Tally(), random.Random(seed)  # noqa: S311 (repeatable)
    with GithubApi() as github:
        github.control.add_token(TOKEN)
        github.control.settings(rate_limit=10_000_000)
        seeds = [dice.random() for _ in range(count)]

        def one(number: int) -> None:
            started = time.monotonic()
            _One(github, number, random.Random(seeds[number]), tally, pace=pace).run()  # noqa: S311
            tally.seconds.append(time.monotonic() - started)
            if progress:
                print(f"upgrade {len(tally.seconds)} of {count}", file=sys.stderr)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, range(count)))
        violations = github.control.violations()
        tally.problems += [f"breach of the description: {each}" for each in violations]
    return tally


class _One:
    """One host's upgrade, from jobs in the queue to the counting."""

    def __init__(
        self, github: GithubApi, number: int, dice: random.Random, tally: Tally, *, pace: Pace
    ) -> None:
        self.pace = pace
        self.github, self.number, self.dice, self.tally = github, number, dice, tally
        self.control = Control(github.url)  # a session of this thread's own
        self.scope = f"/repos/acme/upgrade-{number}"
        self.kind = dice.choice(RELEASES)
        self.bad: Mapping[str, str] = {} if self.kind == "good" else {NEW: self.kind}
        api = Caller(github.url, TOKEN)
        seed = dice.randrange(1 << 30)
        self.sim = SimHost.build(api, self.scope, f"h{number}", version=OLD, bad=self.bad, seed=seed)
        slots = [{"name": name, "labels": ["gpu"]} for name in self.sim.slots]
        url = f"{github.url}/acme/upgrade-{number}"
        api_url = f"{github.url}/api/v3"
        variables = {"github_runner_slots": slots, "github_runner_api_url": api_url}
        spec, problems = host_spec(f"h{number}", {"github_runner_url": url, **variables})
        assert spec is not None, problems
        self.spec: HostSpec = spec
        self.jobs: list[int] = []

    def run(self) -> None:
        """Jobs, the upgrade with its accidents, and what is left when it says that it is done."""
        for slot in self.sim.slots:
            self.control.wait_runner(self.scope, f"{self.sim.host}-{slot}", seconds=5)
        self._queue_jobs(self.dice.randint(2, 5))
        self._upgrade()
        self.sim.before = lambda _: None
        self._queue_jobs(1)
        self._count()
        self.sim.shut_down()

    def _queue_jobs(self, count: int) -> None:
        for _ in range(count):
            seconds = f"{self.dice.uniform(0.02, 0.5):.3f}"
            repository = self.scope.removeprefix("/repos/")
            self.jobs.append(
                self.control.add_job(labels=["self-hosted", "gpu"], run=seconds, repository=repository)
            )

    def _upgrade(self) -> None:
        """Run, perhaps be killed, run again, until a run comes to its end."""
        for attempt in range(MOST_RUNS):
            self._accidents(attempt)
            try:
                results = self._engine().run()
            except Killed:
                self.tally.kills += 1
                continue
            except RunnerctlError:
                continue  # GitHub did not answer before anything was touched
            if not any(each.result in ("failed", "busy", "stranded") for each in results):
                return
        self.tally.problems.append(f"{self.sim.host}: not done after {MOST_RUNS} runs")

    def _accidents(self, attempt: int) -> None:
        strike = self.dice.randrange(OPERATIONS) if attempt < 2 and self.dice.random() < 0.6 else -1
        calls = iter(range(1_000_000))

        def before(operation: str) -> None:
            if next(calls) == strike:
                raise Killed(operation)

        self.sim.before = before
        if self.dice.random() < 0.5:
            name = self.dice.choice(["server_error", "bad_gateway_html", "too_many", "drop"])
            skip = self.dice.randrange(40)
            path = f"/upgrade-{self.number}/"
            self.control.fault(name, channel="api", path=path, count=self.dice.randint(1, 3), skip=skip)

    def _engine(self) -> Upgrade:
        fleet = QuickFleet(self.spec, {"GH_TOKEN": TOKEN})
        slot = self.spec.github_runner.slots
        names = {self.spec.slot_scope(slot[0]).url: [self.spec.runner_name(each) for each in slot]}
        routes = FleetRoutes(fleet, names=names, percent=self.dice.choice([34, 100]))
        release = Release(NEW, url="https://example.org/r.tar.gz", sha256="a" * 64)
        return Upgrade(self.sim, routes, release, pace=self.pace)

    def _count(self) -> None:
        tally = self.tally
        tally.upgrades += 1
        tally.by_release[self.kind] += 1
        for job in self.jobs:
            with contextlib.suppress(Exception):
                self.control.wait_job(job, seconds=10)
            done = self.control.job(job)
            tally.jobs += 1
            if done.get("conclusion") != "success":
                tally.killed_jobs += 1
                tally.problems.append(f"{self.sim.host}: job {done['status']} {done.get('conclusion')}")
        for slot in self.sim.slots.values():
            self._count_slot(slot.name)

    def _count_slot(self, name: str) -> None:
        slot, tally = self.sim.slots[name], self.tally
        record = self.control.runner(self.scope, f"{self.sim.host}-{name}") or {}
        wanted = NEW if self.kind == "good" else OLD
        cut = DRAINED in {label["name"] for label in record.get("labels", ())}
        held = any(cause.by == BY for cause in slot.causes)
        tally.offline += record.get("status") != "online"
        tally.left += cut or held
        tally.wrong_version += record.get("version") != wanted
        if record.get("status") != "online" or cut or held or record.get("version") != wanted:
            tally.problems.append(
                f"{self.sim.host}-{name} ({self.kind}): {record.get('status')}, {record.get('version')}, "
                f"cut {cut}, held {held}"
            )
