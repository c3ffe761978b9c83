"""What the NVML probe reads, and what it makes of libraries that are not what they should be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from runnerctl.core.snapshot import Nvml, Unavailable
from tests.component.nvml_support import EVERYTHING, read
from tests.fakes.nvml import SONAME, build

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

MIB = 2**20
ONCE = """
import msgspec
from runnerctl.probes import nvml
from runnerctl.probes.bounded import run_all
print(msgspec.json.encode(nvml.parse(run_all({"nvml": nvml.task(20)})["nvml"])).decode())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.mark.exhaustive
def test_a_gpu_that_has_everything(library: Path, tmp_path: Path) -> None:
    """Each group of readings arrives where it belongs."""
    gpu = read(library, tmp_path, EVERYTHING).gpus[0]
    assert gpu.failure is None
    assert (gpu.serial, gpu.vbios, gpu.inforom) == ("1320000000000", "95.04.29.00.06", "G193.0200.00.01")
    assert (gpu.architecture, gpu.compute_capability, gpu.minor) == (8, "8.9", 0)
    assert (gpu.gsp, gpu.gsp_version, gpu.inforom_valid) == (True, "575.57.08", True)
    assert (gpu.memory_temperature_celsius, gpu.temperature_margin_celsius) == (55, 30)
    assert (gpu.temperature_slowdown_celsius, gpu.memory_temperature_max_celsius) == (92, None)
    assert (gpu.power_min_watts, gpu.power_limit_watts, gpu.power_max_watts) == (40, 72, 72)
    assert (gpu.recovery_action, gpu.clock_reasons, gpu.persistence) == (0, 8, True)
    assert gpu.ecc_counts is not None
    assert gpu.ecc_counts.sram_threshold_exceeded is False
    assert gpu.remapped_rows is not None
    assert gpu.retired_pages is None
    assert [link.active for link in gpu.nvlinks or ()] == [True, True]
    assert gpu.fabric is not None
    assert gpu.fabric.state == 3
    assert [(each.pid, each.kind, each.memory_bytes) for each in gpu.processes or ()] == [
        (4711, "compute", 2**30)
    ]
    assert [each.uuid for each in gpu.mig_devices] == list(gpu.mig_uuids)


def test_an_old_gpu_under_an_old_driver(library: Path, tmp_path: Path) -> None:
    """Older calls stand in for newer ones; what neither has is None."""
    gpu = read(library, tmp_path, EVERYTHING).gpus[1]
    assert gpu.failure is None
    assert (gpu.temperature_celsius, gpu.clock_reasons, gpu.memory_used_bytes) == (41, 8, 0)
    assert gpu.remapped_rows is None
    assert gpu.retired_pages is not None
    assert (gpu.retired_pages.single_bit, gpu.retired_pages.double_bit) == (2, 1)
    assert (gpu.fabric, gpu.mig_current, gpu.temperature_margin_celsius) == (None, None, None)


def test_memory_in_use_is_without_what_the_driver_reserves(library: Path, tmp_path: Path) -> None:
    """A GPU without a process would otherwise never be empty."""
    scenario = f"gpu.*.memory_used {5 * MIB}\ngpu.*.memory_reserved {400 * MIB}"
    assert read(library, tmp_path, scenario).gpus[0].memory_used_bytes == 5 * MIB


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ("", None),
        ("gpu.0.field.230 2", 2),
        ("gpu.0.field.226 0\ngpu.0.field.227 0", 0),
        ("gpu.0.field.226 1", 1),
        ("gpu.0.field.226 1\ngpu.0.field.227 1", 4),
        ("gpu.0.field.230 0\ngpu.0.field.226 1", 0),
    ],
)
def test_the_recovery_action(library: Path, tmp_path: Path, fields: str, action: int | None) -> None:
    """Field 230, or what drivers had before it."""
    gpu = read(library, tmp_path, fields).gpus[0]
    assert (gpu.recovery_action, gpu.failure) == (action, None)


def test_a_field_has_a_return_value_of_its_own(library: Path, tmp_path: Path) -> None:
    """One that is lost is a failure, though the call as a whole went well; what was read is kept."""
    gpu = read(library, tmp_path, "gpu.0.field.230 !999\ngpu.0.field.82 60").gpus[0]
    assert gpu.failure is not None
    assert (gpu.failure.kind, gpu.failure.code) == ("unknown", 999)
    assert "field 230" in gpu.failure.call
    assert (gpu.memory_temperature_celsius, gpu.name) == (60, "NVIDIA L4")


