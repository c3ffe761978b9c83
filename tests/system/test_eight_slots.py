"""Eight slots on one host with eight GPUs: eight jobs at once, and each has exactly its own GPU."""

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

COUNT = 8
UUIDS = [f"GPU-{number:08x}-8888-4888-8888-888888888888" for number in range(COUNT)]
# Minors in another order than indices: what counts is whose node it is, not its place in a list.
MINORS = [number ^ 1 for number in range(COUNT)]
SCENARIO = f"count {COUNT}\n" + "".join(
    f"gpu.{number}.name NVIDIA H100 80GB HBM3\ngpu.{number}.uuid {uuid}\n"
    f"gpu.{number}.minor {MINORS[number]}\ngpu.{number}.pci 00000000:{number + 1}1:00.0\n"
    for number, uuid in enumerate(UUIDS)
)
SLOTS: list[dict[str, Any]] = [
    {"name": f"g{number}", "gpus": [uuid], "labels": [f"only-g{number}"]} for number, uuid in enumerate(UUIDS)
]
# No driver is behind the nodes: what the kernel lets through ends in ENXIO, what it refuses in EPERM.
LOOK = f"""
python3 - <<'END'
import errno, json, os
found = {{}}
for number in range({COUNT}):
    try:
        os.close(os.open(f"/dev/nvidia{{number}}", os.O_RDWR))
        found[number] = "opened"
    except OSError as error:
        found[number] = errno.errorcode[error.errno]
told = [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")]
print("@@" + json.dumps({{"nodes": found, "told": told, "user": os.getuid()}}))
END
for _ in $(seq 300); do [ -e release ] && break; sleep 0.1; done
"""


@pytest.fixture(scope="module")
def site(
    lab: Lab, module_world: World, module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """That host, provisioned once."""
    host = module_hosts(devices=gpu.devices(COUNT))
    gpu.install(host, SCENARIO)
    variables = {
        "github_runner_slots": SLOTS,
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_interval_seconds": 36000,
        "github_runner_online_timeout_seconds": 120,
    }
    made = Site([host], module_world, Controller(Path(tmp_path_factory.mktemp("eight")), lab.keys), variables)
    made.provision()
    yield made
    assert module_world.control.violations() == []


def _wait_all(site: Site) -> None:
    for slot in SLOTS:
        site.github.wait_runner(site.world.scope, f"{site.host.name}-{slot['name']}", seconds=60)


def test_eight_jobs_at_once_each_with_its_own_gpu(site: Site) -> None:
    """All run at the same time; each opens its own node, and no other; each is told of its own GPU alone."""
    _wait_all(site)
    jobs = [
        site.github.add_job(
            labels=[slot["labels"][0]], run=LOOK, name=slot["name"], repository="acme/widgets"
        )
        for slot in SLOTS
    ]
    for job in jobs:
        site.github.wait_job(job, status="in_progress", seconds=60)
    until_all_have_looked(site, jobs)
    assert [site.github.job(job)["status"] for job in jobs] == ["in_progress"] * COUNT
    site.shell("for slot in /var/lib/gha-runner/*; do touch $slot/_work/widgets/widgets/release; done")
    users = set()
    for number, job in enumerate(jobs):
        result, log = site.result(job)
        assert result == "success", log
        line = next(text for text in log.splitlines() if "@@{" in text)
        said = json.loads(line.partition("@@")[2])
        wanted = {str(minor): "ENXIO" if minor == MINORS[number] else "EPERM" for minor in range(COUNT)}
        assert said["nodes"] == wanted, f"slot g{number}"
        assert said["told"] == [UUIDS[number]] * 2
        users.add(said["user"])
    assert len(users) == COUNT


def until_all_have_looked(site: Site, jobs: list[int], seconds: float = 60) -> None:
    """Wait until each job has told what it found."""
    until = time.monotonic() + seconds
    for job in jobs:
        while "@@{" not in site.github.job_log(job):
            assert time.monotonic() < until, site.github.job_log(job)
            time.sleep(0.1)


def until_only_the_listener_runs(site: Site, slot: str, main: str, seconds: float = 30) -> None:
    """GitHub hears of a job's end from its worker, which then still has to end itself."""
    until = time.monotonic() + seconds
    while (found := site.shell(f"pgrep -u gha-{slot} | tr '\\n' ' '").split()) != [main]:
        assert time.monotonic() < until, site.shell(f"ps -u gha-{slot} -o pid,ppid,args; echo {found}")
        time.sleep(0.2)


def test_afterwards_all_eight_listen_and_nothing_is_left(site: Site) -> None:
    """Each is online and idle, has taken one job, and its user runs nothing but the listener."""
    _wait_all(site)
    for slot in SLOTS:
        name = slot["name"]
        main = site.shell(f"systemctl show -P MainPID gha-runner@{name}").strip()
        until_only_the_listener_runs(site, name, main)
        record = site.record(name)
        assert record is not None
        assert (record["status"], record["busy"]) == ("online", False)
    assert site.provision().recap[site.host.name].changed == 0
