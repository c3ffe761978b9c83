"""Kill -9 of any process of a slot, and the plug pulled at any moment: back to listening by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site
from tests.system.test_ephemeral import APP_ID, make_app

# The persistent slot and the ephemeral one: name, unit, label.
SLOTS = {"persistent": ("p", "gha-runner@p.service"), "ephemeral": ("e", "gha-ephemeral@e.service")}
MODES = tuple(SLOTS)
BACK_SECONDS = 120.0


@pytest.fixture(scope="module")
def site(
    lab: Lab, module_world: World, module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One host with a slot of each mode and the guard; no play is run on it after this."""
    folder = Path(tmp_path_factory.mktemp("cuts"))
    ephemeral = {"mode": "ephemeral", "url": f"{module_world.github.url}/acme"}
    slots: list[dict[str, Any]] = [
        {"name": "p", "labels": ["slot-p"]},
        {"name": "e", "labels": ["slot-e"], **ephemeral},
    ]
    variables = {
        "github_runner_slots": slots,
        "github_runner_app_id": APP_ID,
        "github_runner_app_key_file": str(make_app(module_world, folder)),
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_interval_seconds": 36000,
        "github_runner_online_timeout_seconds": 120,
    }
    made = Site([module_hosts()], module_world, Controller(folder / "controller", lab.keys), variables)
    made.provision()
    # GitHub offers a job again after 60 s, if the runner that it was offered to died meanwhile; it holds a
    # record busy for ten minutes after its runner was lost in a job, and until then the name is taken.
    module_world.control.settings(assign_timeout_seconds=5, lost_seconds=10)
    yield made
    assert module_world.control.violations() == []


def _records(site: Site, mode: str) -> list[dict[str, Any]]:
    name = f"{site.host.name}-{SLOTS[mode][0]}"
    return [record for record in site.github.runners() if record["name"].startswith(name)]


def _back(site: Site, mode: str, seconds: float = BACK_SECONDS) -> None:
    """Until exactly one record of the slot is there, online and idle."""
    until = time.monotonic() + seconds
    while True:
        found = _records(site, mode)
        if [(record["status"], record["busy"]) for record in found] == [("online", False)]:
            return
        assert time.monotonic() < until, f"{found}\n{site.host.journal(SLOTS[mode][1], lines=40)}"
        time.sleep(0.2)


def _all_is_well(site: Site) -> None:
    """Both slots listen, without a ghost, and each runs the next job."""
    for mode in MODES:
        _back(site, mode)
    jobs = [_job(site, mode, "echo all is well") for mode in MODES]
    for job in jobs:
        result, log = site.result(job, seconds=120)
        assert result == "success", log + site.host.journal(lines=60)
    for mode in MODES:
        _back(site, mode)


def _job(site: Site, mode: str, run: str) -> int:
    return site.job(run, labels=["self-hosted", f"slot-{SLOTS[mode][0]}"])


def _running(site: Site, mode: str) -> int:
    """A job that has begun its only step, and would take long."""
    job = _job(site, mode, "echo begun; sleep 100")
    until = time.monotonic() + 60
    while "Z begun" not in site.github.job_log(job):
        assert time.monotonic() < until, site.github.job_log(job)
        time.sleep(0.1)
    return job


def _kill(site: Site, pid: str) -> None:
    assert pid not in ("", "0")
    site.shell(f"kill -9 {pid}")


def _main(site: Site, unit: str) -> str:
    return site.shell(f"systemctl show -P MainPID {unit}").strip()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "mid-job"])
def test_the_listener_is_killed(site: Site, mode: str, busy: bool) -> None:
    """It comes back; a running job has failed, and nothing of it lives on."""
    _back(site, mode)
    job = _running(site, mode) if busy else None
    _kill(site, before := _main(site, SLOTS[mode][1]))
    until = time.monotonic() + BACK_SECONDS
    while _main(site, SLOTS[mode][1]) in ("0", before):
        assert time.monotonic() < until, site.host.journal(SLOTS[mode][1], lines=40)
        time.sleep(0.2)
    if job is not None:
        assert site.github.wait_job(job, seconds=90)["conclusion"] == "failure"
    _all_is_well(site)
    assert site.shell(f"pgrep -u gha-{SLOTS[mode][0]} -x sleep || true") == ""


@pytest.mark.parametrize("mode", MODES)
def test_the_worker_is_killed(site: Site, mode: str) -> None:
    """The listener reports the job as failed and goes on; what the job had started is gone."""
    _back(site, mode)
    job = _running(site, mode)
    _kill(site, site.shell(f"pgrep -P {_main(site, SLOTS[mode][1])} -x Runner.Worker").strip())
    assert site.github.wait_job(job, seconds=60)["conclusion"] == "failure"
    _all_is_well(site)
    assert site.shell(f"pgrep -u gha-{SLOTS[mode][0]} -x sleep || true") == ""


def test_the_guard_is_killed_while_jobs_run(site: Site) -> None:
    """It comes back by itself; jobs under way end well, and are written down once."""
    for mode in MODES:
        _back(site, mode)
    jobs = [_job(site, mode, "echo begun; sleep 6; echo survived") for mode in MODES]
    for job in jobs:
        site.github.wait_job(job, status="in_progress", seconds=60)
    time.sleep(2)
    _kill(site, _main(site, "runnerctl-guard.service"))
    for job in jobs:
        result, log = site.result(job)
        assert result == "success", log
        assert "Z survived" in log
    _all_is_well(site)


def test_the_mint_is_killed(site: Site) -> None:
    """Killed while GitHub thinks about its answer: no ghost stays, and the slot listens again."""
    _back(site, "ephemeral")
    site.github.fault("delay", path="/generate-jitconfig$", delay_seconds=4)
    job = _job(site, "ephemeral", "echo done")
    assert site.result(job)[0] == "success"
    until = time.monotonic() + 30
    while site.github.faults():  # it ends when GitHub has been asked; the answer is yet to come
        assert time.monotonic() < until, "nothing is minted"
        time.sleep(0.05)
    _kill(site, _main(site, "gha-mint@e.service"))
    site.github.clear_faults()
    _all_is_well(site)


@pytest.mark.parametrize("moment", ["idle", "mid-job", "clean-up", "mint"])
def test_the_plug_is_pulled(site: Site, moment: str) -> None:
    """Every process ends at once; after the boot both slots listen, no play needed, no ghost left."""
    for mode in MODES:
        _back(site, mode)
    if moment == "mid-job":
        for mode in MODES:
            _running(site, mode)
    elif moment == "clean-up":
        many = "for i in $(seq 3000); do echo $i >~/$i; done; (setsid sleep 1000 &); echo left"
        jobs = [_job(site, mode, many) for mode in MODES]
        for job in jobs:
            site.result(job)
    elif moment == "mint":
        site.github.fault("delay", path="/generate-jitconfig$", delay_seconds=5)
        site.result(_job(site, "ephemeral", "true"))
        time.sleep(1.5)
    site.host.pull_the_plug()
    site.github.clear_faults()
    site.host.start()
    _all_is_well(site)
    for slot, _unit in SLOTS.values():
        left = site.shell(
            f"find /var/lib/gha-runner/{slot}/home /tmp /var/tmp /dev/shm -user gha-{slot} -type f"
        )
        assert left == ""
    failed = site.shell("systemctl list-units --failed --plain --no-legend").split()
    assert [name for name in failed if name.startswith(("gha-", "runnerctl-"))] == []
