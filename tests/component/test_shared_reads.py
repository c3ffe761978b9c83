"""One play's workers read GitHub once together; what would change something is read again by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.plan import LocalSlot, SlotPlan
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.github.cache import PrivateCache
from runnerctl.play import Play, current_play
from runnerctl.reconcile import Fleet
from tests.fakes.github_api import Control, GithubApi

TOKEN = "ghp_sharedreads00000000000000000000"
ORG = "/orgs/acme"
VERSION = "2.336.0"


@pytest.fixture(scope="module")
def github() -> Iterator[GithubApi]:
    with GithubApi() as server:
        yield server


@pytest.fixture
def control(github: GithubApi) -> Iterator[Control]:
    desk = github.control
    desk.reset()
    desk.add_token(TOKEN)
    desk.release(VERSION, sha256="a" * 64, download_url="https://github.com/dl/x.tar.gz", downloads=True)
    yield desk
    assert desk.violations() == []


@pytest.fixture
def cache(tmp_path: Path) -> PrivateCache:
    return PrivateCache(tmp_path / "cache")


class Site:
    """Hosts whose slots are all registered and online; ``local`` is what each reports."""

    def __init__(self, github: GithubApi, cache: PrivateCache, *, hosts: int, slots: int) -> None:
        self.github, self.cache = github, cache
        self.specs = [self._spec(f"h{number}", slots) for number in range(hosts)]
        self.local: dict[str, dict[str, LocalSlot]] = {}
        for spec in self.specs:
            self.local[spec.host] = {
                slot.name: self._register(spec, slot) for slot in spec.github_runner.slots
            }
        self.runs = 0

    def _spec(self, host: str, slots: int) -> HostSpec:
        names = [{"name": f"s{number}"} for number in range(slots)]
        given = {"github_runner_url": f"{self.github.url}/acme", "github_runner_slots": names}
        spec, problems = host_spec(host, given)
        assert spec is not None, problems
        return spec

    def _register(self, spec: HostSpec, slot: Any) -> LocalSlot:
        name, labels = spec.runner_name(slot), sorted(spec.slot_labels(slot))
        made = self.github.control.add_runner(ORG, name, labels=labels, status="online")
        return LocalSlot(slot.name, agent_id=made["id"], agent_name=name, url=spec.slot_scope(slot).url)

    def play(self) -> dict[str, list[SlotPlan]]:
        """Preflight and converge of every host, four at a time, as one run of ansible-playbook."""
        self.runs += 1
        self.github.control.clear_requests()
        play = Play(f"run {self.runs}", self.cache, hosts=len(self.specs))

        def preflight(spec: HostSpec) -> None:
            fleet = self.fleet(spec, play)
            fleet.prove_access(register=())
            assert fleet.release("x86_64", installed=[VERSION]).version == VERSION

        def converge(spec: HostSpec) -> tuple[str, list[SlotPlan]]:
            return spec.host, self.fleet(spec, play).plans(self.local[spec.host])

        with ThreadPoolExecutor(4) as workers:
            list(workers.map(preflight, self.specs))
            return dict(workers.map(converge, self.specs))

    def fleet(self, spec: HostSpec, play: Play) -> Fleet:
        environment = {"GH_TOKEN": TOKEN, "RUNNERCTL_CACHE_DIR": str(self.cache.root)}
        return Fleet(spec, environment, play=play, sleep=lambda _: None)


def asked(control: Control) -> list[str]:
    return [f"{request['method']} {request['path']} {request['status']}" for request in control.requests()]


def changes(plans: Mapping[str, list[SlotPlan]]) -> list[str]:
    return [plan.runner_name for found in plans.values() for plan in found if plan.changes or plan.error]


@pytest.mark.exhaustive
def test_a_fleet_of_500_that_needs_nothing_costs_five_conditional_requests(
    github: GithubApi, control: Control, cache: PrivateCache
) -> None:
    """The first run of an hour also asks for the groups and for the release that GitHub expects."""
    site = Site(github, cache, hosts=63, slots=8)
    for runner in control.runners(ORG)[500:]:
        control.delete_runner(runner["id"])
    site.local["h62"] = dict(list(site.local["h62"].items())[:4])
    site.specs[-1] = site._spec("h62", 4)
    assert changes(site.play()) == []
    assert control.counts() == (7, 0)
    assert changes(site.play()) == []
    assert asked(control) == [f"GET {ORG}/actions/runners 304"] * 5


def test_one_slot_among_10_000_is_looked_up_by_name(
    github: GithubApi, control: Control, cache: PrivateCache
) -> None:
    site = Site(github, cache, hosts=1, slots=1)
    control.add_runners(ORG, 10_000, labels=["other"])
    assert changes(site.play()) == []
    paths = [line.split()[1] for line in asked(control)]
    assert paths == [
        f"{ORG}/actions/runners/downloads",
        f"{ORG}/actions/runners",
        f"{ORG}/actions/runner-groups",
    ]


def test_a_crowd_is_not_read_for_a_few_hosts(
    github: GithubApi, control: Control, cache: PrivateCache
) -> None:
    """Four slots among 1,000: one page tells how many there are, then each is looked up."""
    site = Site(github, cache, hosts=4, slots=1)
    control.add_runners(ORG, 1000, labels=["other"])
    assert changes(site.play()) == []
    assert sum("/actions/runners 200" in line for line in asked(control)) == 1 + 4


def test_what_would_change_is_planned_from_fresh_reads(
    github: GithubApi, control: Control, cache: PrivateCache
) -> None:
    """The list is a moment old: in it one runner is offline, one has wrong labels, one is absent."""
    site = Site(github, cache, hosts=5, slots=1)
    ids = [site.local[f"h{number}"]["s0"].agent_id or 0 for number in range(5)]
    labels = sorted(site.specs[1].slot_labels(site.specs[1].github_runner.slots[0]))
    control.change_runner(ids[0], status="offline")
    control.change_runner(ids[1], labels=["wrong"])
    control.delete_runner(ids[2])
    play = Play("run", cache, hosts=5)
    site.fleet(site.specs[3], play).prove_access(register=())
    control.change_runner(ids[0], status="online")
    control.change_runner(ids[1], labels=labels)
    site.local["h2"]["s0"] = site._register(site.specs[2], site.specs[2].github_runner.slots[0])
    control.clear_requests()
    plans = {spec.host: site.fleet(spec, play).plans(site.local[spec.host]) for spec in site.specs}
    assert changes(plans) == []
    assert all(plan.online for found in plans.values() for plan in found)
    assert sum("/actions/runners 200" in line for line in asked(control)) == 3


def test_a_damaged_or_missing_cache_costs_requests_and_no_more(
    github: GithubApi, control: Control, cache: PrivateCache
) -> None:
    site = Site(github, cache, hosts=5, slots=1)
    assert changes(site.play()) == []
    for path in cache.root.iterdir():
        if path.name.startswith("play."):
            path.write_bytes(b"damaged")
    assert changes(site.play()) == []
    cache.root.chmod(0o755)
    site.cache = PrivateCache(cache.root, note=lambda _: None)
    assert changes(site.play()) == []
    assert control.counts()[1] == 0


def test_the_run_is_our_parent(tmp_path: Path) -> None:
    """The forks of one ansible-playbook share it; the next run has another parent, or another beginning."""
    found = [current_play({"RUNNERCTL_CACHE_DIR": str(tmp_path / "c")}, hosts=3) for _ in range(2)]
    keys = {play._key for play in found if play}
    assert len(keys) == 1
    assert current_play({"RUNNERCTL_CACHE_DIR": "off"}, hosts=3) is None
    assert str(os.getppid()) not in keys
