"""``ci protect`` against the GitHub stand-in: only a ruleset of our own is written, and never a trap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.component.cli_support import TOKEN, Ran, call
from tests.fakes.github_api import GithubApi

REPOSITORY = "/acme/widgets"
GUARD = "github.event.pull_request.head.repo.full_name == github.repository"
WORKFLOW = f"""\
on:
  pull_request:
    branches: [main]
jobs:
  cpu_tests:
    name: CPU
    runs-on: ubuntu-latest
    steps: [{{run: pytest -m "not gpu"}}]
  gpu_tests:
    needs: cpu_tests
    if: {GUARD}
    runs-on: [self-hosted, gpu]
    steps: [{{run: pytest -m gpu}}]
  gate:
    name: Gate
    if: always()
    needs: [cpu_tests, gpu_tests]
    runs-on: ubuntu-latest
    steps: [{{run: 'test "${{{{ needs.gpu_tests.result }}}}" = success'}}]
"""


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    """One stand-in for this file."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(server: GithubApi) -> GithubApi:
    """A repository that nobody protects."""
    server.control.reset()
    server.control.add_token(TOKEN, scopes=["repo"])
    return server


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A checkout with both tiers and a gate."""
    return written(tmp_path, WORKFLOW)


def written(root: Path, workflow: str) -> Path:
    """A checkout with one workflow."""
    path = root / ".github/workflows/ci.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(workflow, encoding="utf-8")
    return root


def protect(github: GithubApi, root: Path, *options: str) -> Ran:
    """Run it as JSON; it breaks no rule of GitHub's description."""
    url = f"{github.url}{REPOSITORY}"
    ran = call("ci", "protect", str(root), "--url", url, "-o", "json", *options, env={"GH_TOKEN": TOKEN})
    assert github.control.violations() == []
    return ran


def api(github: GithubApi, method: str, path: str, body: Any = None) -> Any:
    """Ask the stand-in as somebody else would."""
    headers = {"Authorization": f"Bearer {TOKEN}", "User-Agent": "test"}
    url = f"{github.url}/api/v3/repos{REPOSITORY}{path}"
    return requests.request(method, url, json=body, headers=headers, timeout=10).json()


def ours(github: GithubApi) -> list[dict[str, Any]]:
    """Every ruleset with its rules."""
    return [api(github, "GET", f"/rulesets/{each['id']}") for each in api(github, "GET", "/rulesets")]


def contexts(ruleset: dict[str, Any]) -> list[str]:
    """The checks that a ruleset requires."""
    rules = [rule for rule in ruleset["rules"] if rule["type"] == "required_status_checks"]
    return [check["context"] for rule in rules for check in rule["parameters"]["required_status_checks"]]


def test_the_gate_is_required_by_its_name_and_once(github: GithubApi, files: Path) -> None:
    """--check says that it is missing; then it is written; then nothing is."""
    before = protect(github, files, "--check")
    assert (before.code, before.json["missing"]) == (1, ["Gate"])
    assert ours(github) == []
    done = protect(github, files)
    assert (done.code, done.json["required"], done.json["written"]) == (0, ["Gate"], True)
    (ruleset,) = ours(github)
    assert contexts(ruleset) == ["Gate"]
    assert ruleset["conditions"]["ref_name"]["include"] == ["refs/heads/main"]
    writes = github.control.counts()[1]
    again = protect(github, files)
    assert (again.code, again.json["written"], github.control.counts()[1]) == (0, False, writes)
    assert protect(github, files, "--check").code == 0


def test_what_others_configured_stays(github: GithubApi, files: Path) -> None:
    """Another ruleset is not touched; ours keeps checks, branches and rules that somebody added."""
    other = {"name": "team", "enforcement": "active", "rules": [{"type": "deletion"}]}
    api(github, "POST", "/rulesets", other)
    protect(github, files)
    team, own = ours(github)
    rule = own["rules"][0]
    rule["parameters"]["strict_required_status_checks_policy"] = True
    rule["parameters"]["required_status_checks"] = [{"context": "lint"}]
    body = {
        "rules": [rule, {"type": "non_fast_forward"}],
        "enforcement": "disabled",
        "conditions": {"ref_name": {"include": ["refs/heads/main", "refs/heads/v1"], "exclude": []}},
    }
    api(github, "PUT", f"/rulesets/{own['id']}", body)
    assert protect(github, files).json["written"] is True
    team_after, after = ours(github)
    assert team_after == team
    assert contexts(after) == ["lint", "Gate"]
    assert after["enforcement"] == "active"
    assert after["rules"][0]["parameters"]["strict_required_status_checks_policy"] is True
    assert after["rules"][1] == {"type": "non_fast_forward"}
    assert after["conditions"]["ref_name"]["include"] == ["refs/heads/main", "refs/heads/v1"]


def test_a_check_that_branch_protection_requires_is_left_to_it(github: GithubApi, files: Path) -> None:
    """Nothing is written then."""
    path = f"/repos{REPOSITORY}/branches/main/protection/required_status_checks"
    url = "https://api.github.com/x"
    body = {"url": url, "contexts_url": url, "strict": True, "contexts": ["Gate"], "checks": []}
    github.control.document(path, body)
    ran = protect(github, files)
    assert (ran.code, ran.json["required"], ran.json["written"]) == (0, ["Gate"], False)
    assert ours(github) == []


