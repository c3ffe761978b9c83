"""What measuring costs: CPU time of the meter's child, and of its parent, with eight GPUs in eight jobs.

    python -m benchmarks.meter_cost [SECONDS]

NVML is the stand-in of the tests, so what the driver itself needs is not in it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from runnerctl.guard.meter import GpuMeter
from tests.fakes.nvml import build, environment

__all__ = ["MeterCost", "main", "measure"]

GPUS = 8
SECONDS = 60.0
_EARLY_SECONDS = 12.0  # in a job's first seconds it looks more often
_SCENARIO = f"count {GPUS}\ngpu.*.samples 90 100 80\ngpu.*.memory_used 4000000000\ngpu.*.field.230 0\n"


@dataclass(frozen=True)
class MeterCost:
    """Shares of one core (1 is all of it), and the resident memory of the child in bytes.

    ``early_share``: of the child, in the first seconds of eight jobs that begin at once.
    """

    child_share: float
    parent_share: float
    early_share: float
    child_bytes: int
    look_seconds: float


def measure(seconds: float = SECONDS) -> MeterCost:
    """Run eight jobs for so long. Sets LD_LIBRARY_PATH for the child to find the stand-in."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scenario").write_text(_SCENARIO)
        os.environ.update(environment(build(folder), folder / "scenario"))
        meter = GpuMeter(markers=folder)
        try:
            return _run(meter, seconds)
        finally:
            meter.close()


def _run(meter: GpuMeter, seconds: float) -> MeterCost:
    gpus = [f"GPU-00000000-0000-4000-8000-{number:012d}" for number in range(GPUS)]
    meter.warm()
    while any(look.verdict != "healthy" for look in meter.look(gpus).values()):
        time.sleep(0.1)
    began = time.monotonic()
    meter.look(gpus)
    look_seconds = time.monotonic() - began
    for number, gpu in enumerate(gpus):
        meter.start(f"slot{number}", (gpu,))
    pid = meter.pid
    assert pid is not None
    early, _ = _spent(meter, pid, _EARLY_SECONDS)
    child, parent = _spent(meter, pid, seconds)
    return MeterCost(child, parent, early, _resident(pid), look_seconds)


def _spent(meter: GpuMeter, pid: int, seconds: float) -> tuple[float, float]:
    """The shares of a core that child and parent took, who tends the child every second."""
    child, parent, began = _cpu(pid), time.process_time(), time.monotonic()
    while (past := time.monotonic() - began) < seconds:
        time.sleep(min(1.0, seconds - past))
        meter.tend()
    past = time.monotonic() - began
    return (_cpu(pid) - child) / past, (time.process_time() - parent) / past


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used: the scheduler's own count, in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print the figures."""
    cost = measure(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    print(f"child, {GPUS} GPUs in {GPUS} jobs:    {cost.child_share:.2%} of one core")
    print(f"  in a job's first seconds:  {cost.early_share:.2%}")
    print(f"  resident memory:           {cost.child_bytes / 2**20:.0f} MiB")
    print(f"parent:                      {cost.parent_share:.3%} of one core")
    print(f"a look at {GPUS} GPUs:           {cost.look_seconds * 1000:.1f} ms")


if __name__ == "__main__":
    main()
