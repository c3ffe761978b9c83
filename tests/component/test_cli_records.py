"""``labels``, ``group``, ``prune`` and ``keepalive`` against the GitHub stand-in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.cli.inventory import Resolved
from runnerctl.cli.prune import Prune
from runnerctl.core.ghosts import Evidence
from runnerctl.core.labels import DRAINED
from runnerctl.core.spec import host_spec
from runnerctl.github.registry import Registry
from runnerctl.reconcile import Fleet
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.ports import Cause, SlotNow
from runnerctl.rollout.touch import Touch
from tests.component.cli_support import TOKEN, Ran, call, spawn
from tests.fakes.github_api import GithubApi

ORG, REPO, ENTERPRISE = "/orgs/acme", "/repos/acme/widgets", "/enterprises/big"


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    """One stand-in for this file."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(server: GithubApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[GithubApi]:
    """The stand-in, empty but for a token. Writes are not spaced here: the client's own tests see to that."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    server.control.reset()
    server.control.add_token(TOKEN)
    yield server
    assert server.control.violations() == []


def run(github: GithubApi, *arguments: str, scope: str = "acme", **env: str) -> Ran:
    """A command in that scope."""
    return call(*arguments, env={"GH_TOKEN": TOKEN, "RUNNERCTL_URL": f"{github.url}/{scope}", **env})


def custom(github: GithubApi, name: str, scope: str = ORG) -> set[str]:
    """A runner's custom labels at GitHub."""
    record = github.control.runner(scope, name)
    assert record is not None, name
    return {label["name"] for label in record["labels"] if label["type"] == "custom"}


def test_labels_are_added_removed_and_set(github: GithubApi) -> None:
    """What is asked for is written once, nothing else changes, and asked again nothing is written."""
    for name in ("a", "b"):
        github.control.add_runner(ORG, name, labels=["gpu", "old"], status="online")
    ran = run(github, "labels", "add", "Big", "--runner", "a", "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["schema"] == "runnerctl.labels/1"
    assert ran.json["runners"][0]["after"] == ["big", "gpu", "old"]
    assert {label.lower() for label in custom(github, "a")} == {"gpu", "old", "big"}
    assert run(github, "labels", "remove", "OLD", "--label", "big").code == 0
    assert run(github, "labels", "set", "x", "y", "--runner", "a").code == 0
    assert (custom(github, "a"), custom(github, "b")) == ({"x", "y"}, {"gpu", "old"})
    github.control.clear_requests()
    ran = run(github, "labels", "set", "Y", "x", "--runner", "a")
    assert (ran.code, ran.out, ran.err) == (0, "", "1 unchanged\n")
    assert github.control.counts() == (1, 0)
    assert run(github, "labels", "set", "--none", "--runner", "a").code == 0
    assert custom(github, "a") == set()


def test_a_dry_run_of_labels_writes_nothing(github: GithubApi) -> None:
    """The difference is shown, for every runner that would change."""
    github.control.add_runners(ORG, 3, labels=["gpu"])
    github.control.clear_requests()
    ran = run(github, "labels", "set", "new", "--all", "--dry-run")
    assert ran.code == 0, ran.err
    assert ran.out.count("+new -gpu") == 3 and ran.out.count("would change") == 3
    assert github.control.counts() == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "x"], "no runner is chosen"),
        (["add", "x", "--all", "--runner", "a"], "exclude each other"),
        (["add", "x", "--runner", "nobody"], "there is no runner nobody"),
        (["remove", "Linux", "--all"], "linux: GitHub gives and keeps"),
        (["set", "self-hosted", "--all"], "self-hosted: GitHub gives and keeps"),
        (["add", DRAINED, "--all"], "`runnerctl drain`"),
        (["add", "a,b", "--all"], "comma"),
        (["set", "--all"], "--none"),
        (["set", "x", "--none", "--all"], "--none"),
        (["sync"], "inventory"),
    ],
)
def test_what_labels_refuses(github: GithubApi, arguments: list[str], words: str) -> None:
    """One line, 64, and nothing is written."""
    github.control.add_runner(ORG, "a", labels=["gpu"])
    ran = run(github, "labels", *arguments)
    assert ran.code == 64 and words in ran.err and ran.err.count("\n") == 1
    assert github.control.counts()[1] == 0


