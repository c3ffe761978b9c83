"""The meter against the NVML of a scenario: what it adds up, and what becomes of it when NVML fails it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runnerctl.guard.meter import GpuMeter
from runnerctl.probes import stuck
from tests.fakes.nvml import build, environment

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

GPU, OTHER = (f"GPU-00000000-0000-4000-8000-{number:012d}" for number in range(2))
MIG = "MIG-00000000-0000-4000-0000-000000000000"
SCENARIO = """
count 2
gpu.*.name NVIDIA H100 80GB HBM3
gpu.*.memory_total 80000000000
gpu.*.memory_used 3000000000
gpu.*.power 500000
gpu.*.samples 100 100 100 50
gpu.*.temp 66
gpu.*.clock_reasons 0x40
gpu.*.field.230 0
"""
Meters = Callable[..., GpuMeter]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def meters(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meters]:
    """Meters of a host with that scenario; they are closed at the end."""
    made: list[GpuMeter] = []

    def new(more: str = "", hang_seconds: float = 10.0) -> GpuMeter:
        (tmp_path / "scenario").write_text(f"{SCENARIO}{more}\n")
        for name, value in environment(library, tmp_path / "scenario").items():
            monkeypatch.setenv(name, value)
        made.append(GpuMeter(hang_seconds=hang_seconds, markers=tmp_path))
        return made[-1]

    yield new
    for each in made:
        each.close()


def until(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    """Wait for it, a bounded time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def ready(meter: GpuMeter, *gpus: str) -> None:
    """Until the child answers: it takes a moment to start."""
    until(lambda: all(each.verdict != "unknown" for each in meter.look(gpus or (GPU,)).values()))


def trouble_of(meter: GpuMeter) -> str:
    """What the guard's next look after it finds."""
    meter.tend()
    return meter.trouble


def test_a_job_is_added_up(meters: Meters) -> None:
    """Two GPUs, each with its own sums; the last sample is taken when the job ends."""
    meter = meters()
    ready(meter, GPU, OTHER)
    meter.start("main", (GPU, OTHER))
    time.sleep(0.6)
    first, second = meter.stop("main")
    assert (first.uuid, second.uuid) == (GPU, OTHER)
    assert (first.name, first.memory_total_bytes) == ("NVIDIA H100 80GB HBM3", 80_000_000_000)
    assert first.memory_peak_bytes == 3_000_000_000
    assert first.utilization_peak_percent == 100
    assert first.measured_seconds is not None
    assert 0.5 < first.measured_seconds <= first.seconds < 2
    assert first.busy_seconds is not None
    assert 0.5 <= first.busy_seconds / first.measured_seconds <= 1.0
    assert first.energy_joules is not None
    assert first.energy_joules == pytest.approx(500 * first.measured_seconds, rel=0.2)
    assert (first.temperature_peak_celsius, first.throttled) == (66, ("heat (hardware)",))
    assert (first.ecc_corrected, first.ecc_uncorrected) == (0, 0)
    assert meter.read("main") == ()


def test_a_mig_device_has_its_own_memory_and_no_utilisation(meters: Meters) -> None:
    """What NVML does not tell of a MIG device is not measured: its GPU's would be the neighbours', too."""
    meter = meters("gpu.0.mig 1\ngpu.0.mig_devices 1\ngpu.0.mig.0.memory_used 7\ngpu.0.mig.0.memory_total 9")
    ready(meter, MIG)
    meter.start("main", (MIG,))
    until(lambda: meter.read("main")[0].memory_peak_bytes is not None)
    (use,) = meter.stop("main")
    assert (use.memory_peak_bytes, use.memory_total_bytes, use.temperature_peak_celsius) == (7, 9, 66)
    assert (use.busy_seconds, use.utilization_peak_percent, use.energy_joules) == (None, None, None)


@pytest.mark.exhaustive
def test_older_drivers(meters: Meters) -> None:
    """Without the driver's buffer the rate of the moment counts; without its counter the power."""
    meter = meters(
        "gpu.*.utilization 30\nfault nvmlDeviceGetSamples return 3\n"
        "fault nvmlDeviceGetTotalEnergyConsumption return 3"
    )
    ready(meter)
    meter.start("main", (GPU,))
    time.sleep(0.3)
    (use,) = meter.stop("main")
    assert (use.utilization_mean_percent, use.utilization_peak_percent) == (30.0, 30)
    assert use.energy_joules
    assert use.measured_seconds
    assert use.energy_joules == pytest.approx(500 * use.measured_seconds, rel=0.05)


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("gpu.1.field.230 1", "asks for a reset"),
        ("fault nvmlDeviceGetHandleByUUID return 15", "the GPU is lost"),
        ("gpu.1.ecc_unc_volatile 2", "uncorrectable ECC errors since the driver was loaded: 2"),
        ("gpu.1.remap_failure 1", "could not be remapped"),
        ("fault nvmlInitWithFlags return 18", "of different versions"),
    ],
)
def test_a_sick_gpu_is_seen_at_once(meters: Meters, scenario: str, reason: str) -> None:
    """In milliseconds, with the reason."""
    meter = meters(scenario)
    ready(meter, OTHER)
    until(lambda: meter.look((OTHER,))[OTHER].verdict == "sick")
    until(lambda: reason in meter.look((OTHER,))[OTHER].reason)


