"""On real hardware: memory that a test takes, and time, are measured and judged by the pytest plugin."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.gpu_tree import sees_host_pids
from runnerctl.probes.bounded import Report
from runnerctl.probes.cuda import Driver
from runnerctl.pytest_plugin import GpuLatency

MIB = 2**20
HELD = 256 * MIB
# CUDA's own context is a few hundred MiB: more than HELD, less than this.
ROOM = "2GiB"
TESTS = f"""
import subprocess, sys
import pytest
from tests.gpu.test_budgets import hold

@pytest.mark.gpu(vram="{HELD // MIB - 1}MiB")
def test_own(): hold()

@pytest.mark.gpu(vram="{HELD // MIB - 1}MiB")
def test_child():
    subprocess.run([sys.executable, "-c", "from tests.gpu.test_budgets import hold; hold()"], check=True)
"""


class _Quiet(Report):
    """Nobody watches."""

    def __init__(self) -> None:
        super().__init__(-1)

    def stage(self, call: str, gpu: int | None = None) -> None:
        """A call begins."""
        del call, gpu


def hold() -> tuple[Driver, ctypes.c_uint64]:
    """Take memory on the first GPU, and write to all of it."""
    driver = Driver(_Quiet(), 0)
    driver.open()
    place = driver.allocate(HELD)
    driver.call("cuMemsetD8_v2", place, ctypes.c_ubyte(1), ctypes.c_size_t(HELD))
    driver.call("cuCtxSynchronize")
    return driver, place


@pytest.fixture
def held() -> Iterator[tuple[Driver, ctypes.c_uint64]]:
    """Memory on the GPU, given back at the end."""
    driver, place = hold()
    yield driver, place
    driver.close()


@pytest.mark.gpu(vram=ROOM)
def test_memory_within_a_budget(held: tuple[Driver, ctypes.c_uint64]) -> None:
    """What is taken is there."""
    free, total = held[0].memory()
    assert total - free >= HELD


@pytest.mark.gpu(vram=ROOM, max_median="50ms", max_p95="100ms")
def test_latency_within_a_budget(held: tuple[Driver, ctypes.c_uint64], gpu_latency: GpuLatency) -> None:
    """Writing 256 MiB takes about a millisecond, and never no time at all: that would be unsynchronised."""
    driver, place = held
    found = gpu_latency(
        lambda: driver.call("cuMemsetD8_v2", place, ctypes.c_ubyte(2), ctypes.c_size_t(HELD)),
        synchronize=lambda: driver.call("cuCtxSynchronize"),
    )
    assert len(found.samples) == 30
    assert found.median > HELD / 20e12  # no memory of a GPU takes 20 TB/s
    assert found.p95 >= found.median


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["test_own", "test_child"])
def test_memory_over_a_budget_fails(name: str, tmp_path: Path) -> None:
    """Also what a child took: over it where NVML says whose memory it is, and else not known to be within."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--require-gpu"]
    done = subprocess.run(
        [*command, f"test_it.py::{name}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    wanted = "is over the budget of" if sees_host_pids() else "the peak is not known, so not within"
    assert wanted in done.stdout
