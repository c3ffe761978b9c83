"""Does a GPU compute, keep what is written to it, and copy as fast as its kind should? After --deep only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from runnerctl.core.bandwidths import floors_of
from runnerctl.core.deep_readings import DeepFailure, DeepGpu, DeepProbe, MemoryTest, Transfers
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.snapshot import Snapshot
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]

_GIBIBYTE = 2**30
_GIGA = 1e9
_TAKE_OUT = (
    "drain the host, reset the GPU or reboot, and probe again; if it stays, take the GPU out of service"
)
_BUSY = "drain the slots that use it, and probe again"
_REMEDIES: Mapping[int, str] = {
    100: "look at `nvidia-smi -L` and at the modes of /dev/nvidia*; a device cgroup may hide the GPU",
    214: "drain the host and reset the GPU; a second time within a day, take it out of service",
    802: "`systemctl restart nvidia-fabricmanager`, and compare its version with the driver's",
    803: "reboot, or reload the nvidia modules: driver library and kernel module differ",
    804: "remove CUDA's compatibility libraries from the library path, or upgrade the driver",
    999: "look at `dmesg`; if /dev/nvidia-uvm is missing, `modprobe nvidia_uvm && nvidia-modprobe -u -c 0`",
}


def _each(deep: DeepProbe | None, judge: Callable[[DeepGpu], Verdict | None]) -> Iterable[Verdict]:
    for device in deep.gpus if deep else ():
        verdict = judge(device)
        if verdict is not None:
            mig = f" ({device.mig})" if device.mig else ""
            data = {"uuid": device.mig or device.uuid, **verdict.data}
            yield Verdict(verdict.status, verdict.summary + mig, verdict.remedy, f"GPU {device.index}", data)


def _failed(failure: DeepFailure, what: str) -> Verdict:
    data = {"kind": failure.kind, "call": failure.call, "code": failure.code, "name": failure.name}
    remedy = _REMEDIES.get(failure.code or 0, _TAKE_OUT)
    if failure.kind == "in_use":
        return unknown(f"{what} was not done: {failure.message}", _BUSY, **data)
    if failure.kind == "library_missing":
        remedy = "install the driver's CUDA library (Debian: libcuda1), or provision again"
        return critical(f"CUDA's library cannot be loaded: {failure.message}", remedy, **data)
    words = {"hang": "hangs", "crash": "crashes", "wrong_data": "gives wrong results"}
    return critical(f"{what} {words.get(failure.kind, 'fails')}: {failure.message}", remedy, **data)


def _judge_compute(deep: DeepProbe | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    return _each(deep, _compute)


def _compute(device: DeepGpu) -> Verdict:
    if device.failure is not None:
        return _failed(device.failure, "a small CUDA program")
    note = "" if device.kernels else "; the driver cannot compile for it, so only copies were tried"
    summary = f"a small CUDA program ran and gave the right answer in {device.seconds:.1f} s{note}"
    return ok(summary, seconds=device.seconds, kernels=device.kernels)


def _judge_memory(deep: DeepProbe | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    return _each(deep, lambda device: _memory(device.memory) if device.memory else None)


def _memory(test: MemoryTest) -> Verdict:
    data = {
        "tested_bytes": test.tested_bytes,
        "total_bytes": test.total_bytes,
        "mismatches": test.mismatches,
        "first_bad": test.first_bad,
        "passes": test.passes,
        "complete": test.complete,
    }
    if test.mismatches:
        count = f"{test.mismatches} word{'' if test.mismatches == 1 else 's'}"
        where = f"the first at byte {test.first_bad} of the test"
        return critical(f"memory does not keep what is written: {count} wrong, {where}", _TAKE_OUT, **data)
    if test.failure is not None:
        return _failed(test.failure, "the memory test")
    sizes = f"{test.tested_bytes / _GIBIBYTE:.1f} of {test.total_bytes / _GIBIBYTE:.1f} GiB"
    how = "kept" if test.complete else "kept, as far as samples tell,"
    return ok(f"{sizes} {how} what was written, in {test.passes} passes", **data)


def _judge_bandwidth(deep: DeepProbe | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    return _each(deep, lambda device: _bandwidth(device, device.transfers) if device.transfers else None)


def _bandwidth(device: DeepGpu, copies: Transfers) -> Verdict:
    if copies.failure is not None:
        return _failed(copies.failure, "the measurement of copies")
    # A MIG device has its share of the memory's bandwidth only.
    floors = None if device.mig else floors_of(device.name)
    ways = {
        "to the device": (copies.host_to_device, floors.host if floors else None),
        "to the host": (copies.device_to_host, floors.host if floors else None),
        "within the device": (copies.device_to_device, floors.device if floors else None),
    }
    shown = ", ".join(f"{speed / _GIGA:.1f} GB/s {way}" for way, (speed, _) in ways.items() if speed)
    slow = [
        f"{speed / _GIGA:.1f} GB/s {way}, and at least {floor / _GIGA:.1f} are due"
        for way, (speed, floor) in ways.items()
        if speed is not None and floor is not None and speed < floor
    ]
    data = {
        "host_to_device": copies.host_to_device,
        "device_to_host": copies.device_to_host,
        "device_to_device": copies.device_to_device,
    }
    if slow:
        return warning(f"copies are slow: {'; '.join(slow)}", **data)
    note = "" if floors or device.mig else f"; no floor is known for {device.name or 'this model'}"
    return ok(f"{shown}{note}", **data)


def _asked(snapshot: Snapshot) -> bool:
    """Whether ``--deep`` was given."""
    return snapshot.deep is not None


CHECKS: tuple[Check, ...] = (
    Check(
        id="gpu.compute",
        title="The GPU computes",
        docs=(
            "With --deep only. In a child process with a deadline, for each GPU: CUDA is initialised, a "
            "context made, memory set, copied and read back, and a small kernel's results compared with "
            "those of the processor. Wrong data, an error (named), a hang and a crash are critical. A GPU "
            "whose memory or mode leaves no room because a job uses it is UNKNOWN."
        ),
        remedy=_TAKE_OUT,
        judge=_judge_compute,
        needs=("deep",),
        when=_asked,
    ),
    Check(
        id="gpu.memory_test",
        title="The GPU's memory keeps what is written",
        docs=(
            "With --deep only, on GPUs that nobody uses. Nearly all free memory is filled and compared in "
            "four passes: words that depend on their address, their inverse, and alternating bits. "
            "Where the driver cannot compile for the GPU, samples are compared on the host instead."
        ),
        remedy=_TAKE_OUT,
        judge=_judge_memory,
        needs=("deep",),
        when=_asked,
    ),
    Check(
        id="gpu.bandwidth",
        title="Copies are as fast as they should be",
        docs=(
            "With --deep only, on GPUs that nobody uses, one after the other: copies of 256 MiB from pinned "
            "memory of the host to the device, back, and within the device (where reads and writes both "
            "count), the best of four. The floors are 15 % of the peak of the model's PCI Express "
            "generation and 40 % of its memory's; a model that is not known is measured only."
        ),
        remedy="compare the PCIe link with gpu.pcie, look at clocks and temperature, then reseat the GPU",
        judge=_judge_bandwidth,
        needs=("deep",),
        when=_asked,
    ),
)
