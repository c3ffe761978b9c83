"""Hosts out of service and back, with jobs running: routing, holds, kills in between, the circuit breaker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.labels import DRAINED
from tests.component.cli_support import spawn
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

SLOTS = [{"name": "a", "labels": ["first"]}, {"name": "b", "labels": ["second"]}]
DRAIN, RESUME = "runnerctl.gpu_runner.drain", "runnerctl.gpu_runner.resume"
QUICK: dict[str, Any] = {"drain_quiet_seconds": 3, "drain_reason": "new fans"}


@pytest.fixture(scope="module")
def provisioned(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with two slots, in an inventory with another one that nobody ever set up."""
    controller = Controller(Path(tmp_path_factory.mktemp("drain")), lab.keys)
    variables = {
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_timer": False,
        "github_runner_slots": SLOTS,
    }
    site = Site([module_hosts()], module_world, controller, variables)
    site.provision()
    yield site
    assert module_world.control.violations() == []


@pytest.fixture
def site(provisioned: Site) -> Iterator[Site]:
    """That host in service; what a test leaves behind is brought back."""
    yield provisioned
    provisioned.play(RESUME)
    for slot in ("a", "b"):
        provisioned.github.wait_runner(provisioned.world.scope, f"{provisioned.host.name}-{slot}")


@contextmanager
def working(site: Site, slot: str, label: str) -> Iterator[None]:
    """A job that runs for as long as this; it must end well, whatever is done to the slot meanwhile."""
    go = f"/var/lib/gha-runner/{slot}/home/go"
    job = site.job(f"while [ ! -e {go} ]; do sleep 0.1; done; rm {go}; echo survived", labels=[label])
    site.github.wait_job(job, status="in_progress")
    try:
        yield
    finally:
        site.shell(f"touch {go}")
        result, log = site.result(job)
    assert result == "success", log
    assert "survived" in log


def active(site: Site, slot: str) -> bool:
    """Whether the slot's listener runs."""
    return site.host.exec("systemctl", "is-active", f"gha-runner@{slot}", check=False).rc == 0


def labels(site: Site, slot: str) -> tuple[set[str], set[str]]:
    """The custom and the read-only labels GitHub has for a slot."""
    record = site.record(slot)
    assert record is not None
    kinds: dict[str, set[str]] = {"custom": set(), "read-only": set()}
    for label in record["labels"]:
        kinds[label["type"]].add(label["name"].lower())
    return kinds["custom"], kinds["read-only"]


def eventually(question: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.2)


def test_a_host_is_drained_with_a_job_running_and_comes_back(site: Site) -> None:
    """The job ends well; then its slot stops; provision leaves it so; resume restores everything."""
    with working(site, "a", "first"):
        run = site.start(DRAIN, extra=QUICK)
        eventually(lambda: not active(site, "b"))
        assert active(site, "a")
        assert labels(site, "a") == ({DRAINED}, {"self-hosted", "linux", "x64"})
        waiting = site.job("echo ran", labels=["second"])
    drained = run.wait()
    assert drained.rc == 0, drained.output
    assert not active(site, "a")
    assert "new fans" in site.host.ssh("runnerctl list").stdout
    for again in (site.play(DRAIN, extra={"drain_quiet_seconds": 60}), site.slots()):
        assert (again.rc, again.recap[site.host.name].changed) == (0, 0), again.output
    assert again.duration_seconds < 60
    assert labels(site, "b")[0] == {DRAINED}
    assert site.github.job(waiting)["status"] == "queued"
    foreseen = site.play(RESUME, "--check")
    assert foreseen.recap[site.host.name].changed == 1
    assert not active(site, "a")
    site.github.clear_requests()
    back = site.play(RESUME)
    assert back.rc == 0, back.output
    assert labels(site, "a")[0] == {"first"}
    assert labels(site, "b")[0] == {"second"}
    assert site.result(waiting)[0] == "success"
    assert site.play(RESUME).recap[site.host.name].changed == 0
    assert site.slots().recap[site.host.name].changed == 0
    token = site.world.token
    found = site.host.exec("grep", "-rlF", token, "/etc", "/var", "/root", "/run", "/tmp", check=False)
    assert found.stdout == ""


def test_a_job_sent_within_the_quiet_period_runs_to_its_end(site: Site) -> None:
    """GitHub had sent it before the cut: the slot takes it, and stops after it."""
    run = site.start(DRAIN, extra={**QUICK, "drain_quiet_seconds": 10, "drain_slots": ["a"]})
    eventually(lambda: labels(site, "a")[0] == {DRAINED})
    with working(site, "a", DRAINED):  # nothing else would reach a slot that is cut
        eventually(lambda: site.host.exists("/var/lib/runnerctl/hold/a"), seconds=60)
        assert active(site, "a")
    drained = run.wait()
    assert drained.rc == 0, drained.output
    assert not active(site, "a")
    assert active(site, "b")


