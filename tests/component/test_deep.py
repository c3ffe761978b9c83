"""The active probe on a stand-in of CUDA's library: every class of fault, and what the checks make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.core.bandwidths import floors_of
from runnerctl.core.checks.deep import CHECKS
from runnerctl.core.deep_readings import DeepGpu, DeepProbe, Transfers
from runnerctl.core.findings import Finding
from runnerctl.core.gpu_readings import Gpu, GpuProcess, NvmlFailure
from runnerctl.core.health import Health, judge
from runnerctl.core.snapshot import Snapshot, decode
from runnerctl.probes.deep import probe
from runnerctl.probes.deep_kernels import FULL_MASK, PTX, pattern
from runnerctl.probes.stuck import Guard
from tests.fakes import nvml
from tests.fakes.cuda import build, environment

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

HEALTHY = Path(__file__).parents[1] / "unit/cases/healthy.json"
FIRST, SECOND = "GPU-11111111-1111-4111-8111-111111111111", "GPU-22222222-2222-4222-8222-222222222222"
DEADLINE_SECONDS = 1.2
PROGRAM = """
import sys
import msgspec
from runnerctl.core.gpu_readings import Gpu
from runnerctl.probes.deep import Deadlines, probe
gpus = msgspec.json.decode(sys.argv[1], type=list[Gpu])
seconds = float(sys.argv[2])
sys.stdout.buffer.write(msgspec.json.encode(probe(gpus, deadlines=Deadlines(seconds, seconds, seconds))))
"""
TWO = (Gpu(index=0, uuid=FIRST, name="NVIDIA X1"), Gpu(index=1, uuid=SECOND, name="NVIDIA X1"))
ONE = TWO[:1]
L4 = (Gpu(index=0, uuid=FIRST, name="NVIDIA L4"),)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once."""
    return build(tmp_path_factory.mktemp("cuda"))


@dataclass(frozen=True)
class Bench:
    """Where CUDA's scenario is written, and the probe run."""

    library: Path
    folder: Path

    def probe(self, scenario: str, gpus: tuple[Gpu, ...] = TWO) -> DeepProbe:
        """What the probe finds, in a process of its own: a library stays as it was loaded."""
        file = self.folder / "scenario"
        file.write_text(f"count 2\ngpu.0.uuid {FIRST}\ngpu.1.uuid {SECOND}\n{scenario}\n")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, msgspec.json.encode(gpus).decode(), str(DEADLINE_SECONDS)],
            env=environment(self.library, file),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return msgspec.json.decode(done.stdout, type=DeepProbe)

    def judge(self, scenario: str, gpus: tuple[Gpu, ...] = TWO) -> Health:
        """The verdict of the deep checks alone."""
        return _judge(self.probe(scenario, gpus))


@pytest.fixture
def bench(library: Path, tmp_path: Path) -> Bench:
    """A bench of its own for each test."""
    return Bench(library, tmp_path)


def _judge(deep: DeepProbe) -> Health:
    snapshot: Snapshot = decode(HEALTHY.read_bytes())
    return judge(msgspec.structs.replace(snapshot, deep=deep), CHECKS)


def _of(health: Health, check: str, gpu: int) -> Finding:
    found = [each for each in health.findings if (each.id, each.subject) == (check, f"GPU {gpu}")]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.exhaustive
def test_sound_gpus(bench: Bench) -> None:
    """All three parts on both, all four passes, nearly all memory, and a number for each way."""
    deep = bench.probe("")
    assert [gpu.uuid for gpu in deep.gpus] == [FIRST, SECOND]
    for gpu in deep.gpus:
        assert gpu.failure is None and gpu.kernels is True
        assert gpu.memory is not None and gpu.memory.failure is None
        assert (gpu.memory.passes, gpu.memory.mismatches, gpu.memory.complete) == (4, 0, True)
        assert gpu.memory.tested_bytes > 0.85 * gpu.memory.total_bytes
        assert gpu.transfers is not None and gpu.transfers.failure is None
        assert min(gpu.transfers.host_to_device or 0, gpu.transfers.device_to_host or 0) > 0
        assert (gpu.transfers.device_to_device or 0) > 0
    summary = _of(_judge(deep), "gpu.compute", 1).summary
    assert "right answer" in summary