def test_a_failing_getter_takes_nothing_else_along(library: Path, tmp_path: Path) -> None:
    """All that can be read is read; the gravest of several failures is told."""
    scenario = "fault nvmlDeviceGetEccMode return 999\nfault nvmlDeviceGetPowerUsage return 16"
    gpu = read(library, tmp_path, scenario).gpus[0]
    assert gpu.failure is not None
    assert (gpu.failure.kind, gpu.failure.call) == ("reset_required", "nvmlDeviceGetPowerUsage")
    assert gpu.processes == ()
    assert gpu.pcie_width == 16


def test_a_reason_to_slow_down_must_last(library: Path, tmp_path: Path) -> None:
    """A peak of a moment is gone in the second look."""
    scenario = "gpu.0.clock_reasons 0x88\nfault nvmlDeviceGetCurrentClocksEventReasons after 1 return 13"
    brief = f"{scenario}\nfault nvmlDeviceGetCurrentClocksThrottleReasons return 3"
    assert read(library, tmp_path, scenario).gpus[0].clock_reasons == 0x88
    assert read(library, tmp_path, brief).gpus[0].clock_reasons is None


@pytest.mark.parametrize(
    ("total", "memory_mib", "slices", "compute", "profile"),
    [
        (85520809984, 9856, 1, 1, "1g.10gb"),  # A100 80 GB
        (42505273344, 4864, 1, 1, "1g.5gb"),  # A100 40 GB
        (42505273344, 20096, 3, 3, "3g.20gb"),
        (42505273344, 20096, 3, 1, "1c.3g.20gb"),
        (150754820096, 16384, 1, 1, "1g.18gb"),  # H200
        (25769803776, 5952, 1, 1, "1g.6gb"),  # A30
    ],
)
def test_the_profile_of_a_mig_device(
    library: Path, tmp_path: Path, total: int, memory_mib: int, slices: int, compute: int, profile: str
) -> None:
    """As NVIDIA's tools name them."""
    scenario = f"""
    gpu.0.mig 1
    gpu.0.mig_pending 1
    gpu.0.mig_devices 1
    gpu.0.memory_total {total}
    gpu.0.mig_memory_mib {memory_mib}
    gpu.0.mig.0.slices {slices}
    gpu.0.mig.0.compute_slices {compute}
    """
    (device,) = read(library, tmp_path, scenario).gpus[0].mig_devices
    assert (device.profile, device.memory_bytes) == (profile, memory_mib * MIB)


def test_the_driver_may_name_the_profile(library: Path, tmp_path: Path) -> None:
    """Some differ in more than size."""
    scenario = "gpu.0.mig 1\ngpu.0.mig_pending 1\ngpu.0.mig_devices 1\ngpu.0.mig.0.profile 1g.10gb+me"
    assert read(library, tmp_path, scenario).gpus[0].mig_devices[0].profile == "1g.10gb+me"


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", ["hang", "abort", "sleep 60000"])
def test_one_bad_gpu_does_not_hide_those_behind_it(library: Path, tmp_path: Path, fault: str) -> None:
    """Nor do two: whichever follow are read in the time that is left, and what was read before stays."""
    scenario = f"count 5\nfault nvmlDeviceGetPowerUsage@1 {fault}\nfault nvmlDeviceGetSerial@3 {fault}"
    found = read(library, tmp_path, scenario, deadline_seconds=5)
    kinds = [gpu.failure.kind if gpu.failure else None for gpu in found.gpus]
    bad = "crash" if fault == "abort" else "hang"
    assert kinds == [None, bad, None, bad, None]
    assert found.gpus[1].failure is not None
    assert found.gpus[1].failure.call == "nvmlDeviceGetPowerUsage"
    assert found.gpus[1].uuid is not None
    assert found.gpus[1].memory_total_bytes is not None


@pytest.mark.exhaustive
def test_a_driver_that_is_only_slow_is_not_called_hung(library: Path, tmp_path: Path) -> None:
    """Every call returns, and there was not time enough for all of them."""
    found = read(library, tmp_path, "count 2\nfault * sleep 50", deadline_seconds=1)
    kinds = {gpu.failure.kind for gpu in found.gpus if gpu.failure}
    assert kinds <= {"slow", "not_reached"}
    assert found.gpus[1].failure is not None
    assert "deadline of 1.0 s" in found.gpus[1].failure.message


