"""What goes wrong around a converge: refusals before the first change, kills, outages, and the way back."""

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

SLOTS: list[dict[str, Any]] = [{"name": "a"}]
TAGS = ("--tags", "github_runner")


@pytest.fixture(scope="module")
def bare(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """One host whose packages are there, and no slot yet."""
    controller = Controller(Path(tmp_path_factory.mktemp("faults")), lab.keys)
    site = Site([module_hosts()], module_world, controller, {"github_runner_slots": []})
    site.slots()
    site.variables["github_runner_slots"] = SLOTS
    yield site
    assert module_world.control.violations() == []


@pytest.fixture
def site(bare: Site) -> Iterator[Site]:
    """That host before the first registration; whatever the test leaves is taken away."""
    variables, per_host = dict(bare.variables), dict(bare.per_host)
    bare.github.clear_requests()
    yield bare
    bare.variables, bare.per_host = variables, per_host
    bare.github.clear_faults()
    bare.world.mirror.faults.clear()
    for runner in bare.github.runners():
        bare.github.delete_runner(runner["id"])
    bare.host.start()  # a test that pulled the plug may have failed before it put it back
    bare.shell("systemctl stop 'gha-runner@*' 'gha-configure-*' 2>/dev/null; true")
    outcome = bare.play("playbooks/deprovision.yml")
    assert outcome.rc == 0, outcome.output


def _refused(site: Site, *options: str, **settings: Any) -> str:
    """The play fails before anything changes on the host or on GitHub; returns the message."""
    outcome: Outcome = site.play("provision.yml", *TAGS, *options, **settings)
    assert outcome.rc != 0
    assert outcome.changed() == []
    assert site.github.runners() == []
    assert not site.host.exists("/var/lib/gha-runner/a")
    message = outcome.failures()[-1].msg
    assert "Traceback" not in outcome.output
    return message


# -- refused before the first change -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"github_runner_lables": ["x"]},
            "github_runner_lables: is no variable of this collection; did you mean",
        ),
        (
            {"github_runner_slots": [{"name": "a"}, {"name": "a"}]},
            "github_runner_slots[1]: name 'a' is given twice",
        ),
        ({"github_runner_labels": ["x" * 257]}, "has 257 characters, more than 256"),
        ({"github_runner_url": "https://github.com/a/b/c"}, "is no repository, organisation or enterprise"),
        ({"conda_manage": "perhaps"}, "conda_manage: is 'perhaps'"),
    ],
)
def test_a_wrong_variable_is_refused(site: Site, variables: dict[str, Any], expected: str) -> None:
    """One line that names the host, the variable, the value and the remedy."""
    site.variables.update(variables)
    message = _refused(site)
    assert expected in message
    assert message.startswith(f"{site.host.name}: ")


def test_a_missing_expired_or_weak_credential_is_refused(site: Site) -> None:
    """Each says what it is; none is repeated."""
    assert "there is no GitHub credential; set GH_TOKEN" in _refused(site, environment={"GH_TOKEN": ""})
    message = _refused(site, environment={"GH_TOKEN": "ghp_" + "x" * 36})
    assert "expired or revoked" in message
    assert "xxxx" not in message
    weak = site.github.add_token("github_pat_" + "w" * 40, permissions={"administration": "read"})
    assert "administration" in _refused(site, environment={"GH_TOKEN": weak}).lower()


def test_an_app_key_that_is_no_key_is_refused(site: Site, tmp_path: Path) -> None:
    """The file is named, its content is not shown."""
    key = tmp_path / "key.pem"
    key.write_text("this is no PEM")
    key.chmod(0o600)
    environment = {"GH_TOKEN": "", "RUNNERCTL_APP_ID": "1", "RUNNERCTL_APP_KEY_FILE": str(key)}
    message = _refused(site, environment=environment)
    assert str(key) in message
    assert "this is no" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"schema": "runnerctl.ho', "is truncated or no JSON; remove it"),
        ('{"schema": "runnerctl.host/99"}', "newer schema runnerctl.host/99"),
    ],
)
def test_a_damaged_or_newer_host_json_is_refused(site: Site, text: str, expected: str) -> None:
    """Nothing is written over what a newer release wrote."""
    site.shell("mkdir -p /etc/runnerctl")
    site.write("/etc/runnerctl/host.json", text)
    assert expected in _refused(site)
    assert site.host.read("/etc/runnerctl/host.json") == text


def test_an_unsupported_distribution_is_refused(site: Site) -> None:
    """Named, with those that are supported."""
    before = site.host.read("/usr/lib/os-release")
    site.write("/usr/lib/os-release", before.replace("ID=debian", "ID=plan9"))
    try:
        assert "plan9 12 is not supported; use debian 12/13" in _refused(site)
    finally:
        site.write("/usr/lib/os-release", before)


def test_no_space_left_is_refused(site: Site) -> None:
    """Before the download, with how much is missing."""
    site.shell("mkdir -p /opt && mount -t tmpfs -o size=64m tmpfs /opt")
    try:
        assert "MiB are needed; free some space" in _refused(site)
    finally:
        site.shell("umount /opt")


def test_an_unreachable_host_is_one_clear_line(site: Site) -> None:
    """And nothing happens on GitHub."""
    site.per_host = {site.host.name: {"ansible_host": "172.30.255.254", "ansible_timeout": 3}}
    outcome = site.play("provision.yml", *TAGS)
    assert outcome.rc == 4
    assert outcome.recap[site.host.name].unreachable == 1
    assert site.github.runners() == []


