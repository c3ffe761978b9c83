"""A hostile job tries everything in `tests/hostile/cases.py`, through the real path, on a real host."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.cases import CASES, Case, table
from tests.hostile.siege import MEMORY_MIB, TASKS, Siege, Verdict
from tests.hostile.tricks import ALLOWED, METRICS
from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.machine import ROOT
from tests.hosts.world import World
from tests.system.site import Site
from tests.system.test_ephemeral import APP_ID, make_app

UUIDS = [f"GPU-{number:08x}-1111-4222-8333-444455556666" for number in range(3)]
SCENARIO = "count 3\n" + "".join(
    f"gpu.{number}.name NVIDIA L4\ngpu.{number}.uuid {uuid}\ngpu.{number}.minor {number}\n"
    for number, uuid in enumerate(UUIDS)
)


# For the slots' own disks the host may use this machine's loop devices.
_MAKE = "mknod /dev/loop-control c 10 237; for n in $(seq 0 31); do mknod /dev/loop$n b 7 $n; done"
LOOPS = f"({_MAKE}) 2>/dev/null; true"


def _slots(world: World) -> list[dict[str, Any]]:
    """One slot of each mode; each is the other's neighbour."""
    ephemeral = {"mode": "ephemeral", "url": f"{world.github.url}/acme"}
    return [
        {"name": "a", "gpus": [UUIDS[0]], "labels": ["slot-a"]},
        {"name": "e", "gpus": [UUIDS[1]], "labels": ["slot-e"], **ephemeral},
    ]


def make_site(world: World, hosts: Callable[..., Host], controller: Controller, folder: Path) -> Site:
    """One host with three GPUs, converged once."""
    host = hosts(devices=gpu.devices(3))
    gpu.install(host, SCENARIO)
    host.exec("sh", "-c", LOOPS)
    variables = {
        "github_runner_slots": _slots(world),
        "github_runner_app_id": APP_ID,
        "github_runner_app_key_file": str(make_app(world, folder)),
        "github_runner_memory_per_slot_mib": MEMORY_MIB,
        "github_runner_tasks_per_slot": TASKS,
        "github_runner_disk_per_slot_gib": 1,
        "github_runner_packages": ["e2fsprogs"],
        "github_runner_cpus_per_slot": 1,
        "github_runner_policy_workflows": [ALLOWED],
        "runnerctl_jobs_prometheus": METRICS,
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_interval_seconds": 36000,
        "github_runner_online_timeout_seconds": 120,
    }
    made = Site([host], world, controller, variables)
    made.provision()
    return made


@pytest.fixture(scope="module")
def site(
    lab: Lab, module_world: World, module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The host under siege."""
    folder = Path(tmp_path_factory.mktemp("hostile"))
    made = make_site(module_world, module_hosts, Controller(folder / "controller", lab.keys), folder)
    yield made
    release_disks(made)
    assert module_world.control.violations() == []


def release_disks(site: Site) -> None:
    """Give this machine's loop devices back, which would outlive the host."""
    site.shell("systemctl stop 'gha-*@*.service'; umount /var/lib/gha-runner/*; true")


def siege(site: Site, mode: str) -> dict[str, Verdict]:
    """What became of each attempt on the slot of a mode."""
    slot, other, number = {"persistent": ("a", "e", 0), "ephemeral": ("e", "a", 1)}[mode]
    nodes = tuple(f"/dev/nvidia{minor}" for minor in range(3) if minor != number)
    own = (f"/dev/nvidia{number}", "/dev/nvidiactl")
    made = Siege(site, slot, mode, other=other, own_devices=own, other_devices=nodes, disk_bytes=1 << 30)
    return {verdict.id: verdict for verdict in made.run()}


@pytest.fixture(scope="module")
def verdicts(site: Site) -> Callable[[str], dict[str, Verdict]]:
    """The verdicts on a mode's slot; its siege is held once, when it is first asked for."""
    return functools.cache(functools.partial(siege, site))


@pytest.mark.parametrize("mode", ["persistent", "ephemeral"])
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_an_attempt_is_stopped(verdicts: Callable[[str], dict[str, Verdict]], mode: str, case: Case) -> None:
    """What is open by design is, too, as the table says: no more and no less."""
    verdict = verdicts(mode)[case.id]
    assert verdict.outcome == ("reached" if mode in case.open else "stopped"), verdict


def test_the_table_in_the_security_policy_is_this_one() -> None:
    """SECURITY.md lists what is tried, as `python -m tests.hostile` prints it; at least 40 attempts."""
    assert table() in (ROOT / "SECURITY.md").read_text()
    assert len({case.id for case in CASES}) == len(CASES) >= 40
