"""What the pytest plugin is made of: amounts, latencies, visible GPUs, whose memory it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runnerctl import gpu_child, gpu_latency, gpu_nvml, gpu_tree, gpu_units
from runnerctl.gpu_watch import usable

GIB = 2**30


@pytest.mark.parametrize(
    "amount,wanted",
    [("2GiB", 2 * GIB), ("1.5 GiB", 3 * GIB // 2), ("500MB", 5 * 10**8), ("12", 12), (7, 7), ("0B", 0)],
)
def test_memory(amount: object, wanted: int) -> None:
    """As people write it."""
    assert gpu_units.bytes_of(amount) == wanted


@pytest.mark.parametrize("amount", ["2", "5 min", "-1ms", "", None, True, [1], -3])
def test_what_is_no_time_is_refused(amount: object) -> None:
    """With the words that are wrong and an example; a bare number in a text has no unit."""
    with pytest.raises(ValueError, match="is no time: give it like '5ms'"):
        gpu_units.seconds_of(amount)


def test_texts_of_amounts() -> None:
    """Short ones."""
    assert [gpu_units.said_bytes(each) for each in (0, 1536, 3 * GIB // 2)] == ["0 B", "1.50 KiB", "1.50 GiB"]
    assert [gpu_units.said_seconds(each) for each in (0, 5e-3, 2.0)] == ["0.00 us", "5.00 ms", "2.00 s"]
    assert gpu_units.seconds_of("5ms") == 5e-3
    assert gpu_units.seconds_of(2) == 2.0


def test_a_latency_has_median_and_spread_after_warm_up() -> None:
    """Runs of the warm-up are not timed; the GPU is waited for on both sides of each run."""
    times = iter([0.0, 0.004, 1.0, 1.005, 2.0, 2.020])
    done: list[str] = []
    found = gpu_latency.measure(
        lambda: done.append("call"),
        warmup=2,
        repeats=3,
        synchronize=lambda: done.append("wait"),
        clock=lambda: next(times),
    )
    assert done == ["call"] * 2 + ["wait", "call", "wait"] * 3
    assert round(found.median, 6) == 0.005
    assert round(found.spread, 6) == 0.001
    assert found.over({"max_median": 0.006, "max_p95": 0.1}) == ""
    assert found.over({"max_median": 0.004}) == "median 5.00 ms is over 4.00 ms"
    with pytest.raises(ValueError, match="at least one run"):
        gpu_latency.measure(lambda: None, repeats=0)


def _gpu(number: int, problem: str = "", migs: tuple[str, ...] | None = None) -> gpu_nvml.Gpu:
    return gpu_nvml.Gpu(f"GPU-{number}a", "L4", number, problem, migs)


@pytest.mark.parametrize(
    "environ,wanted",
    [
        ({}, ["GPU-0a", "GPU-2a"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["GPU-2a"]),
        ({"CUDA_VISIBLE_DEVICES": "0,7,1"}, ["GPU-0a"]),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, []),
        ({"CUDA_VISIBLE_DEVICES": "GPU-2"}, ["GPU-2a"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1a"}, []),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, ["GPU-0a", "GPU-2a"]),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, []),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-1a,GPU-2a"}, ["GPU-2a"]),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-2a", "CUDA_VISIBLE_DEVICES": "0"}, ["GPU-2a"]),
    ],
)
def test_only_what_can_be_opened_and_is_left_counts(environ: dict[str, str], wanted: list[str]) -> None:
    """NVML lists three GPUs, and the device cgroup leaves two."""
    gpus = [_gpu(0), _gpu(1, "/dev/nvidia1 cannot be opened: Operation not permitted"), _gpu(2)]
    assert list(usable(gpus, environ).usable) == wanted


def test_mig_devices_count_one_by_one() -> None:
    """A divided GPU is its parts; without any it is nothing."""
    divided = _gpu(0, migs=("MIG-a", "MIG-b"))
    assert usable([divided], {}).usable == ("MIG-a", "MIG-b")
    assert usable([divided], {"CUDA_VISIBLE_DEVICES": "MIG-b"}).usable == ("MIG-b",)
    assert usable([divided], {"NVIDIA_VISIBLE_DEVICES": "GPU-0a"}).usable == ("MIG-a", "MIG-b")
    empty = usable([_gpu(0, "MIG mode is on and no MIG device exists", ())], {})
    assert empty == ((), "none of 1 GPUs can be used: L4: MIG mode is on and no MIG device exists")


def test_a_device_that_cannot_be_opened(tmp_path: Path) -> None:
    """The one of the driver as a whole is needed, too."""
    assert "nvidiactl cannot be opened" in gpu_nvml.openable(0, tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert "nvidia3 cannot be opened: No such file" in gpu_nvml.openable(3, tmp_path)
    (tmp_path / "nvidia3").touch()
    assert gpu_nvml.openable(3, tmp_path) == ""


def test_a_tree_is_the_process_what_it_started_and_what_bears_its_mark() -> None:
    """A child whose parent has ended is known by its environment; a stranger is a stranger."""
    tree = gpu_tree.Tree(os.getpid(), "a token")
    environ = os.environ | {gpu_tree.VARIABLE: "a token"}
    code = "import os, sys; os.fork() and os._exit(0); print(os.getpid(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        orphan = int(process.stdout.readline())
        assert process.wait(10) == 0
        assert tree.holds(os.getpid()) is True
        assert tree.holds(orphan) is True
        assert tree.holds(1) is False
        assert gpu_tree.Tree(orphan, "another").holds(os.getpid()) is False
        assert gpu_tree.Tree(os.getppid(), "").holds(os.getpid()) is True
    assert gpu_tree.Tree(1, "").holds(2**22 - 1) is None


class _Nvml:
    """Answers from a list, one for each sample."""

    def __init__(self, *answers: dict[int, int | None] | gpu_nvml.NvmlError, used: int = 0) -> None:
        self._answers, self._used = list(answers), used

    def processes(self) -> dict[int, int | None]:
        answer = self._answers.pop(0)
        if isinstance(answer, gpu_nvml.NvmlError):
            raise answer
        return answer

    def used(self) -> int:
        return self._used


class _Tree:
    """Process 1 is ours, 2 somebody else's, 3 is gone."""

    def holds(self, pid: int) -> bool | None:
        return {1: True, 2: False}.get(pid)


