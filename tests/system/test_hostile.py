"""A hostile job tries everything in `tests/hostile/cases.py`, through the real path, on a real host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.cases import CASES, Case
from tests.hostile.siege import MEMORY_MIB, TASKS, Siege, Verdict
from tests.hostile.tricks import ALLOWED
from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

UUIDS = [f"GPU-{number:08x}-1111-4222-8333-444455556666" for number in range(3)]
SCENARIO = "count 3\n" + "".join(
    f"gpu.{number}.name NVIDIA L4\ngpu.{number}.uuid {uuid}\ngpu.{number}.minor {number}\n"
    for number, uuid in enumerate(UUIDS)
)


def _slots() -> list[dict[str, Any]]:
    return [
        {"name": "a", "gpus": [UUIDS[0]], "labels": ["slot-a"]},
        {"name": "b", "gpus": [UUIDS[1]], "labels": ["slot-b"]},
    ]


def make_site(world: World, hosts: Callable[..., Host], controller: Controller) -> Site:
    """One host with three GPUs, converged once."""
    host = hosts(devices=gpu.devices(3))
    gpu.install(host, SCENARIO)
    variables = {
        "github_runner_slots": _slots(),
        "github_runner_memory_per_slot_mib": MEMORY_MIB,
        "github_runner_tasks_per_slot": TASKS,
        "github_runner_cpus_per_slot": 1,
        "github_runner_policy_workflows": [ALLOWED],
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_interval_seconds": 36000,
    }
    made = Site([host], world, controller, variables)
    made.provision()
    return made


@pytest.fixture(scope="module")
def site(
    lab: Lab, module_world: World, module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The host under siege."""
    controller = Controller(Path(tmp_path_factory.mktemp("hostile")), lab.keys)
    yield make_site(module_world, module_hosts, controller)
    assert module_world.control.violations() == []


@pytest.fixture(scope="module")
def verdicts(site: Site) -> dict[str, Verdict]:
    """What became of each attempt on a persistent slot."""
    siege = Siege(
        site,
        "a",
        own_devices=("/dev/nvidia0", "/dev/nvidiactl"),
        other_devices=("/dev/nvidia1", "/dev/nvidia2"),
    )
    return {verdict.id: verdict for verdict in siege.run()}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_an_attempt_is_stopped(verdicts: dict[str, Verdict], case: Case) -> None:
    """What is open by design is, too, as the table says: no more and no less."""
    verdict = verdicts[case.id]
    assert verdict.outcome == ("reached" if "persistent" in case.open else "stopped"), verdict