def test_a_look_at_healthy_gpus_is_quick(meters: Meters) -> None:
    """A job waits for it."""
    meter = meters()
    ready(meter, GPU, OTHER)
    best = 1.0
    for _ in range(10):
        began = time.monotonic()
        looks = meter.look((GPU, OTHER), seconds=1.0)
        best = min(best, time.monotonic() - began)
        assert {each.verdict for each in looks.values()} == {"healthy"}
    assert best < 0.05


@pytest.mark.exhaustive
def test_a_hang_costs_the_neighbours_nothing_but_a_moment(meters: Meters) -> None:
    """The child is replaced; the GPU it hung at is left out, and said to be sick; nothing becomes a zero."""
    meter = meters("fault nvmlDeviceGetMemoryInfo_v2@1 hang", hang_seconds=0.4)
    ready(meter)
    meter.start("good", (GPU,))
    meter.start("bad", (OTHER,))
    began = time.monotonic()
    assert meter.look((OTHER,))[OTHER].verdict == "unknown"
    assert time.monotonic() - began < 0.5
    until(lambda: "did not return" in trouble_of(meter))
    assert "nvmlDeviceGetMemoryInfo" in meter.look((OTHER,))[OTHER].reason
    until(lambda: bool(meter.read("good")[0].busy_seconds), 12)
    (bad,) = meter.stop("bad")
    assert (bad.busy_seconds, bad.memory_peak_bytes, bad.measured_seconds) == (None, None, None)


@pytest.mark.exhaustive
def test_a_crash_loses_nothing_that_was_seen(meters: Meters) -> None:
    """What the child had added up outlives it, and another one goes on."""
    meter = meters()
    ready(meter)
    meter.start("main", (GPU,))
    until(lambda: bool(meter.read("main")[0].measured_seconds))
    child = meter._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: child.ended() is not None)
    kept = meter.read("main")[0]
    assert kept.measured_seconds
    assert "signal 9" in meter.trouble
    until(lambda: (meter.read("main")[0].measured_seconds or 0) > (kept.measured_seconds or 0))
    assert meter.trouble == ""


def test_gpus_are_held_for_running_jobs_only(meters: Meters) -> None:
    """A reset of an idle GPU must find no client: NVML is shut down when its job has ended."""
    meter = meters("fault nvmlShutdown abort")
    ready(meter)
    meter.start("main", (GPU,))
    until(lambda: meter.read("main")[0].memory_peak_bytes is not None)
    child = meter._child
    assert child is not None
    meter.stop("main")
    until(lambda: child.ended() is not None, 2)


def test_a_driver_that_comes_back_is_seen_at_once(meters: Meters, tmp_path: Path) -> None:
    """What was so a moment ago is no verdict on a GPU: each look asks anew."""
    meter = meters("fault nvmlInitWithFlags return 9")
    until(lambda: "driver is not loaded" in meter.look((GPU,))[GPU].reason)
    (tmp_path / "scenario").write_text(SCENARIO)
    until(lambda: meter.look((GPU,))[GPU].verdict == "healthy", 2)


def test_a_gpu_that_was_put_in_meanwhile_is_no_sick_one(meters: Meters, tmp_path: Path) -> None:
    """NVML lists what was there when it was loaded; one that is nowhere is still named as such."""
    new = "GPU-0c2d9a51-7b44-4f0e-8a6d-2f3b5c7d9e11"
    meter = meters()
    until(lambda: meter.look((GPU,))[GPU].verdict == "healthy", 2)
    (tmp_path / "scenario").write_text(f"{SCENARIO}\ngpu.0.uuid {new}\n")
    assert meter.look((new,))[new].verdict == "unknown"
    until(lambda: meter.look((new,))[new].verdict == "healthy", 2)
    until(lambda: meter.look((GPU,))[GPU].verdict == "sick", 4)


def test_no_second_child_joins_one_that_cannot_be_killed(meters: Meters, tmp_path: Path) -> None:
    """It sleeps in the kernel, from an earlier guard's time: written down, and waited for."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        stuck.Guard(tmp_path).record("meter", sleeper.pid, call="nvmlInit")
        meter = meters()
        try:
            look = meter.look((GPU,))[GPU]
        finally:
            sleeper.kill()
        assert look.verdict == "unknown"
        assert f"process {sleeper.pid} has been stuck in nvmlInit" in look.reason
    ready(meter)


def test_without_a_driver_it_is_said(tmp_path: Path) -> None:
    """No library at all: neither a zero nor an exception, and no new process every second."""
    meter = GpuMeter(markers=tmp_path)
    meter.start("main", (GPU,))
    until(lambda: bool(trouble_of(meter)))
    (use,) = meter.stop("main")
    assert (use.memory_peak_bytes, use.busy_seconds, use.measured_seconds) == (None, None, None)
    until(lambda: "library" in meter.look((GPU,))[GPU].reason)
    meter.close()