def _peak(nvml: _Nvml, samples: int, *, host_pids: bool = True) -> gpu_child.Peak:
    run = gpu_child.Run(nvml, _Tree(), os.getpid(), host_pids=host_pids)
    for _ in range(samples - 1):
        run.sample()
    return run.end()


def test_a_peak_is_the_most_at_any_one_time() -> None:
    """Of our processes alone."""
    peak = _peak(_Nvml({1: 5, 2: 100}, {1: 9, 2: 1}, {1: 2}), 3)
    assert (peak.exact, peak.most, peak.doubt) == (9, 9, "")


def test_doubts_leave_an_upper_bound_or_nothing() -> None:
    """What is gone may have been ours; a container knows whole GPUs alone; an error hides all."""
    gone = _peak(_Nvml({1: 5, 3: 10}, {1: 6}), 2)
    assert (gone.exact, gone.most, gone.doubt) == (6, 15, "NVML lists processes that are gone")
    container = _peak(_Nvml(used=70), 1, host_pids=False)
    assert (container.exact, container.most) == (None, 70)
    untold = _peak(_Nvml({1: 5}, {1: None}, used=80), 2)
    assert (untold.exact, untold.most) == (None, 80)
    lost = _peak(_Nvml({1: 5}, gpu_nvml.NvmlError("the GPU is lost", 15)), 2)
    assert (lost.exact, lost.most, lost.doubt) == (None, None, "the GPU is lost")
