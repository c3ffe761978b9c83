"""A host where ``svc.sh`` installed runners long ago: they become slots, with the registrations they have."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import RUNNER_VERSION, World
from tests.system.site import Site

STOCK = "actions.runner.acme-widgets.{}.service"
HOME = "/home/ci/{}"
SECRETS = (".runner", ".credentials", ".credentials_rsaparams")


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with two stock runners, box-a and box-b, and the command line; no slot yet."""
    controller = Controller(Path(tmp_path_factory.mktemp("adopt")), lab.keys)
    host = module_hosts()
    variables: dict[str, Any] = {
        "conda_manage": False,
        "runnerctl_health_timer": False,
        "github_runner_slots": [{"name": "a"}, {"name": "b"}],
        "github_runner_labels": ["big"],
    }
    site = Site([host], module_world, controller, variables)
    host.exec("useradd", "--create-home", "ci")
    for name in ("box-a", "box-b"):
        _install_stock(site, name)
    site.provision("--tags", "runnerctl")
    yield site
    assert module_world.control.violations() == []


def _install_stock(site: Site, name: str) -> None:
    """What a team's wiki page says: unpack, configure as the user, svc.sh install as root."""
    archive = site.world.publish(RUNNER_VERSION)
    answer = requests.post(
        f"{site.world.github.url}/api/v3{site.world.scope}/actions/runners/registration-token",
        headers={"Authorization": f"Bearer {site.world.token}"},
        timeout=10,
    )
    url, token, folder = f"{site.world.github.url}/acme/widgets", answer.json()["token"], HOME.format(name)
    words = f"--unattended --url {url} --token {token} --name {name} --labels {name}"
    configure = f"./bin/Runner.Listener configure {words}"
    fetch = f'python3 -c \'import urllib.request as r; r.urlretrieve("{archive.url}", "r.tar.gz")\''
    script = f"mkdir {folder} && cd {folder} && {fetch} && tar xzf r.tar.gz && {configure}"
    site.host.exec("su", "ci", "-c", script)
    site.shell(f"cd {folder} && ./svc.sh install ci && ./svc.sh start")
    site.github.wait_runner(site.world.scope, name)


def _record(site: Site, name: str) -> dict[str, Any]:
    record = site.github.runner(site.world.scope, name)
    assert record is not None
    return record


def _adopt(site: Site, *words: str, rc: int = 0) -> str:
    done = site.host.exec("runnerctl", "adopt", *words, check=False)
    assert done.rc == rc, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_is_there_is_listed(site: Site) -> None:
    """Both installations, who runs them, and that they can be adopted."""
    found = json.loads(_adopt(site, "-o", "json"))["installations"]
    assert [(each["agent_name"], each["user"], each["active"], each["problem"]) for each in found] == [
        ("box-a", "ci", True, None),
        ("box-b", "ci", True, None),
    ]
    assert "can be adopted" in _adopt(site)
    assert "no such installation" in _adopt(site, "box-c", rc=78)
    assert "name one with --slot" in _adopt(site, "box-a", rc=78)


def test_provision_carries_a_claim_out_behind_the_running_job(site: Site) -> None:
    """Claimed while no release is installed; the job ends well; the record, its id and its name stay."""
    before = _record(site, "box-a")
    assert "provision.yml carries it out" in _adopt(site, "box-a", "--slot", "a")
    site.variables["github_runner_slots"] = [{"name": "a", "runner_name": "box-a"}]
    job = site.job("touch ~/began; while [ ! -e ~/go ]; do sleep 0.2; done", labels=["box-a"])
    site.shell("for i in $(seq 100); do [ -e /home/ci/began ] && exit; sleep 0.2; done; exit 1")
    outcome = site.provision()
    assert "is adopted when it has ended" in outcome.output
    assert site.host.exec("systemctl", "is-active", STOCK.format("box-a")).stdout.strip() == "active"
    assert _record(site, "box-a")["id"] == before["id"]
    site.shell("touch /home/ci/go")
    assert site.result(job)[0] in ("success", "succeeded")
    site.provision()
    _is_adopted(site, "a", "box-a", before["id"])


