"""The runner stand-in under a user of its own, in a root directory that belongs to root: how slots run."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.github_api import GithubApi
from tests.fakes.runner_dist import build
from tests.fakes.runner_dist.box import TOKEN, RunnerBox

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[RunnerBox]:
    """A registered runner; root owns it, the user owns only what a job may write."""
    # Not pytest's own directory: that one is closed to others as a whole.
    with tempfile.TemporaryDirectory() as parent, GithubApi() as github:
        Path(parent).chmod(0o755)
        github.control.add_token(TOKEN)
        box = RunnerBox(
            build("2.336.0", "x64", tmp_path), Path(parent) / "runner", github, scope="/orgs/acme"
        )
        box.root.chmod(0o755)
        assert box.configure("--name", "one").returncode == 0
        for name in (".runner", ".credentials", ".credentials_rsaparams"):
            (box.root / name).chmod(0o644)
        for name in ("_diag", "_work"):
            (box.root / name).mkdir(exist_ok=True)
            subprocess.run(["chown", "-R", str(NOBODY), str(box.root / name)], check=True, timeout=10)
        yield box
        box.stop()


def run_as_nobody(box: RunnerBox) -> subprocess.CompletedProcess[str]:
    """Run the listener to its end."""
    return subprocess.run(
        [str(box.root / "bin" / "Runner.Listener"), "run"],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_a_parent_directory_that_cannot_be_listed(box: RunnerBox) -> None:
    """The directory rule: the root and every parent must be readable by the runner's user."""
    box.root.parent.chmod(0o711)
    done = run_as_nobody(box)
    assert done.returncode == 1
    assert "Permission to read the directory contents is required" in done.stderr


def test_a_deleted_record_leaves_files_that_belong_to_root(box: RunnerBox) -> None:
    """It cannot clean up, says so, and exits 1: the unit shows it as failed."""
    box.env_file({"GHA_STAND_IN_FAULT": "exit0-wiped"})
    done = run_as_nobody(box)
    assert done.returncode == 1
    assert "Access to the path" in done.stderr
    assert (box.root / ".runner").exists()


def test_a_log_directory_that_refuses_aborts(box: RunnerBox) -> None:
    """The listener cannot even start without its log: SIGABRT, as an unhandled exception."""
    subprocess.run(["chown", "-R", "0:0", str(box.root / "_diag")], check=True, timeout=10)
    done = run_as_nobody(box)
    assert done.returncode == -6
    assert "Unhandled exception" in done.stderr


@pytest.mark.exhaustive
def test_a_job_runs_as_the_user(box: RunnerBox) -> None:
    """Its processes are the user's, and can change neither the runner's code nor its settings."""
    box.start(user=NOBODY)
    job = box.run_job(
        {"run": "id -u; touch ../../../.env && echo written || echo refused"}, labels=["self-hosted"]
    )
    assert job["conclusion"] == "success"
    assert f" {NOBODY}\n" in job["log"]
    assert " refused\n" in job["log"]