FAULTS = [
    ("fault cuInit@1 return 802", "CRITICAL", "CUDA_ERROR_SYSTEM_NOT_READY (802)", "fabricmanager"),
    ("fault cuInit@1 return 803", "CRITICAL", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)", "reload"),
    ("fault cuInit@1 return 999", "CRITICAL", "CUDA_ERROR_UNKNOWN (999)", "nvidia_uvm"),
    ("fault cuCtxCreate_v2@1 return 2", "UNKNOWN", "in use", "drain the slots"),
    ("fault cuCtxCreate_v2@1 return 46", "UNKNOWN", "another process has it", "drain the slots"),
    ("fault cuMemAlloc_v2@1 return 2", "UNKNOWN", "in use", "drain the slots"),
    ("fault cuMemsetD8_v2@1 return 214", "CRITICAL", "cuMemsetD8_v2 failed with CUDA_ERROR_ECC", "reset"),
    ("fault cuMemcpyDtoH_v2@1 return 226", "CRITICAL", "CUDA_ERROR_CONTAINED (226)", "reset"),
    ("fault cuLaunchKernel@1 return 719", "CRITICAL", "CUDA_ERROR_LAUNCH_FAILED (719)", "reset"),
    ("fault cuCtxDestroy_v2@1 return 700", "CRITICAL", "cuCtxDestroy_v2", "reset"),
    ("fault cuCtxSynchronize@1 abort", "CRITICAL", "crashes: cuCtxSynchronize on GPU 1", "reset"),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("scenario", "status", "says", "remedy"), FAULTS)
def test_a_fault_on_one_gpu(bench: Bench, scenario: str, status: str, says: str, remedy: str) -> None:
    """The right class and remedy on that GPU; the other one is probed to the end."""
    health = bench.judge(scenario)
    finding = _of(health, "gpu.compute", 1)
    assert finding.status == status, finding
    assert says in finding.summary and remedy in finding.remedy
    assert _of(health, "gpu.compute", 0).status == "OK"
    assert _of(health, "gpu.bandwidth", 0).status == "OK"
    assert not [each for each in health.findings if each.subject == "GPU 1" and each.id != "gpu.compute"]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "call",
    [
        "cuInit",
        "cuDeviceGet",
        "cuDeviceGetUuid",
        "cuCtxCreate_v2",
        "cuMemAlloc_v2",
        "cuMemsetD8_v2",
        "cuMemsetD32_v2",
        "cuMemcpyHtoD_v2",
        "cuMemcpyDtoD_v2",
        "cuMemcpyDtoH_v2",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuLaunchKernel",
        "cuCtxSynchronize",
        "cuMemFree_v2",
        "cuCtxDestroy_v2",
    ],
)
def test_a_hang_at_any_call(bench: Bench, call: str) -> None:
    """It is named with its GPU within the deadline, and costs the other GPU nothing."""
    begin = time.monotonic()
    health = bench.judge(f"fault {call}@1 hang")
    finding = _of(health, "gpu.compute", 1)
    assert finding.status == "CRITICAL"
    assert f"hangs: {call} on GPU 1 did not return" in finding.summary
    assert _of(health, "gpu.memory_test", 0).status == "OK"
    assert time.monotonic() - begin < 2 * DEADLINE_SECONDS + 3


def test_wrong_bytes_come_back(bench: Bench) -> None:
    """A copy that flips a bit: the workload's result is wrong, and where."""
    finding = _of(bench.judge("flip_copy 100", ONE), "gpu.compute", 0)
    assert finding.status == "CRITICAL"
    assert "wrong results" in finding.summary and "the first at byte 100" in finding.summary


@pytest.mark.exhaustive
def test_memory_that_loses_a_bit(bench: Bench) -> None:
    """Beyond what the workload touches: only the memory test finds it, in each pass, at its place."""
    health = bench.judge("flip_word 5000000", ONE)
    assert _of(health, "gpu.compute", 0).status == "OK"
    finding = _of(health, "gpu.memory_test", 0)
    assert finding.status == "CRITICAL"
    assert (finding.data["mismatches"], finding.data["first_bad"]) == (4, 20000000)
    assert _of(health, "gpu.bandwidth", 0).status == "OK"


@pytest.mark.exhaustive
@pytest.mark.parametrize("code", [200, 218, 221, 222, 223])
def test_a_driver_that_cannot_compile(bench: Bench, code: int) -> None:
    """Copies and samples still say something, and the summaries say how little."""
    health = bench.judge(f"fault cuModuleLoadData return {code}", ONE)
    assert "only copies were tried" in _of(health, "gpu.compute", 0).summary
    finding = _of(health, "gpu.memory_test", 0)
    assert (finding.status, finding.data["complete"], finding.data["passes"]) == ("OK", False, 4)