def test_check_mode_writes_nothing(site: Site) -> None:
    """Neither on the host nor at GitHub."""
    site.github.clear_requests()
    foreseen = site.play(DRAIN, "--check", extra=QUICK)
    assert foreseen.rc == 0, foreseen.output
    actions = foreseen.result("stop").data["actions"]
    assert [action for action in actions if "slot a" in action] == [
        "slot a: cut from routing",
        "slot a: put on hold",
        "slot a: stopped",
    ]
    assert {request["method"] for request in site.github.requests()} == {"GET"}
    assert active(site, "a")
    assert not site.host.exists("/var/lib/runnerctl/hold/a")


@pytest.mark.parametrize("mend", ["resume", "provision"])
def test_a_controller_that_dies_in_the_quiet_period_leaves_nothing_that_lasts(site: Site, mend: str) -> None:
    """Cut and not held: a resume heals it, and so does any converge."""
    run = site.start(DRAIN, extra={**QUICK, "drain_quiet_seconds": 60})
    eventually(lambda: labels(site, "a")[0] == {DRAINED} and labels(site, "b")[0] == {DRAINED})
    run.kill()
    assert active(site, "a")
    healed = site.play(RESUME) if mend == "resume" else site.slots()
    assert healed.rc == 0, healed.output
    assert (labels(site, "a")[0], labels(site, "b")[0]) == ({"first"}, {"second"})
    assert site.result(site.job("echo ran", labels=["first"]))[0] == "success"


def command(site: Site, *words: str) -> Any:
    """Run ``runnerctl`` on the controller, with the inventory as it is."""
    site.controller.write_inventory(
        site.hosts, {**site.world.variables(), **site.variables}, per_host=site.per_host
    )
    return spawn(*words, "-i", str(site.controller.inventory), env=site.world.environment())


def test_the_command_drains_waits_gives_up_with_75_and_the_job_ends_well(site: Site) -> None:
    """One JSON document with what became of each slot; the one that was left busy stops by itself."""
    with working(site, "a", "first"):
        ran = command(site, "drain", "--slot", "a", "--quiet", "1", "--timeout", "2", "-o", "json")
        assert ran.code == 75, ran.out + ran.err
        (host,) = ran.json["hosts"]
        assert host["slots"][0]["state"] == "busy"
        assert "still runs a job after 2 s; it is cut from routing and on hold" in host["error"]
        assert site.world.token not in ran.out + ran.err
    eventually(lambda: not active(site, "a"))
    ran = command(site, "resume")
    assert ran.code == 0, ran.out + ran.err
    assert [line.split()[1:3] for line in ran.out.splitlines()[1:]] == [["a", "running"], ["b", "running"]]


@contextmanager
def absent(site: Site) -> Iterator[str]:
    """For a while, inventory begins with a host that nobody ever set up and that does not answer."""
    site.hosts.insert(0, replace(site.host, name="gpu-absent", ip="127.1.2.3", user="root"))
    try:
        yield "gpu-absent"
    finally:
        site.hosts.pop(0)


def test_the_breaker_refuses_what_the_fleet_cannot_spare(site: Site) -> None:
    """Before anything is touched, with the numbers; force goes on."""
    name = site.host.name
    with absent(site):
        site.github.clear_requests()
        ran = command(site, "drain", "--limit", name, "--quiet", "1")
        assert ran.code == 75, ran.out + ran.err
        assert "4 of the fleet's 4 runners would be out of service (2 are already, 2 more)" in ran.err
        assert {request["method"] for request in site.github.requests()} == {"GET"}
        ran = command(site, "drain", "--limit", name, "--quiet", "1", "--force", "-o", "json")
        assert ran.code == 0, ran.out + ran.err
        assert [slot["state"] for slot in ran.json["hosts"][0]["slots"]] == ["drained", "drained"]


def test_the_first_bad_batch_is_the_last(site: Site) -> None:
    """A host that does not answer ends the run before the next is touched; 69, and every host is named."""
    name = site.host.name
    with absent(site) as dead:
        ran = command(site, "drain", "--quiet", "1", "--batch", "1", "--force", "-o", "json")
    assert ran.code == 69, ran.out + ran.err
    hosts = {host["host"]: host for host in ran.json["hosts"]}
    assert hosts[dead]["exit_code"] == 69
    assert hosts[name]["error"].startswith("not begun")
    assert labels(site, "a")[0] == {"first"}
    assert active(site, "a")


def test_on_the_host_a_credential_cuts_routing_too(site: Site) -> None:
    """It is in the environment of that command alone; without one the hold is all there is."""
    words = "GH_TOKEN=$(cat) exec runnerctl {} a"
    done = site.host.ssh(words.format("drain --quiet 1"), stdin=site.world.token)
    assert "slot a: cut from routing" in done.stdout
    assert labels(site, "a")[0] == {DRAINED}
    site.host.ssh(words.format("resume"), stdin=site.world.token)
    assert labels(site, "a")[0] == {"first"}
    done = site.host.ssh("runnerctl drain --all")
    assert "routing is not cut: there is no GitHub credential" in done.stderr
    assert labels(site, "a")[0] == {"first"}
