"""A host leaves service: what was made goes, what was there before stays, whatever happens in between.

The tests of this file are one story about one host, in their order: it is provisioned once to the full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.controller import Controller, Outcome
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

PLAYBOOK = "playbooks/deprovision.yml"
DRAIN, REMOVE = "Drain, unregister and remove every slot", "Remove what the receipt names"
SLOTS: list[dict[str, Any]] = [{"name": "a"}, {"name": "b", "labels": ["big"]}]
# What only the play installs, what was there, and what comes later and needs one of ours.
OURS, THEIRS, LATER, NEEDED = "zip", "file", "numactl", "libnuma1"
DEAD = ("-e", "deprovision_host_is_dead=true")  # as a person types it: a text, not a truth value
# Logs, caches and databases of the system's own tools, and the directory that Ansible keeps for itself.
NOT_COMPARED = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/cache"),
    *("/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd", "/root/.ansible"),
)
# The host loses power when dpkg has removed the packages and nobody was told yet.
STALL = f"post-invoke=test -e /usr/bin/{OURS} || sleep 60\n"
STALL_FILE = "/etc/dpkg/dpkg.cfg.d/stall"

Everything = dict[str, set[str]]


def everything(host: Host) -> Everything:
    """Files with mode and owner, packages, users, groups and units of a host: all that a play could leave."""
    pruned = " -o ".join(f"-path {path}" for path in NOT_COMPARED)
    commands = {
        "files": f"find / -xdev \\( {pruned} \\) -prune -o -printf '%p %y %m %U:%G\\n'",
        "packages": "dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\\n'",
        "users": "cat /etc/passwd",
        "groups": "cat /etc/group",
        "units": "systemctl list-unit-files --no-legend --plain --full",
        "loaded": "systemctl list-units --all --no-legend --plain 'gha-*' | cut -d' ' -f1",
    }
    return {name: set(host.exec("sh", "-c", text).stdout.splitlines()) for name, text in commands.items()}


def differences(host: Host, before: Everything) -> list[str]:
    """What is on the host and was not before, and the other way round."""
    after = everything(host)
    found = [f"+ {name}: {line}" for name in before for line in after[name] - before[name]]
    found += [f"- {name}: {line}" for name in before for line in before[name] - after[name]]
    return sorted(found)


@pytest.fixture(scope="module")
def fresh(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with things of its own, among them the user of slot b, and two slots in inventory."""
    host = module_hosts()
    site = Site(
        [host],
        module_world,
        Controller(Path(tmp_path_factory.mktemp("deprovision")), lab.keys),
        {"github_runner_slots": SLOTS, "github_runner_packages": [OURS, THEIRS], "conda_store": True},
    )
    host.exec("sh", "-c", f"apt-get -qq update && apt-get -qq install {THEIRS} >/dev/null", seconds=180)
    site.shell("useradd --system gha-b; mkdir -p /opt/theirs /etc/conda; echo mine > /opt/theirs/file")
    yield site
    assert module_world.control.violations() == []


@pytest.fixture(scope="module")
def before(fresh: Site) -> Everything:
    """What the host was before the first play."""
    return everything(fresh.host)


@pytest.fixture(scope="module")
def provisioned(fresh: Site, before: Everything) -> Site:
    """That host with conda, the command line, packages and two online runners."""
    assert before["files"]
    fresh.provision()
    return fresh


@pytest.fixture
def site(provisioned: Site) -> Iterator[Site]:
    """The provisioned host; a limit that the test sets is taken back."""
    provisioned.github.clear_requests()
    yield provisioned
    provisioned.variables.pop("github_runner_drain_timeout_seconds", None)


def deprovision(site: Site, *options: str) -> Outcome:
    """The playbook, which must succeed."""
    outcome = site.play(PLAYBOOK, *options)
    assert outcome.rc == 0, outcome.output
    return outcome


def running_job(site: Site, script: str) -> int:
    """A job on slot b, begun."""
    job = site.job(script, labels=["big"])
    site.github.wait_job(job, status="in_progress")
    return job


def test_check_mode_predicts_and_changes_nothing(site: Site) -> None:
    """It names slots, files and packages; the host and GitHub stay as they are."""
    info = "/var/lib/gha-runner/[ab]/.setup_info"  # the guard writes them when it knows the slots
    site.shell(f"for _ in $(seq 100); do [ $(ls {info} | wc -l) = 2 ] && exit; sleep 0.1; done; exit 1")
    now = everything(site.host)
    predicted = deprovision(site, "--check", "--diff")
    assert differences(site.host, now) == []
    assert site.github.counts()[1] == 0
    assert predicted.result(DRAIN).data["actions"] == ["removal of slot a", "removal of slot b"]
    removed = predicted.result(REMOVE).data["removed"]
    assert {"/opt/miniforge3", "/opt/actions-runner", "/opt/runnerctl", f"package {OURS}"} <= set(removed)
    assert {"user gha-a", "/etc/runnerctl", "/var/lib/runnerctl"} <= set(removed)
    assert f"-package {OURS}" in predicted.output
    assert {"user gha-b", f"package {THEIRS}"}.isdisjoint(removed)