@pytest.mark.exhaustive
def test_samples_find_a_flipped_bit(bench: Bench) -> None:
    """In the last MiB of the block, which the workload does not touch; seen in each of the four passes."""
    gpu = bench.probe("fault cuModuleLoadData return 221\nflip_word 7700000", ONE).gpus[0]
    assert gpu.failure is None and gpu.memory is not None
    assert (gpu.memory.mismatches, gpu.memory.first_bad) == (4, 30800000)


def test_a_gpu_with_little_memory_free(bench: Bench) -> None:
    """Somebody works there: the workload runs, nothing larger, and that is no fault."""
    health = bench.judge("used 20000000", ONE)
    assert _of(health, "gpu.compute", 0).status == "OK"
    finding = _of(health, "gpu.memory_test", 0)
    assert (finding.status, finding.data["kind"]) == ("UNKNOWN", "in_use")


@pytest.mark.exhaustive
def test_a_gpu_with_a_process(bench: Bench) -> None:
    """However little memory it holds, the memory test would take the rest from it."""
    busy = (msgspec.structs.replace(TWO[0], processes=(GpuProcess(4711, "compute", 1),)), TWO[1])
    health = bench.judge("", busy)
    assert _of(health, "gpu.compute", 0).status == "OK"
    assert _of(health, "gpu.memory_test", 0).status == "UNKNOWN"
    assert _of(health, "gpu.bandwidth", 0).status == "UNKNOWN"
    assert _of(health, "gpu.memory_test", 1).status == "OK"


@pytest.mark.exhaustive
def test_a_fault_in_a_later_round(bench: Bench) -> None:
    """The workload is sound; the memory test and the copies each say what stopped them."""
    health = bench.judge("fault cuMemGetInfo_v2@0 hang\nfault cuMemHostAlloc@1 return 304")
    assert "hangs: cuMemGetInfo_v2 on GPU 0" in _of(health, "gpu.memory_test", 0).summary
    assert not [each for each in health.findings if (each.id, each.subject) == ("gpu.bandwidth", "GPU 0")]
    finding = _of(health, "gpu.bandwidth", 1)
    assert finding.status == "CRITICAL" and "CUDA_ERROR_OPERATING_SYSTEM (304)" in finding.summary


@pytest.mark.exhaustive
def test_slow_copies(bench: Bench) -> None:
    """20 ms for some megabytes is far below an L4's floor; the other ways are judged by themselves."""
    finding = _of(bench.judge("fault cuMemcpyHtoD_v2 sleep 20", L4), "gpu.bandwidth", 0)
    assert finding.status == "WARNING"
    assert "to the device, and at least 4.7 are due" in finding.summary


def test_no_library(tmp_path: Path) -> None:
    """NVML without CUDA's library: jobs cannot compute."""
    (tmp_path / "none").mkdir()
    broken = tmp_path / "none/libcuda.so.1"
    broken.write_bytes(b"no library")
    finding = _of(Bench(broken, tmp_path).judge(""), "gpu.compute", 0)
    assert finding.status == "CRITICAL" and "libcuda.so.1" in finding.summary


@pytest.mark.exhaustive
def test_only_gpus_that_nvml_opened(bench: Bench) -> None:
    """A lost GPU has its finding already; MIG devices are probed in place of the whole."""
    lost = Gpu(index=0, uuid=FIRST, failure=NvmlFailure("gpu_lost", "x", "x", 15, 0))
    cut = Gpu(index=1, uuid=SECOND, mig_current=1, mig_uuids=("MIG-4444",))
    deep = bench.probe("gpu.2.uuid MIG-4444\ncount 3", (lost, cut))
    assert [(gpu.index, gpu.mig, gpu.failure) for gpu in deep.gpus] == [(1, "MIG-4444", None)]


def test_a_uuid_that_cuda_does_not_know(bench: Bench) -> None:
    """CUDA sees no device at all then: hidden by a device cgroup, for one."""
    finding = _of(bench.judge("", (Gpu(index=0, uuid="GPU-3"),)), "gpu.compute", 0)
    assert finding.status == "CRITICAL" and "CUDA_ERROR_NO_DEVICE" in finding.summary


