"""Health of a host whose NVML is the stand-in, found by LD_LIBRARY_PATH as any library may be."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from runnerctl.core.findings import Finding
from runnerctl.core.health import Health, decode
from tests.fakes.nvml import build, environment

DEADLINE_SECONDS = 1.0
PROGRAM = """
import sys
from pathlib import Path
from runnerctl.core.health import encode, judge
from runnerctl.probes.collect import collect
taken = collect(Path(sys.argv[1]), deadline_seconds=float(sys.argv[2]), api_urls=())
sys.stdout.buffer.write(encode(judge(taken)))
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once."""
    return build(tmp_path_factory.mktemp("nvml"))


@dataclass(frozen=True)
class Bench:
    """A host in a directory, and NVML's scenario beside it."""

    library: Path
    folder: Path

    @property
    def root(self) -> Path:
        """The host's root."""
        return self.folder / "root"

    def put_gpus_on_the_bus(self) -> None:
        """Two GPUs; each gives NVML four seconds more until its deadline."""
        for address in ("0000:01:00.0", "0000:02:00.0"):
            device = self.root / "sys/bus/pci/devices" / address
            device.mkdir(parents=True)
            (device / "vendor").write_text("0x10de\n")
            (device / "class").write_text("0x030200\n")

    def load_module(self, version: str) -> None:
        """The kernel module, as /sys shows it."""
        module = self.root / "sys/module/nvidia"
        module.mkdir(parents=True)
        (module / "version").write_text(f"{version}\n")

    def judge(self, scenario: str) -> Health:
        """The verdict, taken in a process of its own: the binding keeps what it has loaded."""
        file = self.folder / "scenario"
        file.write_text(f"count 2\n{scenario}\n")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(self.root), str(DEADLINE_SECONDS)],
            env=environment(self.library, file),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return decode(done.stdout)


@pytest.fixture
def bench(library: Path, tmp_path: Path) -> Bench:
    """A host without anything."""
    (tmp_path / "root").mkdir()
    return Bench(library, tmp_path)


def _one(health: Health, check: str, subject: str = "host") -> Finding:
    (found,) = [each for each in health.findings if (each.id, each.subject) == (check, subject)]
    return found


def test_two_healthy_gpus(bench: Bench) -> None:
    """Versions, count and each GPU."""
    bench.put_gpus_on_the_bus()
    bench.load_module("575.57.08")
    health = bench.judge("gpu.1.temp 77")
    assert _one(health, "driver.nvml").data == {"driver_version": "575.57.08", "count": 2}
    assert "77 °C" in _one(health, "gpu.answers", "GPU 1").summary
    of_gpus = [each for each in health.findings if each.id.startswith(("driver", "gpu"))]
    assert {each.status for each in of_gpus} == {"OK"}
    assert {each.id for each in of_gpus} >= {"driver.nvml", "driver.mismatch", "gpu.count", "gpu.answers"}


def test_nvml_in_a_container_is_a_note(bench: Bench) -> None:
    """NVML answers, and there is neither a module nor a bus to be seen."""
    found = _one(bench.judge(""), "driver.nvml")
    assert found.status == "OK"
    assert "a container" in found.summary


def test_what_a_gpu_does_not_support_is_no_fault(bench: Bench) -> None:
    """A workstation's GPU has no ECC; an old driver lacks whole functions."""
    health = bench.judge("gpu.*.ecc !3\ngpu.*.power !3\nfault nvmlDeviceGetTemperatureV return 13")
    assert _one(health, "gpu.answers", "GPU 0").status == "OK"
    assert "41 °C" in _one(health, "gpu.answers", "GPU 0").summary


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        (9, "driver_not_loaded", "CRITICAL"),
        (4, "no_permission", "CRITICAL" if os.geteuid() == 0 else "UNKNOWN"),
        (11, "irq", "CRITICAL"),
        (14, "corrupted_inforom", "CRITICAL"),
        (15, "gpu_lost", "CRITICAL"),
        (16, "reset_required", "CRITICAL"),
        (17, "no_permission", "CRITICAL" if os.geteuid() == 0 else "UNKNOWN"),
        (10, "unknown", "CRITICAL"),
        (999, "unknown", "CRITICAL"),
    ],
)
def test_what_init_returns_is_told_apart(bench: Bench, code: int, kind: str, status: str) -> None:
    """Each has another remedy, and is the only finding about driver and GPUs."""
    bench.put_gpus_on_the_bus()
    bench.load_module("570.86.15")
    health = bench.judge(f"fault nvmlInitWithFlags return {code}")
    found = _one(health, "driver.nvml")
    assert (found.status, found.data["kind"]) == (status, kind)
    assert not [each for each in health.findings if each.id.startswith("gpu.")]


