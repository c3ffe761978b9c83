"""The example project on a real host: `ci init` writes its CI, the store serves its environment.

The steps are those of the generated workflow in its own order, run inside real jobs of a real slot.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.component.cli_support import spawn
from tests.fakes.conda_channel import build_channel, serve
from tests.fakes.cuda import build as build_cuda
from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Device, Host
from tests.hosts.lab import Lab
from tests.hosts.machine import CACHE
from tests.hosts.world import World
from tests.system.site import Site
from tests.workflow_lint import lint
from tests.workflows import expressions, steps
from tests.workflows.index import make_index
from tests.workflows.plan import PUSH, Workflow, artifacts

ROOT = Path(__file__).parents[2]
HERE = "/srv/proof"  # on the host: the repository, and what runs its steps
PACKAGES = ("pip", "setuptools", "pytest", "pytest-cov", "coverage", "pre-commit", "black", "ruff", "mypy")
# Opens like a GPU's node with a driver behind it, unlike those of other tests.
NODES = tuple(Device(path, 1, 3) for path in ("/dev/nvidiactl", "/dev/nvidia0"))


@dataclass
class Proof:
    """The host, the repository as `ci init` left it, where artifacts go, and which there are by now."""

    site: Site
    repository: Path
    artifacts: str
    kept: dict[str, bytes]

    def run(self, workflow: Workflow, job: str, *, seconds: float = 300) -> tuple[str, str]:
        """Run one job's steps as a job of the slot; its result and its log."""
        plan = workflow.plan(job, repository=f"{HERE}/repository", artifacts=self.artifacts)
        self.site.host.put(f"{HERE}/{job}.json", plan)
        result, log = self.site.result(
            self.site.job(f"python3 {HERE}/steps.py {HERE}/{job}.json"), seconds=seconds
        )
        workflow.results[job] = result
        return result, log

    def take(self) -> None:
        """Put the repository, as it is now, onto the host."""
        archive = shutil.make_archive(str(self.repository), "tar", self.repository)
        self.site.host.install(Path(archive), f"{HERE}/repository.tar")
        self.site.shell(
            f"rm -rf {HERE}/repository; mkdir {HERE}/repository;"
            f" tar -xf {HERE}/repository.tar --no-same-owner -C {HERE}/repository"
        )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example under git, with what `ci init` wrote."""
    place = tmp_path_factory.mktemp("example") / "gpubuffers"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    shutil.copytree(ROOT / "examples" / "gpubuffers", place, ignore=ignore)
    _git(place, "init", "-q", "-b", "main")
    made = spawn("ci", "init", str(place), "--yes")
    assert made.code == 0, made.out + made.err
    _git(place, "add", "-A")
    _git(place, "commit", "-q", "-m", "CI")
    return place


def _git(place: Path, *words: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    subprocess.run(["git", "-C", str(place), *who, *words], check=True, timeout=60)


@pytest.fixture(scope="module")
def proof(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proof]:
    """A host with one GPU and the store, and the repository on it."""
    folder = tmp_path_factory.mktemp("proof")
    gateway = lab.network.gateway
    with ExitStack() as stack:
        channel = build_channel(folder / "channel", PACKAGES)
        served = stack.enter_context(serve(channel, address=gateway))
        index = stack.enter_context(serve(make_index(folder / "index"), address=gateway))
        address, kept = stack.enter_context(artifacts(gateway))
        host = module_hosts(devices=NODES)
        gpu.install(host)
        host.install(build_cuda(CACHE / "cuda"), "/usr/lib/x86_64-linux-gnu/libcuda.so.1", mode=0o755)
        host.put("/etc/cuda-scenario", f"count 1\ngpu.0.uuid {gpu.UUID}\n")
        variables = {
            "conda_manage": False,
            "conda_store": True,
            "conda_store_aliases": {"conda-forge": served.url},
            "conda_store_pip_index": index.url,
            "nvidia_driver_manage": False,
            "github_runner_packages": ["git"],
            "github_runner_slots": [{"name": "main", "gpus": [gpu.UUID]}],
            "runnerctl_health_interval_seconds": 36000,
        }
        site = Site([host], module_world, Controller(folder / "play", lab.keys), variables)
        site.provision()
        made = Proof(site, repository, address, kept)
        site.shell(f"mkdir -p {HERE}")
        for module in (expressions, steps):
            path = Path(str(module.__file__))
            host.put(f"{HERE}/{path.name}", path.read_text())
        made.take()
        yield made
    assert module_world.control.violations() == []


def test_what_was_written_passes_every_linter(repository: Path) -> None:
    """actionlint, GitHub's schemas, zizmor, and our own checks; a second `ci init` changes nothing."""
    written = [*repository.glob(".github/workflows/*.yml"), *repository.glob(".github/actions/*/action.yml")]
    assert len(written) >= 2
    assert lint(written) == []
    audit = ["zizmor", "--offline", "--no-progress", "--persona", "regular", str(repository / ".github")]
    audited = subprocess.run(
        [str(ROOT / ".venv/bin" / audit[0]), *audit[1:]], capture_output=True, text=True, timeout=120
    )
    assert audited.returncode == 0, audited.stdout
    checked = spawn("ci", "check", str(repository), "-o", "json")
    assert json.loads(checked.out)["findings"] == []
    assert checked.code == 0
    again = spawn("ci", "init", str(repository), "--check")
    assert again.code == 0, again.out + again.err