def test_the_pattern_depends_on_the_address() -> None:
    """No two words of a block are the same; the text ends with a zero as CUDA wants it."""
    words = {pattern(index, seed=7, mask=FULL_MASK, flip=0) for index in range(65536)}
    assert len(words) == 65536
    assert pattern(1, seed=7, mask=0, flip=0x55555555) == 0x55555555
    assert pattern(2**33, seed=7, mask=FULL_MASK, flip=0) != pattern(0, seed=7, mask=FULL_MASK, flip=0)
    assert PTX.endswith(b"}\n\0") and PTX.count(b"\0") == 1


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H100 80GB HBM3", 800.0),
        ("NVIDIA H200", 1920.0),
        ("NVIDIA A100-SXM4-40GB", 622.0),
        ("NVIDIA L40S", 345.6),
        ("NVIDIA L4", 120.0),
        ("Tesla T4", 120.0),
        ("NVIDIA A2", 80.0),
        ("NVIDIA RTX A2000", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("GRID V100-8Q", None),
        ("NVIDIA A40-48Q", None),
        ("NVIDIA T400", None),
        (None, None),
    ],
)
def test_floors(name: str | None, device: float | None) -> None:
    """By whole words of the name; profiles and mobile kinds are not judged."""
    floors = floors_of(name)
    assert (round(floors.device / 1e9, 1) if floors else None) == device


def test_a_mig_device_and_an_unknown_model_are_not_judged() -> None:
    """Slow as they may be."""
    slow = Transfers(host_to_device=1.0, device_to_host=1.0, device_to_device=1.0)
    gpus = (
        DeepGpu(0, FIRST, "NVIDIA H100 80GB HBM3", mig="MIG-1", transfers=slow),
        DeepGpu(1, SECOND, "NVIDIA Unheard Of", transfers=slow),
        DeepGpu(2, SECOND, "NVIDIA H100 80GB HBM3", transfers=slow),
    )
    health = _judge(DeepProbe(gpus=gpus))
    found: dict[str, Any] = {
        each.subject: each.status for each in health.findings if each.id == "gpu.bandwidth"
    }
    assert found == {"GPU 0": "OK", "GPU 1": "OK", "GPU 2": "WARNING"}
    assert json.loads(msgspec.json.encode(health))["status"] == "WARNING"


@pytest.mark.exhaustive
def test_the_command_from_end_to_end(library: Path, tmp_path: Path) -> None:
    """``runnerctl health --deep`` with both libraries: each check for each GPU, and the exit code."""
    management = nvml.build(tmp_path / "nvml")
    (tmp_path / "nvml.scenario").write_text("count 2\ngpu.*.name NVIDIA X1\n")
    (tmp_path / "cuda.scenario").write_text("count 2\nflip_word 5000000\nfault cuInit@1 return 802\n")
    environ = nvml.environment(management, tmp_path / "nvml.scenario")
    environ = environment(library, tmp_path / "cuda.scenario", environ)
    command = [sys.executable, "-m", "runnerctl", "health", "--deep", "--no-network", "-o", "json"]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=100, check=False)
    assert done.returncode == 2, done.stderr.decode()
    health = msgspec.json.decode(done.stdout, type=Health)
    assert _of(health, "gpu.compute", 0).status == "OK"
    assert _of(health, "gpu.memory_test", 0).status == "CRITICAL"
    assert _of(health, "gpu.bandwidth", 0).status == "OK"
    assert "802" in _of(health, "gpu.compute", 1).summary


@pytest.mark.exhaustive
def test_a_display_server_is_no_job(bench: Bench) -> None:
    """What Xorg holds does not keep the memory test from running."""
    shown = (msgspec.structs.replace(TWO[0], processes=(GpuProcess(1, "graphics", 1),)),)
    assert _of(bench.judge("", shown), "gpu.memory_test", 0).status == "OK"


def test_a_gpu_whose_child_is_stuck_is_not_touched(tmp_path: Path) -> None:
    """A child of an earlier probe that cannot be killed keeps later ones off that GPU."""
    guard = Guard(tmp_path)
    assert guard.record(f"deep-{FIRST}", os.getpid(), call="cuCtxCreate_v2", gpu=0) == ""
    (gpu,) = probe(ONE, guard=guard).gpus
    assert gpu.failure is not None and gpu.failure.kind == "hang"
    assert "cuCtxCreate_v2" in gpu.failure.message