def test_labels_leave_drained_runners_alone(github: GithubApi) -> None:
    """A label would bring a runner that is on hold back into routing."""
    github.control.add_runner(ORG, "a", labels=[DRAINED])
    ran = run(github, "labels", "add", "gpu", "--runner", "a")
    assert ran.code == 75 and "resume it first" in ran.out
    assert custom(github, "a") == {DRAINED} and github.control.counts()[1] == 0


@pytest.mark.parametrize(
    ("theirs", "code", "words"),
    [(["x", "theirs"], 0, "somebody else meanwhile: +theirs"), (["theirs"], 75, "try again")],
)
def test_labels_that_somebody_else_changes(
    github: GithubApi, monkeypatch: pytest.MonkeyPatch, theirs: list[str], code: int, words: str
) -> None:
    """What is there afterwards is read back: a change beside ours is said, one that undid it fails."""
    runner = github.control.add_runner(ORG, "a", labels=["gpu"])
    add = Registry.add_labels

    def and_then(self: Registry, runner_id: int, labels: Iterable[str]) -> frozenset[str]:
        """Somebody else comes right behind us."""
        added = add(self, runner_id, labels)
        github.control.change_runner(runner["id"], labels=["gpu", *theirs])
        return added

    monkeypatch.setattr(Registry, "add_labels", and_then)
    ran = run(github, "labels", "add", "x", "--runner", "a", COLUMNS="200")
    assert ran.code == code and words in ran.out


def test_too_many_labels(github: GithubApi) -> None:
    """GitHub's limit is told before anything is written."""
    github.control.add_runner(ORG, "a", labels=[f"l{n}" for n in range(99)])
    ran = run(github, "labels", "add", "x", "y", "--all")
    assert ran.code == 78 and "101 labels" in ran.err and github.control.counts()[1] == 0


def test_groups_are_listed_made_and_filled(github: GithubApi) -> None:
    """Made once; moved once; the second time nothing is written."""
    github.control.add_group(ORG, "open", allows_public_repositories=True)
    github.control.add_runner(ORG, "a", labels=[])
    github.control.add_runner(ORG, "cut", labels=[DRAINED])
    assert run(github, "group", "create", "gpu", "--dry-run").out == "group gpu: would create\n"
    assert github.control.counts()[1] == 0
    assert run(github, "group", "create", "gpu", "-o", "json").json["outcome"] == "created"
    assert run(github, "group", "create", "GPU").out == "group GPU: unchanged\n"
    ran = run(github, "group", "create", "gpu", "--public", "--visibility", "all")
    assert ran.code == 78 and "other settings: visibility selected; public" in ran.err
    github.control.clear_requests()
    ran = run(github, "group", "move", "gpu", "--all")
    assert ran.code == 75 and [line.split()[:2] for line in ran.out.splitlines()[1:]] == [
        ["a", "moved"],
        ["cut", "drained"],
    ]
    assert github.control.counts()[1] == 1
    assert run(github, "group", "move", "gpu", "-r", "a").err == "group gpu: 1 unchanged\n"
    ran = run(github, "group", "list", "--runners", "-o", "json")
    assert ran.json["schema"] == "runnerctl.groups/1"
    shown = {
        group["name"]: (group["allows_public_repositories"], group["runners"]) for group in ran.json["groups"]
    }
    assert shown == {"Default": (False, 1), "gpu": (False, 1), "open": (True, 0)}
    ran = run(github, "group", "list")
    assert ran.out.splitlines()[0].split() == ["GROUP", "ID", "VISIBILITY", "DEFAULT", "PUBLIC", "WORKFLOWS"]


