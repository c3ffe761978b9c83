"""Slots from hardware on a real host: one, eight, one again; labels; what is refused before any change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.component.cli_support import spawn
from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

EIGHT = "count 8\ngpu.*.name NVIDIA L4\ngpu.*.mig 0\ngpu.*.mig_pending 0\n"
UUIDS = [f"GPU-00000000-0000-4000-8000-{index:012d}" for index in range(8)]
DERIVED = {"gpu-cc-8.9", "gpu-cuda-12", "gpu-driver-575", "gpu-model-l4", "gpu-vram-22gib"}
PREFLIGHT = "Check spec, host and credential before anything is changed"
CLI = "/opt/runnerctl/bin/runnerctl"


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with eight GPUs and a driver that others look after; provisioned whole by the first test."""
    controller = Controller(Path(tmp_path_factory.mktemp("layout")), lab.keys)
    host = module_hosts(devices=gpu.devices(8))
    gpu.install(host, EIGHT)
    variables: dict[str, Any] = {
        "nvidia_driver_manage": False,
        "conda_manage": False,
        "runnerctl_guard": False,  # no job is admitted or refused here
        "runnerctl_health_timer": False,  # it would hold slots while the driver does not answer
        "github_runner_gpus_per_slot": 8,
        "github_runner_labels": ["mine"],
    }
    yield Site([host], module_world, controller, variables)
    assert module_world.control.violations() == []


def _records(site: Site) -> dict[str, str]:
    """Slot -> its status at GitHub, of every record there is."""
    prefix = f"{site.host.name}-"
    return {each["name"].removeprefix(prefix): each["status"] for each in site.github.runners()}


def _host_json(site: Site) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(site.host.read("/etc/runnerctl/host.json"))
    return data


@pytest.fixture
def eight(site: Site) -> Site:
    """The host with a slot for each GPU."""
    site.variables["github_runner_gpus_per_slot"] = 1
    if set(_records(site)) != {f"gpu{index}" for index in range(8)}:
        site.provision()
    return site


def _tags(site: Site, per_slot: int) -> Any:
    """Converge CLI and slots for another number of GPUs a slot."""
    site.variables["github_runner_gpus_per_slot"] = per_slot
    return site.provision("--tags", "runnerctl,github_runner")


def test_one_slot_with_all_gpus_is_right_after_the_first_run(site: Site) -> None:
    """The layout is in host.json, in the unit and in the labels; the second run changes nothing."""
    site.provision()
    assert _records(site) == {"gpu0": "online"}
    assert site.custom_labels("gpu0") == {"gpu", "mine", "gpu-count-8", *DERIVED}
    known = _host_json(site)
    assert [slot["name"] for slot in known["github_runner"]["slots"]] == ["gpu0"]
    assert known["layout"]["slots"][0]["gpus"] == UUIDS
    site.github.clear_requests()
    again = site.provision()
    assert again.recap[site.host.name].changed == 0, again.changed()
    assert site.github.counts()[1] == 0


def test_eight_slots_reuse_the_first_and_each_has_its_own_gpu(site: Site) -> None:
    """Same record for gpu0; a job sees its own GPU; check mode predicted it and wrote nothing."""
    first = (site.record("gpu0") or {})["id"]
    site.variables["github_runner_gpus_per_slot"] = 1
    predicted = site.provision("--tags", "runnerctl,github_runner", "--check", "--diff")
    assert "registration of" in " ".join(site.actions(predicted))
    assert _records(site) == {"gpu0": "online"}
    _tags(site, 1)
    assert _records(site) == {f"gpu{index}": "online" for index in range(8)}
    assert (site.record("gpu0") or {})["id"] == first
    for index in (0, 7):
        assert site.custom_labels(f"gpu{index}") == {"gpu", "mine", "gpu-count-1", *DERIVED}
    shown = site.shell("systemctl show -p Environment gha-runner@gpu5.service")
    assert f"NVIDIA_VISIBLE_DEVICES={UUIDS[5]}" in shown
    again = site.provision("--tags", "runnerctl,github_runner")
    assert again.recap[site.host.name].changed == 0, again.changed()


def test_the_host_shows_its_plan_and_its_slots(eight: Site) -> None:
    """`slots plan`, `list` and `spec validate` all read the same host.json."""
    site = eight
    plan = json.loads(site.shell(f"{CLI} slots plan -o json"))
    assert [slot["changes"] for slot in plan["slots"]] == [[]] * 8
    text = site.shell(f"{CLI} slots plan")
    assert max(map(len, text.splitlines())) <= 80, text
    assert "gpu7" in site.shell(f"{CLI} list")
    assert "no problem" in site.shell(f"{CLI} spec validate")


def test_the_controller_asks_the_hosts_for_the_same_plan(eight: Site) -> None:
    """`slots plan -i` reads hardware and host.json there, and changes nothing."""
    site = eight
    words = ("slots", "plan", "-i", str(site.controller.inventory), "--gpus-per-slot", "2", "-o", "json")
    answer = spawn(*words, env={"XDG_STATE_HOME": str(site.controller.directory / "state")})
    assert answer.code == 0, answer.err
    assert [slot["changes"] for slot in answer.json["slots"]] == [["GPUs", "memory", "labels"]] * 4
    assert answer.json["removed"] == [f"gpu{index}" for index in range(4, 8)]


