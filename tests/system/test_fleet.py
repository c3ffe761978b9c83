"""The fleet as it is: a host with two runners, one never set up, one that is away; and the page of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.component.cli_support import Ran, spawn
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.machine import ROOT
from tests.hosts.world import World
from tests.system.site import Site

EXIT = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}
AWAY = "away-1"


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A converged host with the slots a and b; then its inventory gets a bare host and one that is away."""
    controller = Controller(Path(tmp_path_factory.mktemp("fleet")), lab.keys)
    variables = {
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_timer": False,
        "github_runner_slots": [{"name": "a"}, {"name": "b"}],
        "github_runner_labels": ["rack7"],
    }
    site = Site([module_hosts()], module_world, controller, variables)
    site.provision()
    for slot in "ab":
        module_world.control.wait_runner(module_world.scope, f"{site.host.name}-{slot}")
    _grow(site, module_hosts(variant="bare"))
    yield site
    assert module_world.control.violations() == []


def _grow(site: Site, bare: Host) -> None:
    """Two more hosts in the inventory: one bare, and one at an address where nobody is."""
    controller = site.controller
    controller.write_inventory([site.host, bare], site.world.variables(**site.variables))
    data = json.loads(controller.inventory.read_text())
    hosts = data["all"]["children"]["runner_hosts"]["hosts"]
    hosts[AWAY] = {**hosts[bare.name], "ansible_host": "192.0.2.1", "ansible_ssh_timeout": 2}
    controller.inventory.write_text(json.dumps(data))


def fleet(site: Site, *words: str, token: bool = True) -> Ran:
    """Run ``runnerctl fleet`` on the controller."""
    env = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(site.controller.keys.control_path),
        "RUNNERCTL_CACHE_DIR": "off",
        **(site.world.environment() if token else {}),
    }
    return spawn("fleet", "-i", str(site.controller.inventory), *words, env=env)


def rows(ran: Ran) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The rows of a JSON answer by host and slot."""
    assert ran.out, ran.err
    return {(row["host"], row["slot"]): row for row in ran.json["rows"]}


def test_every_host_has_its_say(site: Site) -> None:
    """Two runners are able; the bare host and the one that is away are told for what they are."""
    site.github.clear_requests()
    ran = fleet(site, "-o", "json")
    found, name = rows(ran), site.host.name
    assert [found[name, slot]["can_take_a_job"] for slot in "ab"] == ["yes", "yes"], ran.out
    assert found[name, "a"]["agent_id"] == found[name, "a"]["github"]["id"]
    assert found[AWAY, "a"]["can_take_a_job"] == "no"
    assert "cannot be reached" in found[AWAY, "a"]["why"]
    bare = next(host for host in ran.json["hosts"] if host["host"] not in (name, AWAY))
    assert not bare["answered"] and "not provisioned" in bare["why"]
    assert "provision playbook" in bare["remedy"]
    assert (ran.json["counts"]["runners"], ran.json["counts"]["able"]) == (6, 2)
    assert ran.code == EXIT[ran.json["status"]] == 2 and ran.err == ""
    paths = [request["path"] for request in site.github.requests()]
    # The list and the version's end, once each; /meta is the host's own question whether GitHub answers.
    assert sorted(path.rpartition("/")[2] for path in paths if path != "/meta") == ["2.336.0", "runners"]


def test_without_a_credential_it_is_the_hosts_own_view(site: Site) -> None:
    """And says so; the hosts that are not there leave it UNKNOWN."""
    ran = fleet(site, token=False)
    assert ran.code == 3, ran.out + ran.err
    assert ran.out.startswith("UNKNOWN  2 of 6 runners can take a job (4 not known)")
    assert "note: no GitHub credential" in ran.out
    assert all(len(line) <= 80 for line in ran.out.splitlines()), ran.out


def test_each_slot_says_why_and_the_page_shows_it(site: Site, tmp_path: Path) -> None:
    """A slot on hold and one whose listener is stopped; mended, all is well again."""
    host, page = site.host, tmp_path / "fleet.html"
    host.exec("runnerctl", "drain", "a", "--reason", "new fans")
    host.exec("systemctl", "kill", "--signal=SIGSTOP", "gha-runner@b.service")
    try:
        ran = fleet(site, "--limit", host.name, "-o", "json", "--html", str(page))
        found = rows(ran)
        held, stopped = found[host.name, "a"], found[host.name, "b"]
        assert (held["can_take_a_job"], stopped["can_take_a_job"]) == ("no", "no"), ran.out
        assert "held: new fans" in held["why"] and "runnerctl resume a" in held["remedy"]
        assert "SIGSTOP" in stopped["why"] and stopped["status"] == "CRITICAL"
        assert ran.code == 2
    finally:
        host.exec("systemctl", "kill", "--signal=SIGCONT", "gha-runner@b.service")
        host.exec("runnerctl", "resume", "a")
    (seen,) = browser.measure(page, width=390, height=844)
    assert seen["scroll_width"] <= seen["width"] == 390
    told = " ".join(text["text"] for text in seen["texts"])
    assert "held: new fans" in told and "On hold" in told and host.name in told


def test_github_knows_better_about_labels(site: Site) -> None:
    """A runner that listens well and that no job finds; and one that was cut from routing."""
    name = site.host.name
    records = {slot: site.record(slot) for slot in "ab"}
    before = {slot: record["labels"] for slot, record in records.items() if record}
    for slot, labels in (("a", ["wrong"]), ("b", ["runnerctl-drained"])):
        record = records[slot]
        assert record is not None
        site.github.change_runner(record["id"], labels=labels)
    site.github.wait_runner(site.world.scope, f"{name}-a")
    ran = fleet(site, "--limit", name, "-o", "json")
    found = rows(ran)
    for slot, labels in before.items():
        record = records[slot]
        assert record is not None
        custom = [label["name"] for label in labels if label["type"] == "custom"]
        site.github.change_runner(record["id"], labels=custom)
    assert found[name, "a"]["can_take_a_job"] == found[name, "b"]["can_take_a_job"] == "no", ran.out
    assert "lacks the labels rack7" in found[name, "a"]["why"]
    assert "cut from routing" in found[name, "b"]["why"]