def test_groups_of_other_scopes(github: GithubApi) -> None:
    """A repository has none and says so; an enterprise has its own."""
    ran = run(github, "group", "list", scope="acme/widgets")
    assert ran.code == 78 and "a repository has no runner groups" in ran.err and ran.err.count("\n") == 1
    assert run(github, "group", "create", "gpu", scope="enterprises/big").out == "group gpu: created\n"
    assert "gpu" in run(github, "group", "list", scope="enterprises/big").out
    ran = run(github, "group", "create", "x", "--visibility", "private", scope="enterprises/big")
    assert ran.code == 64
    ran = run(github, "group", "move", "nowhere", "--all")
    assert ran.code == 78 and "there is no runner group 'nowhere'" in ran.err


def test_prune_of_a_host_that_is_gone(github: GithubApi) -> None:
    """Only its offline records go; without --apply none."""
    keep: dict[str, dict[str, object]] = {
        "gpu-7-on": {"status": "online"},
        "gpu-7-busy": {"busy": True},
        "gpu-70-main": {},
        "gpu-7": {},
        "gpu-7-rack-2": {},
    }
    for name, fields in keep.items():
        github.control.add_runner(ORG, name, labels=[], **{"status": "offline", **fields})
    github.control.add_runner(ORG, "gpu-7-main", labels=[], status="offline")
    github.control.clear_requests()
    ran = run(github, "prune", "--host", "gpu-7")
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.out.splitlines() if " delete " in line] == ["gpu-7-main"]
    assert "--apply deletes them" in ran.err and github.control.counts() == (1, 0)
    ran = run(github, "prune", "--host", "gpu-7", "--apply", "-o", "json")
    assert ran.json["schema"] == "runnerctl.prune/1" and ran.json["dry_run"] is False
    assert [each["name"] for each in ran.json["records"] if each["outcome"] == "deleted"] == ["gpu-7-main"]
    assert {each["name"] for each in github.control.runners(ORG)} == set(keep)
    ran = run(github, "prune", "--host", "gpu-7", "--runner", "gpu-7-rack-2", "--apply")
    assert "deleted" in ran.out and github.control.runner(ORG, "gpu-7-rack-2") is None


def test_prune_judges_again_before_it_deletes(github: GithubApi) -> None:
    """A record that came to life after it was listed is kept, and one that went is no failure."""
    for name in ("awake", "gone", "dead"):
        github.control.add_runner(ORG, f"old-{name}", labels=[], status="offline")
    first = run(github, "prune", "--host", "old")
    assert first.err.startswith("3 records, 3 to delete")

    def meanwhile(self: Prune, evidence: Evidence, *, apply: bool) -> None:
        """Between the verdicts and the deletions."""
        ids = {case.record.name: case.record.id for case in self.cases}
        github.control.change_runner(ids["old-awake"], status="online")
        github.control.delete_runner(ids["old-gone"])
        assert delete_all(self, evidence, apply=apply) is None

    delete_all = Prune._delete_all
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prune, "_delete_all", meanwhile)
        ran = run(github, "prune", "--host", "old", "--apply", "-o", "json")
    outcomes = {each["name"]: (each["outcome"], each["rule"]) for each in ran.json["records"]}
    assert outcomes["old-awake"] == ("kept", "online")
    assert outcomes["old-gone"][0] == "already_gone" and outcomes["old-dead"][0] == "deleted"


def test_prune_wants_a_host(github: GithubApi) -> None:
    """Nothing is pruned by leaving everything out."""
    ran = run(github, "prune", "--apply")
    assert ran.code == 64 and "no host is given" in ran.err
    ran = run(github, "prune", "--host", "x", "--limit", "y")
    assert ran.code == 64 and github.control.counts() == (0, 0)


INVENTORY = """\
runner_hosts:
  hosts:
    here: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
    far: {ansible_host: 127.0.0.1, ansible_port: 9, ansible_ssh_common_args: "-o ConnectTimeout=2"}
  vars:
    github_runner_url: URL/acme
    github_runner_labels: [gpu-rig]
    github_runner_slots: [{name: zz-records}, {name: second}]
other:
  hosts:
    here-web: {}
"""


