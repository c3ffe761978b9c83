"""The driver is loaded where that is safe, slots run dry before a reboot, and NVML proves the rest."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import (
    driver_kernels,
    driver_load,
    driver_prove,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_files import PERSISTENCE_UNIT
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_install import prepare_reboot
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_kernels import kernels
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_load import bring_module
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_prove import judge, prove
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_work import Work
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import UnitState

from tests.component.driver_support import KERNEL, NAMES, Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says which kernel runs."""

    def say(release: str) -> None:
        monkeypatch.setattr(driver_load, "running_kernel", lambda: release)
        monkeypatch.setattr(driver_kernels, "running_kernel", lambda: release)

    return say


# -- loading -----------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(machine: Machine, running: Callable[[str], None]) -> Machine:
    """A GPU on the bus, and a module of 535.2 for the kernel that runs."""
    running(KERNEL)
    machine.kernel(KERNEL, module=True)
    machine.put("/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    machine.put("/sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    machine.program("modinfo", "echo 535.2")
    machine.program("modprobe", f'[ "$1" = -r ] && rm -rf {machine.root}/sys/module/nvidia; exit 0')
    machine.program("nvidia-modprobe")
    return machine


def _bring(machine: Machine, *, check: bool = False) -> Work:
    work = machine.work(check=check)
    bring_module(work, kernels(work, NAMES))
    return work


def test_an_idle_driver_is_replaced_without_a_reboot(gpu: Machine) -> None:
    gpu.put("/sys/module/nvidia/version", "535.1\n")
    gpu.system.states = {PERSISTENCE_UNIT: UnitState("active", "enabled", "loaded")}
    assert _bring(gpu, check=True).actions == ["driver 535.2 loaded"]
    assert gpu.system.calls == []
    work = _bring(gpu)
    assert work.actions == ["driver 535.2 loaded"]
    assert work.reboot == []
    assert gpu.system.calls == [f"stop {PERSISTENCE_UNIT}", f"start {PERSISTENCE_UNIT}"]
    assert [call for call in gpu.calls() if call.startswith("modprobe")] == [
        "modprobe -r nvidia",
        "modprobe nvidia",
        "modprobe nvidia-uvm",
    ]


def test_the_right_driver_is_left_alone(gpu: Machine) -> None:
    gpu.put("/sys/module/nvidia/version", "535.2\n")
    work = _bring(gpu)
    assert (work.actions, work.reboot) == ([], [])
    assert not [call for call in gpu.calls() if call.startswith("modprobe")]


def test_a_driver_in_use_waits_for_a_reboot(gpu: Machine) -> None:
    """A process with a device open, or a slot with a job; the driver's own daemons do not count."""
    gpu.put("/sys/module/nvidia/version", "535.1\n")
    for pid, comm in ((7, "python"), (8, "nvidia-persiste")):
        gpu.put(f"/proc/{pid}/comm", f"{comm}\n")
        (gpu.root / f"proc/{pid}/fd").mkdir()
        (gpu.root / f"proc/{pid}/fd/3").symlink_to("/dev/nvidia0")
    work = _bring(gpu)
    assert work.reboot == ["driver 535.1 is in use by python (7), 535.2 is installed"]
    (gpu.root / "proc/7/fd/3").unlink()
    gpu.put("/var/lib/runnerctl/slots/a.json", "{}")
    gpu.system.working = {"gha-runner@a.service"}
    assert _bring(gpu).reboot == ["driver 535.1 is in use by slot a, 535.2 is installed"]
    assert not [call for call in gpu.calls() if call.startswith("modprobe")]


def test_a_reboot_is_asked_for_only_where_it_helps(gpu: Machine, running: Callable[[str], None]) -> None:
    """The kernel that boots next must have the module."""
    running("6.1.0-48-amd64")
    gpu.kernel("6.1.0-48-amd64")
    assert _bring(gpu).reboot == [
        f"the running kernel 6.1.0-48-amd64 has no driver module, the next one, {KERNEL}, has"
    ]
    gpu.kernel("6.1.0-51-amd64")
    work = _bring(gpu)
    assert work.reboot == []
    assert work.notes == [f"the running kernel 6.1.0-48-amd64 has no driver module ({KERNEL} has one)"]


def test_without_a_gpu_nothing_is_loaded(gpu: Machine) -> None:
    gpu.put("/sys/bus/pci/devices/0000:01:00.0/class", "0x068000\n")
    work = _bring(gpu)
    assert (work.actions, work.reboot) == ([], [])
    assert "no NVIDIA GPU is on the PCI bus" in work.notes[0]


def test_modprobe_that_fails_says_why(gpu: Machine) -> None:
    gpu.program(
        "modprobe", 'echo "modprobe: ERROR: could not insert: Key was rejected by service" >&2; exit 1'
    )
    work = _bring(gpu)
    assert work.notes == [
        "modprobe nvidia failed: modprobe: ERROR: could not insert: Key was rejected by service"
    ]
    assert work.actions == [], "a failure is no change"


def test_a_loaded_driver_whose_file_says_nothing_is_left_alone(gpu: Machine) -> None:
    """Without modinfo there is nothing to compare: a working driver is not reloaded at each run."""
    gpu.put("/sys/module/nvidia/version", "535.1\n")
    gpu.program("modinfo", "exit 1")
    work = _bring(gpu)
    assert (work.actions, work.reboot) == ([], [])


# -- reboot and proof --------------------------------------------------------------------------------------


def test_slots_run_dry_before_a_reboot(machine: Machine) -> None:
    """A listener that is idle is stopped; one that works is waited for, in vain: then nothing is held."""
    for slot in "ab":
        machine.put(f"/var/lib/runnerctl/slots/{slot}.json", "{}")
        machine.system.states[f"gha-runner@{slot}.service"] = UnitState("active", "enabled", "loaded")
    machine.system.working = {"gha-runner@b.service"}
    begin = time.monotonic()
    assert prepare_reboot(machine.work(), seconds=0.3) == {"ready": False, "busy": ["b"]}
    assert time.monotonic() - begin < 3
    assert "stop gha-runner@a.service" in machine.system.calls
    assert machine.system.calls[-1] == "start gha-runner@a.service"
    assert not [call for call in machine.system.calls if "gha-runner@b" in call]
    machine.system.working = set()
    machine.system.calls.clear()
    assert prepare_reboot(machine.work(check=True), seconds=60) == {"ready": True, "busy": []}
    assert machine.system.calls == []
    assert prepare_reboot(machine.work(), seconds=60) == {"ready": True, "busy": []}
    assert machine.system.calls == ["stop gha-runner@a.service", "stop gha-runner@b.service"]


def test_a_slot_that_cannot_be_stopped_holds_no_other(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stopped before is started again: there will be no reboot."""
    for slot in "ab":
        machine.put(f"/var/lib/runnerctl/slots/{slot}.json", "{}")
        machine.system.states[f"gha-runner@{slot}.service"] = UnitState("active", "enabled", "loaded")
    obeyed = machine.system.systemctl

    def systemctl(*words: str, seconds: float = 60.0) -> None:
        obeyed(*words, seconds=seconds)
        if words == ("stop", "gha-runner@b.service"):
            raise HostError("did not end within 60 s")

    monkeypatch.setattr(machine.system, "systemctl", systemctl)
    with pytest.raises(HostError, match="did not end"):
        prepare_reboot(machine.work(), seconds=60)
    assert machine.system.calls[-2:] == ["start gha-runner@a.service", "start gha-runner@b.service"]


@pytest.mark.parametrize(
    ("answer", "expected", "loaded", "problem"),
    [
        ({"version": "580.1", "count": 8, "opened": 8}, 8, True, ""),
        ({"version": "580.1", "count": 8, "opened": 8}, None, True, ""),
        ({"version": "580.1", "count": 8, "opened": 7}, 8, True, "7 of 8 GPUs answer"),
        ({"version": "580.1", "count": 7, "opened": 7}, 8, True, "7 of 8 GPUs answer"),
        ({"version": "580.1", "count": 2, "opened": 2}, 1, True, "2 GPUs answer, 1 are expected"),
        ({"code": 12, "stage": "x"}, 1, False, "the driver's library is missing"),
        ({"code": 9, "stage": "nvmlInit_v2"}, 1, False, "the driver is not loaded"),
        ({"code": 18, "stage": "x"}, 1, False, "driver library and loaded kernel module differ"),
        ({"code": 77, "stage": "nvmlInit_v2"}, 1, False, "NVML fails: nvmlInit_v2 answers 77"),
    ],
)
def test_what_an_answer_of_nvml_means(
    answer: dict[str, Any], expected: int | None, loaded: bool, problem: str
) -> None:
    proof = judge(answer, expected)
    assert (proof.loaded, proof.problem) == (loaded, problem)
    assert bool(proof.remedy) == bool(problem)


def test_nvml_that_hangs_or_crashes_is_named_in_time() -> None:
    def hang(announce: Callable[[str], None]) -> dict[str, Any]:
        announce("nvmlDeviceGetHandleByIndex_v2 of GPU 3")
        time.sleep(60)
        return {}

    def crash(announce: Callable[[str], None]) -> dict[str, Any]:
        announce("nvmlInit_v2")
        faulthandler.disable()  # pytest's; it would print the tests' own stack
        os.kill(os.getpid(), signal.SIGABRT)
        return {}

    begin = time.monotonic()
    proof = prove(8, seconds=0.5, ask=hang)
    assert time.monotonic() - begin < 2
    assert "nvmlDeviceGetHandleByIndex_v2 of GPU 3 did not return within" in proof.problem
    assert prove(8, seconds=5, ask=crash).problem == "NVML crashes in nvmlInit_v2 (status 6)"


def test_a_child_left_behind_holds_no_connection_open() -> None:
    """Nothing that NVML's child has open is this process's input or output."""

    def look(announce: Callable[[str], None]) -> dict[str, Any]:
        announce("looking")
        return {"version": " ".join(os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2))}

    assert prove(0, seconds=5, ask=look).driver_version == "/dev/null /dev/null /dev/null"


def test_check_mode_starts_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting NVML as root loads the driver: the library is opened, no call is made."""
    monkeypatch.setattr(driver_prove, "LIBRARY", None)  # this process itself, which has no call of NVML's
    assert prove(None, seconds=5, may_load=False).problem == "the driver is not loaded"
    assert prove(None, seconds=5).problem.startswith("NVML crashes in nvmlInit_v2")
    monkeypatch.setattr(driver_prove, "LIBRARY", "libnowhere.so.1")
    assert prove(None, seconds=5, may_load=False).problem == "the driver's library is missing"