def _once(**environ: str) -> Nvml:
    """What the probe finds in an environment."""
    clean = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", ONCE],
        env={**clean, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = msgspec.json.decode(done.stdout, type=Nvml | Unavailable)
    assert isinstance(found, Nvml), found
    return found


def test_a_library_that_is_damaged_is_not_missing(tmp_path: Path) -> None:
    """Half an upgrade leaves such a file."""
    (tmp_path / SONAME).write_bytes(b"not a library")
    failure = _once(LD_LIBRARY_PATH=str(tmp_path)).failure
    assert failure is not None
    assert (failure.kind, failure.code) == ("library_broken", 12)
    assert "libnvidia-ml.so.1 cannot be loaded" in failure.message


def test_a_library_without_the_first_call(tmp_path: Path) -> None:
    """It loads, and is not NVML."""
    compiler = shutil.which("gcc")
    assert compiler, "apt-get install gcc"
    (tmp_path / "empty.c").write_text("int nothing;\n")
    target = str(tmp_path / SONAME)
    build_it = [
        compiler,
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{SONAME}",
        "-o",
        target,
        str(tmp_path / "empty.c"),
    ]
    subprocess.run(build_it, check=True, timeout=60)
    failure = _once(LD_LIBRARY_PATH=str(tmp_path)).failure
    assert failure is not None
    assert (failure.kind, failure.code, failure.call) == ("library_broken", 13, "nvmlInit")
    assert "the library has no such function" in failure.message


def test_a_library_that_needs_another_one_is_not_missing(tmp_path: Path) -> None:
    """The linker says "No such file" of the other one."""
    _compile(tmp_path / "libother.so", "int other(void) { return 1; }", "-Wl,-soname,libother.so.9")
    user = "int other(void); int user(void) { return other(); }"
    _compile(tmp_path / SONAME, user, str(tmp_path / "libother.so"))
    failure = _once(LD_LIBRARY_PATH=str(tmp_path)).failure
    assert failure is not None
    assert failure.kind == "library_broken"
    assert "libother.so.9" in failure.message


def _compile(target: Path, source: str, *more: str) -> None:
    file = target.with_suffix(".c")
    file.write_text(source)
    compiler = shutil.which("gcc")
    assert compiler, "apt-get install gcc"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(target), str(file), *more], check=True, timeout=60
    )


@pytest.mark.timeout(60)
def test_a_number_of_gpus_that_cannot_be_is_no_task(library: Path, tmp_path: Path) -> None:
    """Four thousand million GPUs would take for ever."""
    failure = read(library, tmp_path, "count 4294967295").failure
    assert failure is not None
    assert (failure.kind, failure.call) == ("unknown", "nvmlDeviceGetCount")
    assert "4294967295" in failure.message


def test_a_value_of_ones_only_is_not_told(library: Path, tmp_path: Path) -> None:
    """NVML_VALUE_NOT_AVAILABLE in an unsigned number."""
    (gpu,) = read(library, tmp_path, "count 1\ngpu.0.power_default 4294967295\ngpu.0.power_limit 300000").gpus
    assert (gpu.power_default_watts, gpu.power_limit_watts, gpu.failure) == (None, 300.0, None)


@pytest.mark.exhaustive
def test_another_packages_pynvml_is_named(tmp_path: Path) -> None:
    """Several packages bring a module of that name."""
    (tmp_path / "pynvml.py").write_text("def nvmlInit(): pass\n")
    library = build(tmp_path / "library")
    failure = _once(PYTHONPATH=str(tmp_path), LD_LIBRARY_PATH=str(library.parent)).failure
    assert failure is not None
    assert failure.kind == "foreign_binding"
    assert str(tmp_path / "pynvml.py") in failure.message


def test_no_data_is_no_fault(library: Path, tmp_path: Path) -> None:
    """NVML_ERROR_NO_DATA, 21: there is nothing to tell."""
    (gpu,) = read(library, tmp_path, "count 1\nfault nvmlDeviceGetTotalEccErrors return 21").gpus
    assert gpu.failure is None