def test_a_drain_that_takes_too_long_is_a_clear_error_and_changes_nothing(site: Site) -> None:
    """The job goes on, its slot stays registered; the error names slot, time and variable."""
    others = SLOTS[:1]
    site.variables["github_runner_slots"] = others  # deprovision takes what is on the host, not what is here
    job = running_job(site, "sleep 15; echo survived")
    idle = site.job("sleep 15", labels=["self-hosted"])
    site.github.wait_job(idle, status="in_progress")
    now = everything(site.host)
    site.variables["github_runner_drain_timeout_seconds"] = 1
    outcome = site.play(PLAYBOOK)
    site.variables["github_runner_slots"] = SLOTS
    assert outcome.rc != 0
    message = outcome.failures()[-1].msg
    assert message.startswith(f"{site.host.name}: slot a, b still runs a job after 1 s and stays; ")
    assert "github_runner_drain_timeout_seconds" in message
    assert "Traceback" not in outcome.output
    new = [line for line in differences(site.host, now) if "/var/lib/gha-runner/" not in line]
    assert new == [], "only the jobs' own files may differ"
    result, log = site.result(job)
    assert (result, "survived" in log) == ("success", True), log
    assert site.result(idle)[0] == "success"
    assert {runner["status"] for runner in site.github.runners()} == {"online"}


def test_killed_while_it_drains_then_killed_while_it_removes_then_run_again(
    site: Site, before: Everything
) -> None:
    """A running job is never cut off; after two kills the third run leaves the host as it was before."""
    site.host.exec("sh", "-c", f"apt-get -qq install {LATER} >/dev/null", seconds=120)
    site.write(STALL_FILE, STALL)
    job = running_job(site, "sleep 12; echo survived")

    drains = site.start(PLAYBOOK)
    _until(lambda: site.record("a") is None)  # idle: it goes at once, while slot b works
    drains.kill()
    assert site.record("b") is not None

    removes = site.start(PLAYBOOK)
    removes.wait_for(REMOVE)
    result, log = site.result(job)
    assert (result, "survived" in log) == ("success", True), log
    assert site.github.runners() == []
    _until(lambda: not site.host.exists(f"/usr/bin/{OURS}"))
    site.host.pull_the_plug()
    removes.kill()
    site.host.start()
    site.shell(f"rm {STALL_FILE}")
    assert site.host.exists("/var/lib/runnerctl/receipt.json"), "the receipt goes last"

    third = deprovision(site)
    assert third.result(REMOVE).data["kept"] == [f"package {NEEDED}"]
    packages = [line.split()[2] for line in differences(site.host, before) if " packages: " in line]
    assert packages == [NEEDED, LATER], "kept: another package needs it by now"
    site.shell(f"dpkg --purge {LATER} {NEEDED} >/dev/null")
    assert differences(site.host, before) == []
    assert site.host.read("/opt/theirs/file") == "mine\n"


def test_asked_again_it_changes_nothing_and_asks_github_nothing(site: Site, before: Everything) -> None:
    """Nothing of ours is left to act on."""
    assert deprovision(site).recap[site.host.name].changed == 0
    assert site.github.counts() == (0, 0)
    assert deprovision(site, "--check").recap[site.host.name].changed == 0
    assert differences(site.host, before) == []


def test_a_dead_hosts_records_are_removed_without_contacting_it(site: Site, before: Everything) -> None:
    """Refused while a runner is online; then only its own records go; and when it comes back, the rest."""
    site.github.add_runner(site.world.scope, "another-host-a")
    site.slots()
    refused = site.play(PLAYBOOK, *DEAD)
    assert refused.rc != 0
    assert "is online: the host is not dead; deprovision it without" in refused.failures()[-1].msg
    assert len(site.github.runners()) == 3

    site.host.stop()
    for slot in ("a", "b"):
        site.github.wait_runner(site.world.scope, f"{site.host.name}-{slot}", status="offline")
    site.github.clear_requests()
    predicted = deprovision(site, "--check", *DEAD)
    assert predicted.recap[site.host.name].changed == 1
    assert site.github.counts()[1] == 0
    done = deprovision(site, *DEAD)
    assert done.recap[site.host.name].unreachable == 0
    assert done.result(DRAIN).data["actions"] == [
        f"record {site.host.name}-{slot} removed" for slot in ("a", "b")
    ]
    assert [runner["name"] for runner in site.github.runners()] == ["another-host-a"]
    assert deprovision(site, *DEAD).recap[site.host.name].changed == 0

    site.host.start()
    deprovision(site)
    assert differences(site.host, before) == []
    assert [runner["name"] for runner in site.github.runners()] == ["another-host-a"]


def test_a_wrong_answer_to_whether_it_is_dead_is_refused(site: Site) -> None:
    """One line that names the variable; nothing is asked of host or GitHub."""
    outcome = site.play(PLAYBOOK, "-e", "deprovision_host_is_dead=perhaps")
    assert outcome.rc != 0
    assert "deprovision_host_is_dead: is 'perhaps'; give true or false" in outcome.failures()[-1].msg
    assert site.github.counts() == (0, 0)


def _until(done: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"it did not come to that within {seconds:.0f} s"
        time.sleep(0.2)