# -- downloads ---------------------------------------------------------------------------------------------


def test_a_tampered_archive_is_refused_and_nothing_is_unpacked(site: Site) -> None:
    """One wrong byte: both sums are told; the next run, with the right bytes, finishes."""
    site.shell("rm -rf /opt/actions-runner")
    site.world.mirror.fault("corrupt")
    outcome = site.play("provision.yml", *TAGS)
    assert outcome.rc != 0
    assert "SHA-256 is" in outcome.failures()[-1].msg
    assert "expected" in outcome.failures()[-1].msg
    assert site.shell("ls -A /opt/actions-runner").strip() == ""
    assert site.github.runners() == []
    site.world.mirror.faults.clear()
    site.slots()
    assert (site.record("a") or {})["status"] == "online"


def test_two_sources_that_disagree_are_refused(site: Site) -> None:
    """GitHub's release page and its downloads answer must give one checksum."""
    site.shell("rm -rf /opt/actions-runner")
    made = site.world.publish("2.336.0")
    wrong = {"digest": f"sha256:{'0' * 64}", "body_sha256": "0" * 64}
    site.github.release("2.336.0", sha256=made.sha256, download_url=made.url, **wrong)
    try:
        assert "two sources disagree" in _refused(site)
    finally:
        site.world.publish("2.336.0")


# -- GitHub's bad days -------------------------------------------------------------------------------------


def test_short_outage_is_ridden_out(site: Site) -> None:
    """Two 500s and a lost connection: retried, not reported."""
    site.github.fault("server_error", count=2, path="/actions/runners")
    site.slots()
    assert (site.record("a") or {})["status"] == "online"


def test_github_down_in_the_middle_then_the_next_run_finishes(site: Site) -> None:
    """The registration fails with a clear line; nothing is left that stops the next run."""
    site.github.fault("down", channel="runner")
    outcome = site.play("provision.yml", *TAGS)
    assert outcome.rc != 0
    assert "could not be registered" in outcome.failures()[-1].msg
    assert "Traceback" not in outcome.output
    site.github.clear_faults()
    site.slots()
    assert (site.record("a") or {})["status"] == "online"
    assert site.slots().recap[site.host.name].changed == 0


# -- names ------------------------------------------------------------------------------------------------


def test_a_name_taken_by_a_foreign_record_is_an_error(site: Site) -> None:
    """Online or offline, another machine's record is not touched."""
    foreign = site.github.add_runner(site.world.scope, f"{site.host.name}-a", labels=["theirs"])
    outcome = site.play("provision.yml", *TAGS)
    assert outcome.rc != 0
    message = outcome.failures()[-1].msg
    assert "belongs to another runner" in message
    assert "github_runner_replace: offline" in message
    record = site.record("a") or {}
    assert record["id"] == foreign["id"]
    assert site.custom_labels("a") == {"theirs"}


def test_a_reinstalled_host_gets_its_own_name_back_on_request(site: Site) -> None:
    """`github_runner_replace: offline` takes the offline record's place."""
    site.github.add_runner(site.world.scope, f"{site.host.name}-a", labels=["old"])
    site.variables["github_runner_replace"] = "offline"
    site.slots()
    assert (site.record("a") or {})["status"] == "online"
    assert site.custom_labels("a") == set()
    assert len(site.github.runners()) == 1


# -- kills ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    ["Install one verified copy of the runner", "Bring every slot to what inventory says"],
)
def test_killed_at_the_beginning_of_a_task_then_run_again(site: Site, task: str) -> None:
    """SIGKILL to the play and all its workers; the next run reaches the same end state."""
    site.shell("rm -rf /opt/actions-runner")
    run = site.start("provision.yml", *TAGS)
    run.wait_for(task)
    run.kill()
    _finishes(site)


def test_killed_in_the_middle_of_the_registration_then_run_again(site: Site) -> None:
    """The play is killed and the host loses power while GitHub makes the record: it is taken up again."""
    site.github.fault("delay", channel="runner", path="/_runner/agents", delay_seconds=4)
    run = site.start("provision.yml", *TAGS)
    until = time.monotonic() + 60
    while site.github.faults() and time.monotonic() < until:
        time.sleep(0.05)  # it ends when the listener has asked for its record; the answer is yet to come
    run.kill()
    site.host.pull_the_plug()
    site.github.wait_runner(site.world.scope, f"{site.host.name}-a", status="offline")
    site.github.clear_faults()
    site.host.start()
    assert site.state("a")["registering"] is True
    _finishes(site)


def test_the_answer_to_the_registration_is_lost_then_run_again(site: Site) -> None:
    """GitHub made the record, the host never heard of it: the next run takes it over."""
    site.github.fault("lost_answer", channel="runner", path="/_runner/agents")
    outcome = site.play("provision.yml", *TAGS)
    assert outcome.rc != 0
    assert len(site.github.runners()) == 1
    _finishes(site)


def _finishes(site: Site) -> None:
    site.slots()
    assert [runner["name"] for runner in site.github.runners()] == [f"{site.host.name}-a"]
    assert (site.record("a") or {})["status"] == "online"
    assert site.state("a")["registering"] is False
    assert site.shell("find / -xdev -name '*.partial' -not -path '/proc/*'").strip() == ""
    assert site.slots().recap[site.host.name].changed == 0