def test_the_workflow_runs_from_end_to_end(proof: Proof) -> None:
    """Both tiers, coverage over both of them with what child processes ran, and the gate."""
    workflow = Workflow(proof.repository)
    logs = {}
    for job in workflow.order():
        assert workflow.is_due(job), job
        result, logs[job] = proof.run(workflow, job)
        assert result == "success", logs[job]
    assert list(workflow.results) == workflow.order()
    assert {"cpu_tests", "gpu_tests", "coverage", "gate"} == set(workflow.results)
    assert re.search(r"4 passed", logs["cpu_tests"]), logs["cpu_tests"]
    for hook in ("black", "ruff", "mypy"):
        assert re.search(rf"(?m){hook}[^\n]*Passed", logs["cpu_tests"]), logs["cpu_tests"]
    assert re.search(r"[23] passed", logs["gpu_tests"]), logs["gpu_tests"]
    assert not re.search(r"\d+ skipped", logs["gpu_tests"]), logs["gpu_tests"]
    # What only children run, and what only the GPU tier runs, both count.
    report = logs["coverage"]
    assert re.search(r"checksums\.py\s+\d+\s+0\s+100%", report), report
    assert re.search(r"device\.py\s+\d+\s+\d\s+9\d%", report), report


def test_the_second_time_the_environment_is_there(proof: Proof) -> None:
    """Three jobs and a fourth have asked for it, and one of them had it built."""
    workflow = Workflow(proof.repository)
    result, log = proof.run(workflow, "cpu_tests")
    assert result == "success", log
    said = proof.site.host.journal("runnerctl-env.service")
    assert len(re.findall(r"\bbuilt [0-9a-f]{20}\b", said)) == 1, said


def test_a_gpu_that_is_gone_is_no_green_run(proof: Proof) -> None:
    """Without a driver the GPU tier is red, and so is the gate."""
    workflow = Workflow(proof.repository)
    workflow.results["cpu_tests"] = "success"
    proof.site.shell("mv /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1 /root/away")
    try:
        result, log = proof.run(workflow, "gpu_tests")
    finally:
        proof.site.shell("mv /root/away /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")
    assert result == "failure", log
    workflow.results.update(coverage="skipped")
    assert workflow.is_due("gate")
    assert proof.run(workflow, "gate")[0] == "failure"


@pytest.mark.parametrize("event", ["fork", "skipped without right"])
def test_who_may_skip_the_gpu(proof: Proof, event: str) -> None:
    """A fork's code never comes near the GPU; anything else that skips that tier is stopped by the gate."""
    head: dict[str, Any] = {"repo": {"full_name": "mallory/widgets", "fork": True}}
    request = {"head": head, "base": {"repo": {"full_name": "acme/widgets"}}, "number": 7}
    fork = {**PUSH, "event_name": "pull_request", "event": {"pull_request": request}}
    workflow = Workflow(proof.repository, github=fork if event == "fork" else PUSH)
    workflow.results["cpu_tests"] = "success"
    assert workflow.is_due("gpu_tests") == (event != "fork")
    workflow.results.update(gpu_tests="skipped", coverage="success")
    if event != "fork":
        assert proof.run(workflow, "gate")[0] == "failure"