def _is_adopted(site: Site, slot: str, name: str, agent_id: int) -> None:
    record = _record(site, name)
    assert (record["id"], record["status"]) == (agent_id, "online")
    assert {label["name"] for label in record["labels"] if label["type"] == "custom"} == {"big"}
    assert site.github.runner(site.world.scope, f"{site.host.name}-{slot}") is None, "no second record"
    assert not site.host.exists(f"/etc/systemd/system/{STOCK.format(name)}")
    assert not any(site.host.exists(f"{HOME.format(name)}/{each}") for each in SECRETS)
    modes = site.shell(f"stat -c '%U:%G %a' /var/lib/gha-runner/{slot}/.credentials").strip()
    assert modes == f"root:gha-{slot} 640"
    assert site.shell(f"stat -c %a /var/lib/runnerctl/adopted/{slot}").strip() == "700"


def test_it_is_a_slot_like_any_other(site: Site) -> None:
    """A job runs as the slot's user, a second provision changes nothing, and health has no complaint."""
    job = site.job("id -un", labels=["self-hosted", "big"])
    result, log = site.result(job)
    assert result in ("success", "succeeded")
    assert "gha-a" in log
    outcome = site.provision()
    assert outcome.recap[site.host.name].changed == 0, outcome.output
    health = json.loads(site.host.exec("runnerctl", "health", "-o", "json", check=False).stdout)
    slots = {each["id"]: each["status"] for each in health["findings"] if each["id"].startswith("slot.")}
    assert set(slots.values()) == {"OK"}, slots


def test_the_command_alone_does_it_where_a_release_is_installed(site: Site) -> None:
    """Listed as claimed only until then; asked again there is nothing to adopt."""
    before = _record(site, "box-b")
    site.variables["github_runner_slots"] = [{"name": "a", "runner_name": "box-a"}, {"name": "b"}]
    site.provision("--tags", "runnerctl")
    said = _adopt(site, "box-b", "--wait", "--timeout", "30")
    assert "adoption of box-b as slot b" in said
    assert "say `runner_name: box-b` for slot b in the inventory" in said
    site.github.wait_runner(site.world.scope, "box-b")
    site.provision()
    _is_adopted(site, "b", "box-b", before["id"])
    assert "no runner that svc.sh installed" in _adopt(site)


def test_an_update_that_a_slot_cannot_take_ends_in_a_new_registration(site: Site) -> None:
    """The listener ends with 3 when GitHub sends an update; the next provision registers without updates."""
    old = _record(site, "box-b")
    site.shell("systemctl stop gha-runner@b && mkdir -p /run/systemd/system/gha-runner@b.service.d")
    override = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'exit 3'\nRestart=no\n"
    site.shell(f"printf {shlex.quote(override)} > /run/systemd/system/gha-runner@b.service.d/99-test.conf")
    site.shell("systemctl daemon-reload; systemctl start gha-runner@b; sleep 0.5")
    site.shell("rm -r /run/systemd/system/gha-runner@b.service.d; systemctl daemon-reload")
    site.provision()
    assert site.github.runner(site.world.scope, "box-b") is None
    new = _record(site, f"{site.host.name}-b")
    assert new["id"] != old["id"]
    assert new["status"] == "online"


def test_what_a_user_put_in_place_is_not_carried_away(site: Site) -> None:
    """A link to somebody else's file, or another's registration, is refused by name."""
    _install_stock(site, "box-d")
    folder = HOME.format("box-d")
    site.shell(f"cd {folder} && mv .credentials kept && ln -s /etc/shadow .credentials")
    assert "cannot be read" in _adopt(site, "box-d", "--slot", "b", rc=78)
    site.shell(f"cd {folder} && rm .credentials && ln /var/lib/gha-runner/a/.credentials .credentials || :")
    assert "box-d" in _adopt(site, "box-d", "--slot", "b", rc=78)