@pytest.mark.exhaustive
def test_an_inventory_end_to_end(github: GithubApi, tmp_path: Path) -> None:
    """Through Ansible: a host that answers, one that does not, one that is no runner host."""
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(INVENTORY.replace("URL", github.url))
    names = ["here-old", "here-second", "far-old", "here-web-main", "elsewhere-main"]
    for name in names:
        github.control.add_runner(ORG, name, labels=["stale"], status="offline")
    environment = {"GH_TOKEN": TOKEN, "RUNNERCTL_API_URL": f"{github.url}/api/v3"}
    ran = spawn("labels", "sync", "-i", str(inventory), "-o", "json", env=environment)
    assert ran.code == 69, ran.err
    outcomes = {each["name"]: each["outcome"] for each in ran.json["runners"]}
    assert outcomes["here-second"] == "changed" and outcomes["far-second"] == "absent"
    assert custom(github, "here-second") == {"gpu-rig"} and custom(github, "here-old") == {"stale"}
    ran = spawn("prune", "-i", str(inventory), "--apply", "-o", "json", env=environment)
    assert ran.code == 0, ran.err
    rules = {each["name"]: each["rule"] for each in ran.json["records"]}
    root = os.geteuid() == 0  # a host that was not read as root is in doubt
    assert rules["here-old"] == ("retired-slot" if root else "unproven")
    assert rules["here-second"] == ("left-behind" if root else "unproven")
    assert rules["far-old"] == rules["here-web-main"] == "unproven"
    assert rules["elsewhere-main"] == "foreign"
    left = {each["name"] for each in github.control.runners(ORG)}
    assert left == set(names) - ({"here-old", "here-second"} if root else set())


class ParkedHost:
    """A host whose slot ``main`` is on hold; starting its listener shows at GitHub."""

    def __init__(self, github: GithubApi, runner_id: int, now: SlotNow) -> None:
        self.github = github
        self.runner_id = runner_id
        self.now = now
        self.starts = 0
        self.fails_first = False
        self.job_comes = False

    def observe(self) -> tuple[SlotNow, ...]:
        """The one slot."""
        return (self.now,)

    def start(self, slot: str) -> bool:
        """The runner is online, and by then it must be out of routing."""
        self.starts += 1
        assert slot == "main" and custom(self.github, "gpu-1-main") == {DRAINED}
        if self.starts > self.fails_first:
            self.github.control.change_runner(self.runner_id, status="online")
        return True

    def stop(self, slot: str) -> str:
        """A job is left alone."""
        assert slot == "main"
        if not self.job_comes:
            self.github.control.change_runner(self.runner_id, status="offline")
        return "busy" if self.job_comes else "stopped"


def parked(github: GithubApi, *, labels: list[str], **fields: Any) -> tuple[ParkedHost, Touch]:
    """That host, its record, and what touches it; its clock moves by sleeping only."""
    variables = {"github_runner_url": f"{github.url}/acme", "github_runner_drain_group": "drained"}
    spec, problems = host_spec("gpu-1", variables)
    assert spec is not None, problems
    github.control.add_group(ORG, "drained")
    record = github.control.add_runner(ORG, "gpu-1-main", labels=labels, status="offline")
    now = SlotNow("main", active=False, busy=False, agent_id=record["id"], url=f"{github.url}/acme", **fields)
    host, slept = ParkedHost(github, record["id"], now), [0.0]
    lanes = Lanes(Fleet(spec, {"GH_TOKEN": TOKEN}))
    touch = Touch(host, lanes, seconds=20, sleep=slept.append, clock=lambda: sum(slept))
    return host, touch


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_parked_runner_is_touched(github: GithubApi, fails_first: bool) -> None:
    """Out of routing, online, stopped, and as it was; one that was stopped in between gets a second try."""
    host, touch = parked(github, labels=["gpu"], causes=(Cause("operator", "winter"),))
    host.fails_first = fails_first
    before = github.control.runner(ORG, "gpu-1-main")
    (touched,) = touch.run(["GPU-1-main", "other"])
    assert (touched.outcome, touched.slot, host.starts) == ("touched", "main", 1 + fails_first)
    assert github.control.runner(ORG, "gpu-1-main") == before
    assert github.control.counts()[1] == 4  # labels and group, there and back
    assert touch.run(["gpu-2-main"]) == ()


