"""Accounting on a real host: a job's GPU report in its log, the job in ``runnerctl jobs``, a power cut."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

METRICS = "/var/lib/runnerctl/jobs.prom"
SCENARIO = (
    f"{gpu.ONE_L4}gpu.0.memory_total 24152899584\ngpu.0.memory_used 4294967296\n"
    "gpu.0.samples 100\ngpu.0.power 72000\ngpu.0.temp 63\n"
)


@pytest.fixture(scope="module")
def site(
    lab: Lab, module_world: World, module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A host with one slot that has a GPU."""
    host = module_hosts(devices=gpu.devices())
    gpu.install(host, SCENARIO)
    variables = {
        "github_runner_slots": [{"name": "main", "gpus": [gpu.UUID]}],
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_interval_seconds": 36000,
        "runnerctl_jobs_prometheus": METRICS,
    }
    made = Site([host], module_world, Controller(Path(tmp_path_factory.mktemp("jobs")), lab.keys), variables)
    made.provision()
    made.github.wait_runner(made.world.scope, f"{host.name}-main", seconds=60)
    yield made
    assert module_world.control.violations() == []


def jobs(site: Site, *options: str) -> dict[str, Any]:
    """What the command on the host says."""
    done = site.host.exec("/opt/runnerctl/bin/runnerctl", "jobs", "-o", "json", *options)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def until(
    site: Site, condition: Callable[[list[dict[str, Any]]], bool], seconds: float = 40
) -> dict[str, Any]:
    """Wait until the newest of the host's jobs are so; returns the newest."""
    end = time.monotonic() + seconds
    while not condition(found := jobs(site)["jobs"]):
        assert time.monotonic() < end, found
        time.sleep(0.5)
    newest: dict[str, Any] = found[0]
    return newest


def test_a_job_is_measured_and_written_down(site: Site) -> None:
    """Its log has the report; the database has what the GPU did."""
    result, log = site.result(site.job("sleep 4"))
    assert result == "success", log + site.host.journal("runnerctl-guard.service")
    assert "GPU report of slot main: ran " in log
    assert "peak 4.0 of 22.5 GiB" in log
    job = until(site, lambda found: bool(found) and found[0]["result"] != "running")
    assert (job["slot"], job["repository"]) == ("main", "acme/widgets")
    (use,) = job["gpus"]
    assert (use["uuid"], use["memory_peak_bytes"], use["utilization_peak_percent"]) == (gpu.UUID, 2**32, 100)
    assert use["measured_seconds"] > 3
    assert use["busy_seconds"] == pytest.approx(use["measured_seconds"], abs=1)
    assert use["energy_joules"] == pytest.approx(72 * use["measured_seconds"], rel=0.2)
    assert site.shell("stat -c %a:%U /var/lib/runnerctl/jobs.db").strip() == "600:root"


def test_metrics_are_published(site: Site) -> None:
    """The file for Prometheus is there after a job, readable for the exporter."""
    end = time.monotonic() + 30
    while not site.host.exists(METRICS):
        assert time.monotonic() < end
        time.sleep(0.5)
    assert 'runnerctl_slot_gpus{slot="main"} 1' in site.host.read(METRICS)


def test_a_power_cut_ends_the_job_when_it_was_seen_last(site: Site) -> None:
    """The job is not running for ever after, and the next one is written down as ever."""
    site.job("sleep 300")
    until(site, lambda found: found[0]["result"] == "running" and found[0]["repository"] is not None)
    site.host.pull_the_plug()
    site.host.start()
    job = until(site, lambda found: found[0]["result"] == "interrupted")
    assert job["ended_at"] is not None