@pytest.mark.parametrize(
    ("require", "says"),
    [
        (
            ["gpu_tests"],
            "is skipped for a pull request of a fork, and GitHub takes a skipped job for a passed",
        ),
        (["cpu_tests", "gpu_tests"], "require the gate 'gate' instead"),
        (["nobody"], "the jobs are cpu_tests, gate, gpu_tests"),
    ],
)
def test_a_job_that_may_be_skipped_is_refused(
    github: GithubApi, files: Path, require: list[str], says: str
) -> None:
    """With the reason, before anything is asked or written."""
    ran = protect(github, files, *(word for name in require for word in ("--require", name)))
    assert (ran.code, says in ran.err) == (65, True), ran.err
    assert ours(github) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("  pull_request:\n    branches: [main]", "  push:", "no pull request starts it"),
        ("[main]", "[release]", "no pull request to main starts it"),
        ("    branches: [main]", "    paths: [src/**]", "the merge waits for ever"),
        ('test "${{ needs.gpu_tests.result }}" = success', "true", "no job judges the others"),
        ("name: Gate", "name: CPU", "are both called 'CPU'"),
        ("jobs:", "jobs", "see runnerctl ci check"),
    ],
)
def test_a_gate_that_does_not_hold_is_refused(
    github: GithubApi, tmp_path: Path, old: str, new: str, says: str
) -> None:
    """A check that never comes, or always passes, or has a namesake."""
    assert old in WORKFLOW
    root = written(tmp_path, WORKFLOW.replace(old, new))
    ran = protect(github, root, "--require", "gate") if "push" in new else protect(github, root)
    assert (ran.code, says in ran.err) == (65, True), ran.err


def test_names_are_those_that_github_shows(github: GithubApi, tmp_path: Path) -> None:
    """A matrix gives a check for each combination; a name of its own takes the values in."""
    workflow = """\
on: pull_request
jobs:
  tests:
    strategy: {matrix: {os: [a, b], python: ["3.11", "3.12"], exclude: [{os: b, python: "3.11"}]}}
    runs-on: ubuntu-latest
    steps: [{run: pytest}]
  named:
    name: On ${{ matrix.os }}
    strategy: {matrix: {os: [x, y]}}
    runs-on: ubuntu-latest
    steps: [{run: pytest}]
"""
    root = written(tmp_path, workflow)
    ran = protect(github, root, "--require", "tests", "--require", "named")
    names = ["tests (a, 3.11)", "tests (a, 3.12)", "tests (b, 3.12)", "On x", "On y"]
    assert ran.json["required"] == names, ran.err


def test_without_a_credential_it_says_how(files: Path) -> None:
    """The command, its body and the page; the origin of the checkout names the repository."""
    config = files / ".git/config"
    config.parent.mkdir()
    config.write_text('[remote "origin"]\n\turl = git@github.com:acme/widgets.git\n', encoding="utf-8")
    ran = call("ci", "protect", str(files))
    assert ran.code == 0, ran.err
    assert "gh api --method POST repos/acme/widgets/rulesets" in ran.out
    assert "https://github.com/acme/widgets/settings/rules" in ran.out
    body = json.loads(ran.out.split("<<'EOF'\n")[1].split("\nEOF")[0])
    assert contexts(body) == ["Gate"]
    assert call("ci", "protect", str(files), "--check").code == 1
    assert call("ci", "protect", str(files), "-o", "json").json["body"] == body


@pytest.mark.parametrize(
    "address,said",
    [
        ("ssh://git@github.com/acme/widgets.git", "gh api --method POST repos/acme/widgets/rulesets"),
        ("https://me:secret@github.com/acme/widgets", "gh api --method POST repos/acme/widgets/rulesets"),
        ("ssh://git@git.acme.org:2222/acme/widgets", "gh api --hostname git.acme.org --method POST"),
    ],
)
def test_the_origin_may_be_written_in_many_ways(files: Path, address: str, said: str) -> None:
    """A credential in it is shown nowhere; the branch is the one that the clone has."""
    ci = files / ".github/workflows/ci.yml"
    ci.write_text(ci.read_text().replace("main", "trunk"))
    (files / ".git/refs/remotes/origin").mkdir(parents=True)
    (files / ".git/refs/remotes/origin/HEAD").write_text("ref: refs/remotes/origin/trunk\n")
    (files / ".git/config").write_text(f'[remote "origin"]\n\turl = {address}\n', encoding="utf-8")
    ran = call("ci", "protect", str(files))
    assert ran.code == 0 and said in ran.out, ran.out + ran.err
    assert "secret" not in ran.out + ran.err
    assert "refs/heads/trunk" in ran.out


def test_an_organisation_is_no_repository(files: Path) -> None:
    """The URL must name one."""
    ran = call("ci", "protect", str(files), "--url", "https://github.com/acme")
    assert (ran.code, "is no repository" in ran.err) == (64, True)