def test_a_parked_runner_that_is_drained_stays_so(github: GithubApi) -> None:
    """What an operator cut is not brought back into routing by this."""
    _, touch = parked(github, labels=[DRAINED])
    (touched,) = touch.run()
    assert touched.outcome == "touched" and custom(github, "gpu-1-main") == {DRAINED}


def test_a_job_that_comes_to_a_parked_runner(github: GithubApi) -> None:
    """It is left alone, and no second one can come."""
    host, touch = parked(github, labels=["gpu"])
    host.job_comes = True
    (touched,) = touch.run()
    assert touched.outcome == "job_taken" and custom(github, "gpu-1-main") == {DRAINED}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"active": True}, "runs"),
        ({"agent_id": None}, "not registered"),
        ({"causes": (Cause("upgrade", "2.337.0"),)}, "held by upgrade"),
    ],
)
def test_parked_slots_that_are_left_alone(github: GithubApi, fields: dict[str, Any], words: str) -> None:
    """Nothing is started or written, and the reason is told."""
    host, touch = parked(github, labels=["gpu"])
    host.now = msgspec.structs.replace(host.now, **fields)
    (touched,) = touch.run()
    assert touched.outcome == "skipped" and words in touched.reason
    assert host.starts == 0 and github.control.counts()[1] == 0


def test_one_that_does_not_come_online(github: GithubApi) -> None:
    """Its labels come back all the same."""
    host, touch = parked(github, labels=["gpu"])
    host.fails_first = True
    host.starts = -5
    (touched,) = touch.run()
    assert touched.outcome == "not_online" and custom(github, "gpu-1-main") == {"gpu"}


@pytest.fixture
def inventory(github: GithubApi, monkeypatch: pytest.MonkeyPatch) -> str:
    """An inventory of one host as Ansible would resolve it; the end-to-end tests let Ansible do it."""
    slots = [{"name": "a"}, {"name": "b"}]
    variables = {"github_runner_url": f"{github.url}/acme", "github_runner_slots": slots}
    spec, problems = host_spec("gpu-1", variables)
    assert spec is not None, problems
    found = [Resolved("gpu-1", msgspec.to_builtins(spec), ())]
    monkeypatch.setattr("runnerctl.cli.inventory.resolve", lambda *_args, **_options: found)
    return "hosts.yml"


def test_keepalive_reports_and_remembers(github: GithubApi, inventory: str, tmp_path: Path) -> None:
    """Offline since it was first seen so; gone is told; a bound makes it an exit code."""
    github.control.add_runner(ORG, "gpu-1-a", labels=[], status="offline")
    place = {"XDG_STATE_HOME": str(tmp_path)}
    ran = run(github, "keepalive", "-i", inventory, **place)
    assert (ran.code, ran.err) == (0, "1 offline, 1 absent\n")
    assert "at most 14.0" in ran.out and "2026-12-06" in ran.out and "GitHub has no record" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    state = tmp_path / "runnerctl/keepalive.json"
    assert state.stat().st_mode & 0o777 == 0o600
    state.write_text(state.read_text().replace("1795348800.0", str(1795348800.0 - 12 * 86400)))
    ran = run(github, "keepalive", "-i", inventory, "-o", "json", "--fail-under-days", "3", **place)
    assert ran.code == 75 and ran.json["schema"] == "runnerctl.keepalive/1"
    first, second = ran.json["runners"]
    assert (first["left_most_days"], first["left_least_days"], second["status"]) == (2.0, None, "absent")
    github.control.add_runner(ORG, "gpu-1-b", labels=[], status="online")
    assert run(github, "keepalive", "-i", inventory, "--fail-under-days", "1", **place).code == 0
    state.write_text("{")
    ran = run(github, "keepalive", "-i", inventory, **place)
    assert ran.code == 65 and "is damaged" in ran.err and ran.err.count("\n") == 1


def test_what_keepalive_refuses(github: GithubApi) -> None:
    """One line each."""
    for arguments in ([], ["-i", "x,", "--fail-under-days", "soon"]):
        ran = run(github, "keepalive", *arguments)
        assert ran.code == 64 and ran.err.count("\n") == 1
    assert github.control.counts() == (0, 0)