NOWHERE = "GPU-99999999-0000-4000-8000-000000000000"
TWICE = [{"name": "a", "gpus": UUIDS[:2]}, {"name": "b", "gpus": [UUIDS[1]]}]
FIVE = [{"name": f"s{index}"} for index in range(5)]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a GPU claimed twice": ({"github_runner_slots": TWICE}, "already claimed"),
    "a UUID that is not there": (
        {"github_runner_slots": [{"name": "a", "gpus": [NOWHERE]}]},
        "is not on this host",
    ),
    "more slots than GPUs": (
        {"github_runner_slots": FIVE, "github_runner_gpus_per_slot": 2},
        "5 slots want 2 GPUs each, 10 in all; 8 are free",
    ),
    "a profile that the card lacks": (
        {"github_runner_mig_profile": "1g.10gb"},
        "no GPU of this host has a MIG device of profile 1g.10gb",
    ),
}


def test_what_cannot_be_is_refused_before_any_change(eight: Site) -> None:
    """In preflight, with the GPUs that were found; host and GitHub stay as they are."""
    site = eight
    listing = "ls -lR --time-style=full-iso /etc/runnerctl /var/lib/gha-runner"
    before, files, kept = _records(site), site.shell(listing), dict(site.variables)
    site.github.clear_requests()
    for wishes, expected in REFUSED.values():
        site.variables.update(wishes)
        outcome = site.play("provision.yml")
        assert outcome.rc != 0
        message = outcome.result(PREFLIGHT).msg
        assert expected in message
        if "already" not in expected:  # inventory alone says that
            assert f"GPU 0 {UUIDS[0]}" in message
        site.variables.clear()
        site.variables.update(kept)
    assert site.github.counts()[1] == 0
    assert _records(site) == before
    assert site.shell(listing) == files


def test_a_driver_that_does_not_answer_costs_no_slot(eight: Site) -> None:
    """The layout stays as it was, and the play says so."""
    site = eight
    before = _host_json(site)
    site.host.put(gpu.SCENARIO_IN_HOST, "fault nvmlInit_v2 return 9\n")
    try:
        outcome = site.provision("--tags", "runnerctl")
    finally:
        site.host.put(gpu.SCENARIO_IN_HOST, EIGHT)
    assert "the GPUs were not checked: the driver is not loaded" in outcome.output
    assert _host_json(site) == before
    assert len(_records(site)) == 8


def test_labels_follow_a_driver_that_was_upgraded(eight: Site) -> None:
    """On the host itself, with the credential: written at GitHub; without one it is said."""
    site = eight
    site.host.put(gpu.SCENARIO_IN_HOST, f"driver 580.65.06\ncuda 13000\n{EIGHT}")
    plan = site.shell(f"{CLI} slots plan")
    assert "gpu-driver-580" in plan
    quiet = site.shell(f"{CLI} slots apply 2>&1")
    assert "labels at GitHub stay as they are" in quiet
    _tags(site, 1)
    assert {"gpu-driver-580", "gpu-cuda-13"} <= site.custom_labels("gpu3")
    assert "gpu-driver-575" not in site.custom_labels("gpu3")
    site.host.put(gpu.SCENARIO_IN_HOST, EIGHT)


def test_eight_become_one_and_a_running_job_is_waited_for(eight: Site) -> None:
    """A slot that goes ends its job first, and keeps its GPU until then; then no record is left behind."""
    site = eight
    go = "/var/lib/gha-runner/gpu6/home/go"
    site.variables["github_runner_slots"] = [{"name": "main"}]
    record = site.record("gpu6") or {}
    site.github.change_runner(record["id"], labels=["only-six"])
    job = site.job(f"while [ ! -e {go} ]; do sleep 0.1; done; rm {go}; echo survived", labels=["only-six"])
    site.github.wait_job(job, status="in_progress")
    outcome = _tags(site, 8)
    assert "still in use by a job of slot gpu6" in outcome.output
    assert set(_records(site)) == {"gpu0", "gpu6"}
    site.shell(f"touch {go}")
    result, log = site.result(job)
    assert result == "success", log
    _tags(site, 8)
    assert _records(site) == {"gpu0": "online"}
    assert site.custom_labels("gpu0") == {"gpu", "mine", "gpu-count-8", *DERIVED}
    assert site.shell("ls /var/lib/runnerctl/slots").split() == ["gpu0.json"]


def test_the_host_applies_a_change_of_its_hardware_itself(site: Site) -> None:
    """Cards that were taken out: two slots become one, with the credential only, and no ghost stays."""
    _tags(site, 4)
    assert set(_records(site)) == {"gpu0", "gpu1"}
    site.host.put(gpu.SCENARIO_IN_HOST, EIGHT.replace("count 8", "count 4"))
    refused = site.host.exec("sh", "-c", f"{CLI} slots apply 2>&1; echo code=$?").stdout
    assert "code=77" in refused, refused
    assert len(_host_json(site)["layout"]["slots"]) == 2, "changed without a credential"
    environment = f"GH_TOKEN={site.world.token}"
    done = site.shell(f"{environment} {CLI} slots apply -o json")
    assert "removal" in done or "removed" in done
    assert set(_records(site)) == {"gpu0"}
    assert "nothing to do" in site.shell(f"{environment} {CLI} slots apply")
    site.host.put(gpu.SCENARIO_IN_HOST, EIGHT)
    site.shell(f"{environment} {CLI} slots apply")
    assert _records(site) == {"gpu0": "online", "gpu1": "online"}
