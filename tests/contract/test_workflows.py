"""The project's own CI keeps the rules that it sets for others."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runnerctl.core.spec import Conda

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
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


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_and_says_its_version(path: Path) -> None:
    """A tag can be moved; a commit cannot. The comment is for people and for update tools."""
    uses = [step["uses"] for step in _steps(_load(path)) if "uses" in step]
    assert uses
    assert not [name for name in uses if not PINNED.match(name)]
    for line in path.read_text().splitlines():
        assert "uses:" not in line or re.search(r"@[0-9a-f]{40} # v\d", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_job_has_a_limit_and_few_rights(path: Path) -> None:
    """Nothing by default, reading at most; a hung job ends."""
    workflow = _load(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 60, name
        assert job["permissions"] in ({}, {"contents": "read"}), name
    assert workflow["concurrency"]["group"]


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
    commands = [step["run"].split(" #")[0] for step in job["steps"] if "run" in step]
    assert job["runs-on"] == "ubuntu-latest"
    assert commands[:2] == ["scripts/environment", "scripts/setup"]
    assert commands[2].startswith("pre-commit run --all-files")
    assert commands[3:] == ["scripts/lint", "scripts/test"]
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
    assert job["steps"][-1]["run"] == "python -m pytest -m gpu"
    uses = " ".join(step.get("uses", "") for step in job["steps"])
    assert "cache" not in uses  # a local store is quicker than a download of gigabytes
    assert "miniconda" not in uses  # it edits start-up files that the next job would inherit


def _gate(ci: dict[str, Any], **environment: str) -> int:
    script = ci["jobs"]["gate"]["steps"][0]["run"]
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(["bash", "-e", "-c", script], env=env, capture_output=True, timeout=10).returncode


def test_the_gate_always_runs_and_sees_both_jobs(ci: dict[str, Any]) -> None:
    """A job that is skipped satisfies a required check; so the gate is never skipped."""
    gate = ci["jobs"]["gate"]
    assert gate["if"] == "always()"
    assert gate["needs"] == ["cpu_tests", "gpu_tests"]
    assert gate["steps"][0]["env"]["CPU_TESTS"] == "${{ needs.cpu_tests.result }}"
    assert gate["steps"][0]["env"]["GPU_TESTS"] == "${{ needs.gpu_tests.result }}"


@pytest.mark.parametrize("cpu,gpu", list(itertools.product(OUTCOMES, OUTCOMES)))
def test_the_gate_opens_for_success_alone(ci: dict[str, Any], cpu: str, gpu: str) -> None:
    """Both must succeed; a fork's pull request, and only that, may skip the GPU."""
    for fork in ("true", "false"):
        right = cpu == "success" and (gpu == "success" or (gpu == "skipped" and fork == "true"))
        assert (_gate(ci, CPU_TESTS=cpu, GPU_TESTS=gpu, FORK=fork) == 0) is right, (cpu, gpu, fork)


def test_ci_uses_the_conda_that_hosts_get(ci: dict[str, Any]) -> None:
    """One Miniforge version, in the spec and in CI."""
    versions = [
        step["with"]["miniforge-version"] for step in _steps(ci) if "miniconda" in step.get("uses", "")
    ]
    assert versions == [Conda().version]


def test_the_cache_is_bound_to_the_environment_file(ci: dict[str, Any]) -> None:
    """The key is the file's hash, and nothing older is ever brought back for a newer file."""
    restore = next(step for step in _steps(ci) if "cache/restore" in step.get("uses", ""))
    assert "hashFiles('environment.yml')" in restore["with"]["key"]
    assert "restore-keys" not in restore["with"]
