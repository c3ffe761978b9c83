"""The active probe: real work on each GPU through CUDA's driver API, none of which can hang us.

In three rounds, each a bounded child for each GPU: a small workload on all GPUs at once; where that went
well, a test of nearly all their memory; and copies to and from the host, one GPU after the other, because
they share its memory and bus. A GPU that fails in one round is not touched by the next, and one that a
process uses gets the small workload only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from runnerctl.core.deep_readings import (
    DeepFailure,
    DeepGpu,
    DeepKind,
    DeepProbe,
    Extent,
    MemoryTest,
    Transfers,
)
from runnerctl.core.gpu_readings import Gpu
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes import deep_work
from runnerctl.probes.bounded import Outcome, Report, Task, run_all
from runnerctl.probes.stuck import Guard

__all__ = ["DEADLINES", "Deadlines", "parse_compute", "parse_memory", "parse_transfers", "probe"]

_MIG_ON = 1


@dataclass(frozen=True)
class Deadlines:
    """Seconds for each round. The first pays for the start of an idle GPU, 1 to 3 s, and of the library."""

    compute: float = 20.0
    memory: float = 60.0
    transfers: float = 20.0


DEADLINES = Deadlines()


@dataclass(frozen=True)
class _Part:
    """One round: what runs in the child, how its outcome is read, and how long it may take."""

    work: Callable[..., dict[str, Any]]
    parse: Callable[[DeepGpu, Outcome], DeepGpu]
    seconds: float
    guard: Guard | None


def probe(
    gpus: Sequence[Gpu],
    *,
    extent: Extent = "all",
    deadlines: Deadlines = DEADLINES,
    guard: Guard | None = None,
) -> DeepProbe:
    """Probe the GPUs that NVML could open. Never raises because of what a GPU does.

    Takes seconds where all is well, and never longer than the deadlines of the rounds together, where that
    of the copies counts once for each GPU. Of a GPU cut by MIG each device is probed. ``extent``: how many
    rounds. ``guard``: where a child that cannot be killed is written down, so that none is started on that
    GPU while it lives.
    """
    able = [gpu for gpu in gpus if gpu.failure is None and gpu.uuid]
    # A display's server is no job: it holds little, and goes on with what the memory test leaves.
    busy = {gpu.index for gpu in able if any(each.kind != "graphics" for each in gpu.processes or ())}
    compute = _Part(deep_work.compute, parse_compute, deadlines.compute, guard)
    memory = _Part(deep_work.memory_test, parse_memory, deadlines.memory, guard)
    transfers = _Part(deep_work.transfers, parse_transfers, deadlines.transfers, guard)
    found = _round([each for gpu in able for each in _targets(gpu)], compute)
    if extent == "small":
        return DeepProbe(gpus=tuple(found))
    tested = _round([each for each in found if each.failure is None and each.index not in busy], memory)
    # Copies after a failed call would tell the same once more; wrong bits do not keep them from running.
    sound = [each for each in tested if each.memory is not None and each.memory.failure is None]
    sound = sound if extent == "all" else []
    copied = [device for each in sound for device in _round([each], transfers)]
    done = {each.mig or each.uuid: each for each in (*found, *tested, *copied)}
    return DeepProbe(gpus=tuple(_left_alone(each) if each.index in busy else each for each in done.values()))


def _targets(gpu: Gpu) -> Iterable[DeepGpu]:
    whole = DeepGpu(index=gpu.index, uuid=gpu.uuid or "", name=gpu.name)
    if gpu.mig_current != _MIG_ON:
        return (whole,)
    return (msgspec.structs.replace(whole, mig=uuid) for uuid in gpu.mig_uuids)


def _left_alone(device: DeepGpu) -> DeepGpu:
    """What says that the rest was not done because somebody works there."""
    if device.failure is not None:
        return device
    failure = DeepFailure("in_use", "nvmlDeviceGetComputeRunningProcesses", "a process uses it")
    return msgspec.structs.replace(
        device, memory=MemoryTest(failure=failure), transfers=Transfers(failure=failure)
    )


def _round(devices: Sequence[DeepGpu], part: _Part) -> list[DeepGpu]:
    """One part on these devices at the same time."""
    tasks = {
        each.mig
        or each.uuid: Task(
            partial(_call, work=part.work, device=each), part.seconds, guard=f"deep-{each.uuid}"
        )
        for each in devices
    }
    outcomes = run_all(tasks, guard=part.guard)
    return [part.parse(each, outcomes[each.mig or each.uuid]) for each in devices]


def _call(report: Report, *, work: Callable[..., dict[str, Any]], device: DeepGpu) -> dict[str, Any]:
    return work(report, device=device.mig or device.uuid, gpu=device.index)


def parse_compute(device: DeepGpu, outcome: Outcome) -> DeepGpu:
    """The device with what became of the small workload."""
    seconds = round(outcome.seconds, 3)
    if outcome.failure is not None:
        return msgspec.structs.replace(device, failure=_stopped(outcome.failure), seconds=seconds)
    failure = msgspec.convert(outcome.value["failure"], DeepFailure | None)
    kernels = outcome.value["kernels"]
    return msgspec.structs.replace(device, failure=failure, seconds=seconds, kernels=kernels)


def parse_memory(device: DeepGpu, outcome: Outcome) -> DeepGpu:
    """The device with its memory test; what was found before a hang is lost with the child."""
    if outcome.failure is not None:
        memory = MemoryTest(failure=_stopped(outcome.failure))
    else:
        memory = msgspec.convert(outcome.value, MemoryTest)
    return msgspec.structs.replace(device, memory=memory)


def parse_transfers(device: DeepGpu, outcome: Outcome) -> DeepGpu:
    """The device with the speed of its copies."""
    if outcome.failure is not None:
        transfers = Transfers(failure=_stopped(outcome.failure))
    else:
        transfers = msgspec.convert(outcome.value, Transfers)
    return msgspec.structs.replace(device, transfers=transfers)


def _stopped(failure: Unavailable) -> DeepFailure:
    kinds: dict[str, DeepKind] = {"timeout": "hang", "crash": "crash"}
    return DeepFailure(kinds.get(failure.kind, "error"), failure.call, failure.reason)