def test_a_mismatch_names_the_loaded_version(bench: Bench) -> None:
    """The check of that name says what is loaded and what to do."""
    bench.load_module("570.86.15")
    health = bench.judge("fault nvmlInitWithFlags return 18")
    found = _one(health, "driver.mismatch")
    assert not [each for each in health.findings if each.id == "driver.nvml"]
    assert found.status == "CRITICAL"
    assert "570.86.15" in found.summary
    assert "reboot" in found.remedy


@pytest.mark.parametrize(("code", "kind"), [(15, "gpu_lost"), (16, "reset_required"), (999, "unknown")])
@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo_v2"])
def test_one_sick_gpu_does_not_hide_the_other(bench: Bench, code: int, kind: str, call: str) -> None:
    """Lost at the handle or later: the verdict names the call and the GPU."""
    health = bench.judge(f"fault {call}@1 return {code}")
    sick = _one(health, "gpu.answers", "GPU 1")
    assert (sick.status, sick.data["kind"]) == ("CRITICAL", kind)
    assert sick.data["call"] == call.removesuffix("_v2")
    assert _one(health, "gpu.answers", "GPU 0").status == "OK"
    assert _one(health, "driver.nvml").status == "OK"


def test_a_view_limited_to_some_gpus_is_no_alarm(bench: Bench) -> None:
    """Inside a slot's device rules the other GPUs are listed and cannot be opened."""
    bench.put_gpus_on_the_bus()
    bench.load_module("575.57.08")
    health = bench.judge("fault nvmlDeviceGetHandleByIndex_v2@0 return 4")
    assert "not given to this process" in _one(health, "gpu.answers", "GPU 0").summary
    of_gpus = [each for each in health.findings if each.id in ("driver.nvml", "gpu.count", "gpu.answers")]
    assert {each.status for each in of_gpus} == {"OK"}


@pytest.mark.exhaustive
def test_a_gpu_that_nvml_does_not_show_is_named(bench: Bench) -> None:
    """By its place on the bus, and with what became of it."""
    bench.put_gpus_on_the_bus()
    found = _one(bench.judge("count 1"), "gpu.count")
    assert found.status == "WARNING"
    assert "not 0000:02:00.0 (no driver is bound to it)" in found.summary


def test_a_hang_at_init_is_named_within_the_deadline(bench: Bench) -> None:
    """The peers hang along with it."""
    started = time.monotonic()
    found = _one(bench.judge("fault nvmlInitWithFlags hang"), "driver.nvml")
    assert time.monotonic() - started < DEADLINE_SECONDS + 3
    assert found.status == "CRITICAL"
    assert found.data["kind"] == "hang"
    assert "nvmlInit did not return" in found.summary


def test_a_hang_in_a_getter_names_call_and_gpu(bench: Bench) -> None:
    """GPU 0 was read before it; what comes after is read all the same, in the time that is left."""
    health = bench.judge("count 3\nfault nvmlDeviceGetTemperatureV@1 hang")
    found = _one(health, "gpu.answers", "GPU 1")
    assert found.status == "CRITICAL"
    assert "nvmlDeviceGetTemperatureV on GPU 1 did not return" in found.summary
    assert _one(health, "gpu.answers", "GPU 0").status == "OK"
    assert _one(health, "gpu.answers", "GPU 2").status == "OK"


def test_an_abort_is_survived_and_named(bench: Bench) -> None:
    """The library takes a child with it, not the verdict."""
    health = bench.judge("fault nvmlDeviceGetName@1 abort")
    found = _one(health, "gpu.answers", "GPU 1")
    assert found.data["kind"] == "crash"
    assert "nvmlDeviceGetName on GPU 1 ended the process (SIGABRT)" in found.summary


@pytest.mark.exhaustive
def test_a_slow_driver_is_waited_for(bench: Bench) -> None:
    """Slow is not hung."""
    assert _one(bench.judge("fault * sleep 2"), "gpu.answers", "GPU 1").status == "OK"


def test_mig_devices_are_listed(library: Path, tmp_path: Path) -> None:
    """A slot may claim a slice by its UUID."""
    scenario = tmp_path / "scenario"
    scenario.write_text("gpu.0.mig 1\ngpu.0.mig_pending 1\ngpu.0.mig_devices 2\n")
    program = (
        "from runnerctl.probes.bounded import Task, run_all; from runnerctl.probes import nvml;"
        "print(*nvml.parse(run_all({'n': Task(nvml.read, 5)})['n']).gpus[0].mig_uuids)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(library, scenario),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(set(done.stdout.split())) == 2
    assert done.stdout.startswith("MIG-")


def test_a_scenario_that_cannot_be_understood_aborts(library: Path, tmp_path: Path) -> None:
    """A slip in a test's scenario must not pass as a healthy GPU."""
    scenario = tmp_path / "scenario"
    scenario.write_text("fault nvmlInitWithFlags explode\n")
    done = subprocess.run(
        [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"],
        env=environment(library, scenario),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -6
    assert "line 1 cannot be understood" in done.stderr
