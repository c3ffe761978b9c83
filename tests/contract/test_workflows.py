"""The project's own CI keeps the rules that it sets for others."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

tomllib: Any = importlib.import_module("tomllib")  # not in Python 3.10, which mypy checks for

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
OWN = "$/.github/actions/conda-env"  # the repository's own, at the commit that runs
PINNED = re.compile(r"^[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}$")
OUTCOMES = ("success", "failure", "cancelled", "skipped")


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text())
    loaded["on"] = loaded.pop(True)  # YAML 1.1 reads the key `on` as a boolean
    return loaded


@pytest.fixture(scope="module")
def ci() -> dict[str, Any]:
    """The workflow `ci.yml`."""
    return _load(ROOT / ".github" / "workflows" / "ci.yml")


def _steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def _commands(job: dict[str, Any]) -> list[str]:
    return [step["run"].split(" #")[0] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.parent.name + path.name)
def test_every_action_is_pinned_and_says_its_version(path: Path) -> None:
    """A tag can be moved; a commit cannot. The comment is for people and for update tools."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    uses = [line.removeprefix("- ") for line in lines if line.startswith(("uses:", "- uses:"))]
    assert uses
    for line in uses:
        name, _, comment = line.removeprefix("uses: ").partition(" # ")
        assert name == OWN or (PINNED.match(name) and re.match(r"v\d", comment)), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_job_has_a_limit_and_few_rights(path: Path) -> None:
    """Nothing by default, reading at most; a hung job ends."""
    workflow = _load(path)
    called = "workflow_call" in workflow["on"]  # the caller says how long, and in which group
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        limit = workflow["on"]["workflow_call"]["inputs"]["timeout-minutes"]["default"] if called else None
        assert 0 < (limit or job["timeout-minutes"]) <= 60, name
        assert job["permissions"] in ({}, {"contents": "read"}), name
    assert called or workflow["concurrency"]["group"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_checkout_leaves_no_credential(path: Path) -> None:
    """What a step runs must not find the job's token in .git/config."""
    for step in _steps(_load(path)):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_it_runs_for_main_and_for_pull_requests_to_it(ci: dict[str, Any]) -> None:
    """And for nothing else: `pull_request_target` would run a fork's code with our rights."""
    assert ci["on"] == {"push": {"branches": ["main"]}, "pull_request": {"branches": ["main"]}}


def test_the_first_tier_is_hosted(ci: dict[str, Any]) -> None:
    """Hooks, every static check, then every test that needs no GPU."""
    job = ci["jobs"]["cpu_tests"]
    setup, hooks, *others = _commands(job)
    assert job["runs-on"] == "ubuntu-latest"
    assert setup == "scripts/setup"
    assert hooks.startswith("pre-commit run --all-files")
    assert others == ["scripts/lint", "scripts/test --coverage"]
    assert '-m "not gpu"' in (ROOT / "scripts" / "test").read_text()


def test_hooks_come_from_the_environment() -> None:
    """One set of versions: no hook brings its own."""
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    hooks = {hook["id"]: hook["language"] for hook in repos[0]["hooks"]}
    assert {"black", "ruff", "mypy"} <= set(hooks)
    assert set(hooks.values()) == {"system"}


def test_the_second_tier_is_our_own_gpu_and_not_for_forks(ci: dict[str, Any]) -> None:
    """GPU tests follow the first tier, on our labels, never with a fork's code."""
    job = ci["jobs"]["gpu_tests"]
    assert job["needs"] == "cpu_tests"
    assert job["runs-on"] == ["self-hosted", "linux", "x64", "gpu"]
    guard = "github.event.pull_request.head.repo.full_name == github.repository"
    assert job["if"] == f"github.event_name == 'push' || {guard}"
    assert _commands(job) == ["scripts/setup", "scripts/test --gpu --coverage"]
    assert "-m gpu --require-gpu" in (ROOT / "scripts" / "test").read_text()


def test_every_tier_has_the_same_environment(ci: dict[str, Any]) -> None:
    """By the action alone, right after the check-out; no package is named beside it."""
    for name in ("cpu_tests", "gpu_tests", "coverage"):
        job = ci["jobs"][name]
        assert [step["uses"] for step in job["steps"][1:2]] == [OWN], name
        assert not re.search(r"pip install|conda |apt", " ".join(_commands(job))), name


def test_coverage_of_both_tiers_meets_in_one_job(ci: dict[str, Any]) -> None:
    """One threshold for both; what a fork's pull request left out is the GPU tier alone."""
    job = ci["jobs"]["coverage"]
    assert job["needs"] == ["cpu_tests", "gpu_tests"]
    assert _commands(job)[-1] == "scripts/coverage .cache/coverage/tiers/*/data"
    uploads = [step["with"] for step in _steps(ci) if "upload-artifact" in step.get("uses", "")]
    assert [each["name"] for each in uploads] == ["coverage-cpu", "coverage-gpu"]
    assert {each["path"] for each in uploads} == {".cache/coverage/data"}
    assert {each["include-hidden-files"] for each in uploads} == {True}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    assert settings["run"]["parallel"] and settings["run"]["relative_files"]
    assert "multiprocessing" in settings["run"]["concurrency"]
    assert "subprocess" in settings["run"]["patch"]
    assert settings["report"]["fail_under"] >= 75


def _gate(ci: dict[str, Any], **environment: str) -> int:
    script = ci["jobs"]["gate"]["steps"][0]["run"]
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(["bash", "-e", "-c", script], env=env, capture_output=True, timeout=10).returncode


def test_the_gate_always_runs_and_sees_every_job(ci: dict[str, Any]) -> None:
    """A job that is skipped satisfies a required check; so the gate is never skipped."""
    gate = ci["jobs"]["gate"]
    assert gate["if"] == "always()"
    assert gate["needs"] == [name for name in ci["jobs"] if name != "gate"]
    for name in gate["needs"]:
        assert gate["steps"][0]["env"][name.upper()] == f"${{{{ needs.{name}.result }}}}"


@pytest.mark.parametrize("cpu,gpu", list(itertools.product(OUTCOMES, OUTCOMES)))
def test_the_gate_opens_for_success_alone(ci: dict[str, Any], cpu: str, gpu: str) -> None:
    """All must succeed; a fork's pull request, and only that, may skip the GPU."""
    for fork, coverage in (("true", "success"), ("false", "success"), ("true", "skipped")):
        right = cpu == coverage == "success" and (gpu == "success" or (gpu == "skipped" and fork == "true"))
        opened = _gate(ci, CPU_TESTS=cpu, GPU_TESTS=gpu, FORK=fork, COVERAGE=coverage) == 0
        assert opened is right, (cpu, gpu, fork, coverage)


def test_the_reusable_workflow_runs_what_it_is_given_and_no_forks_code() -> None:
    """Commands are a variable, never text of a script; a fork's pull request stays off one's own machines."""
    job = _load(ROOT / ".github" / "workflows" / "conda-env.yml")["jobs"]["run"]
    last = job["steps"][-1]
    assert last["run"] == 'bash -euo pipefail -c "$COMMANDS"'
    assert last["env"] == {"COMMANDS": "${{ inputs.commands }}"}
    assert "github.event.pull_request.head.repo.full_name == github.repository" in job["if"]
    assert [step["uses"] for step in job["steps"][1:2]] == [OWN]
    given = set(job["steps"][1]["with"])
    assert given == set(yaml.safe_load(ACTIONS[0].read_text())["inputs"])


@pytest.mark.parametrize("given", [[], ["--quick"], ["--gpu", "-x"], ["--coverage", "--quick", "-k", "a b"]])
def test_coverage_is_counted_when_asked_for(given: list[str], tmp_path: Path) -> None:
    """What `scripts/test` runs; nothing slower than pytest alone by default."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts")
    for name in ("scripts/setup", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('#!/bin/sh\nIFS="|"; echo "$*"\n')
        (tmp_path / name).chmod(0o755)
    env = {"PATH": os.environ["PATH"]}
    command = [str(tmp_path / "scripts" / "test"), *given]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=10, check=True)
    setup, *ran = done.stdout.splitlines()
    assert setup == ""
    assert ("-m|coverage|combine|--quiet" in ran) is ("--coverage" in given)
    assert ("-m|tests.hosts" in "".join(ran)) is ("--gpu" not in given)
    tests = next(line for line in ran if "pytest" in line)
    assert ("--require-gpu" in tests) is ("--gpu" in given)
    assert tests.endswith("-k|a b") or "-k" not in given


def test_a_fork_runs_on_whole_names_of_hosted_machines_alone() -> None:
    """`ubuntu-gpu` may be a runner of one's own."""
    text = (ROOT / ".github/workflows/conda-env.yml").read_text()
    condition = text[text.index("    if: >-") : text.index("    runs-on: ${{")]
    assert "startsWith" not in condition and "fromJSON(inputs.runs-on))" in condition
