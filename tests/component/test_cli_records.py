"""``labels``, ``group`` and ``prune`` against the GitHub stand-in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from runnerctl.cli.prune import Prune
from runnerctl.core.ghosts import Evidence
from runnerctl.core.labels import DRAINED
from runnerctl.github.registry import Registry
from tests.component.cli_support import TOKEN, spawn
from tests.component.records_support import ORG, custom, emptied, run
from tests.fakes.github_api import GithubApi


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    """One stand-in for this file."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(server: GithubApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[GithubApi]:
    """The stand-in with nothing in it."""
    with emptied(server, monkeypatch) as github:
        yield github


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


def test_a_group_for_some_repositories(github: GithubApi) -> None:
    """Named, not numbered; one of somebody else is refused before any write."""
    github.control.add_runner("/repos/acme/model", "x", labels=[])
    ran = run(github, "group", "create", "g", "--for", "Acme/model", "-o", "json")
    assert ran.code == 0, ran.err
    assert run(github, "group", "create", "g", "--for", "acme/model").out == "group g: unchanged\n"
    ran = run(github, "group", "create", "g")
    assert ran.code == 78 and "other settings: for acme/model" in ran.err
    github.control.clear_requests()
    for member in ("other/model", "acme"):
        assert run(github, "group", "create", "h", "--for", member).code == 64
    assert run(github, "group", "create", "h", "--visibility", "all", "--for", "acme/model").code == 64
    assert github.control.counts()[1] == 0


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
    again = run(github, "prune", "--host", "gpu-7", "--runner", "gpu-7-rack-2", "--apply")
    assert again.code == 0 and "GitHub has no record called gpu-7-rack-2" in again.err


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
    ran = run(github, "prune", "--host", "gpu-*", "--apply")
    assert (ran.code, "patterns are not for what is deleted" in ran.err) == (64, True)
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
