"""Records at GitHub and a real host: what `prune` may delete, and a parked runner that stays known."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runnerctl.core.labels import DRAINED
from tests.component.cli_support import Ran, spawn
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

UNIT = "gha-runner@a.service"
# What a controller has done of a touch when it is killed right after the start.
STARTED = """
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import Holds
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.keepalive import Touches
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

layout, system = Layout(), System()
assert Touches(layout, system, Holds(layout, system)).start("a")
"""


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with two slots."""
    controller = Controller(Path(tmp_path_factory.mktemp("records")), lab.keys)
    variables = {
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_timer": False,
        "github_runner_slots": [{"name": "a", "labels": ["first"]}, {"name": "b"}],
    }
    site = Site([module_hosts()], module_world, controller, variables)
    site.provision()
    yield site
    assert module_world.control.violations() == []


def runnerctl(site: Site, *arguments: str) -> Ran:
    """The command on the controller, with the inventory and its credential."""
    state = {"XDG_STATE_HOME": str(site.controller.directory / "state")}
    environment = {**site.world.environment(), **state}
    return spawn(*arguments, "-i", str(site.controller.inventory), "-o", "json", env=environment)


def test_prune_asks_the_host(site: Site) -> None:
    """Runners of the host are kept, offline or not; what nobody holds goes; a host that is off keeps all."""
    host, scope = site.host.name, site.world.scope
    site.shell(f"systemctl stop {UNIT}")
    site.github.wait_runner(scope, f"{host}-a", status="offline")
    for name in (f"{host}-old", f"{host}-a-b", f"{host}x-old"):
        site.github.add_runner(scope, name, labels=[], status="offline")
    ran = runnerctl(site, "prune", "--apply")
    assert ran.code == 0, ran.err
    found = {each["name"]: (each["rule"], each["outcome"]) for each in ran.json["records"]}
    assert found == {
        f"{host}-a": ("held", "kept"),
        f"{host}-b": ("online", "kept"),
        f"{host}-old": ("retired-slot", "deleted"),
        f"{host}-a-b": ("ambiguous", "kept"),
        f"{host}x-old": ("foreign", "kept"),
    }
    site.github.add_runner(scope, f"{host}-old", labels=[], status="offline")
    site.shell("mv /var/lib/gha-runner/b/.runner /root/b; echo '{' >/var/lib/gha-runner/b/.runner")
    ran = runnerctl(site, "prune", "--apply")
    site.shell("mv /root/b /var/lib/gha-runner/b/.runner")
    rules = {each["name"]: each["rule"] for each in ran.json["records"]}
    assert rules[f"{host}-old"] == "unproven", ran.err
    site.shell(f"systemctl start {UNIT}")
    site.github.wait_runner(scope, f"{host}-a")


def test_a_held_runner_is_touched_and_stays_held(site: Site) -> None:
    """It was online, out of routing; afterwards hold, labels and unit are as before."""
    host, scope = site.host.name, site.world.scope
    site.shell("runnerctl drain a --reason 'parked for the winter'")
    site.github.wait_runner(scope, f"{host}-a", status="offline")
    ran = runnerctl(site, "keepalive")
    shown = {each["name"]: each for each in ran.json["runners"]}
    assert (shown[f"{host}-a"]["status"], shown[f"{host}-a"]["left_most_days"]) == ("offline", 14.0), ran.err
    assert shown[f"{host}-a"]["left_least_days"] is None
    hold = site.host.read("/var/lib/runnerctl/hold/a")
    waiting = site.job("echo ran", labels=["first"])
    site.github.clear_requests()
    ran = runnerctl(site, "keepalive", "--start")
    assert ran.code == 0, ran.err
    shown = {each["name"]: each for each in ran.json["runners"]}
    assert shown[f"{host}-a"]["outcome"] == "touched", json.dumps(shown)
    assert shown[f"{host}-a"]["left_least_days"] == 14.0
    assert shown[f"{host}-b"]["outcome"] is None
    assert site.github.job(waiting)["status"] == "queued"
    written = [request for request in site.github.requests(kind="api") if request["method"] != "GET"]
    assert [request["method"] for request in written] == ["PUT", "PUT"]
    assert site.custom_labels("a") == {"first"} and DRAINED not in site.custom_labels("b")
    assert site.host.read("/var/lib/runnerctl/hold/a") == hold
    assert site.host.exec("systemctl", "is-active", UNIT, check=False).rc != 0
    assert not site.host.exists(f"/run/systemd/system/{UNIT}.d")
    site.shell(f"systemctl start {UNIT}")  # its condition is back
    assert site.host.exec("systemctl", "is-active", UNIT, check=False).rc != 0
    site.shell("runnerctl resume a")
    assert site.result(waiting)[0] == "success"


def test_a_controller_killed_in_between_leaves_nothing_running(site: Site) -> None:
    """A timer on the host stops the listener; a later run goes on from there."""
    site.shell("runnerctl drain a --reason 'parked for the winter'")
    timer = "runnerctl-keepalive-a.timer"
    site.shell(f"/opt/runnerctl/venv-*/bin/python -c {shlex.quote(STARTED)}")
    assert site.host.exec("systemctl", "is-active", UNIT, timer, check=False).stdout.split() == ["active"] * 2
    site.github.wait_runner(site.world.scope, f"{site.host.name}-a")
    ran = runnerctl(site, "keepalive", "--start")
    assert {each["status"] for each in ran.json["runners"]} == {"online"}, "nothing is offline, nothing to do"
    site.shell("systemctl start gha-hold@a.service")  # what the timer does
    site.github.wait_runner(site.world.scope, f"{site.host.name}-a", status="offline")
    ran = runnerctl(site, "keepalive", "--start")
    assert "touched" in {each["outcome"] for each in ran.json["runners"]}, ran.out
    assert site.host.exec("systemctl", "is-active", timer, check=False).rc != 0
    assert site.custom_labels("a") == {"first"}
    site.shell("runnerctl resume a")
