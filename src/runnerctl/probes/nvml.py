"""NVML, through NVIDIA's own binding, one call at a time; each call is announced before it is made.

Runs in children of `runnerctl.probes.bounded` only: NVML can hang in any call and can abort the process. What
a GPU or a driver does not support is None; what fails otherwise is the GPU's failure, and what was read of
it is kept. A GPU that hangs or crashes does not hide those after it: they are read in children of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.snapshot import Gpu, Nvml, NvmlFailure, NvmlKind, Unavailable
from runnerctl.probes.bounded import Call, Outcome, Report, Task
from runnerctl.probes.files import read_bytes, read_line, under
from runnerctl.probes.nvml_calls import CallError, Calls, text
from runnerctl.probes.nvml_gpu import read_gpu
from runnerctl.probes.stuck import state_of

__all__ = [
    "BASE_SECONDS",
    "SECONDS_PER_GPU",
    "default_deadline",
    "parse",
    "persistence_on",
    "read",
    "resume",
    "task",
]

BASE_SECONDS = 5.0
SECONDS_PER_GPU = 4.0  # without persistence mode the first open initialises a GPU: 1 to 3 s each (NVIDIA)
_DAEMON = "/run/nvidia-persistenced"
_MOST_GPUS = 1024  # far more than any host has: a larger number is a broken answer, not a task
_STOPS: dict[str, NvmlKind] = {"timeout": "hang", "slow": "slow", "crash": "crash"}
_KEPT_WHEN_REPEATED = ("uuid", "name", "pci_bus_id", "minor", "serial", "mig_uuids")


def task(
    deadline_seconds: float | None, *, rootfs: Path = Path("/"), gpus: int = 0, deep: bool = False
) -> Task:
    """The probe within ``deadline_seconds``, or what fits ``gpus`` GPUs on the bus. ``deep`` reads flash."""
    seconds = default_deadline(rootfs, gpus) if deadline_seconds is None else deadline_seconds
    # The handle is what initialises a GPU that nothing keeps initialised.
    patience = {} if persistence_on(rootfs) else {"nvmlDeviceGetHandleByIndex": SECONDS_PER_GPU}
    return Task(
        partial(read, deep=deep),
        seconds,
        resume=partial(resume, deep=deep),
        patience=patience,
        guard="nvml",
    )


def default_deadline(rootfs: Path, gpus: int) -> float:
    """Seconds that reading so many GPUs may take: more when each must be initialised first."""
    return BASE_SECONDS + (0.0 if persistence_on(rootfs) else SECONDS_PER_GPU * gpus)


def persistence_on(rootfs: Path) -> bool:
    """Whether something keeps the GPUs initialised, as far as it can be told without opening one.

    That is NVIDIA's persistence daemon, unless it was told to leave persistence mode off. The legacy mode
    (`nvidia-smi -pm 1`) shows in NVML only; a host with that gets more time than it needs.
    """
    folder = under(rootfs, _DAEMON)
    if not (folder / "nvidia-persistenced.pid").exists():
        return (folder / "socket").exists()
    pid = read_line(folder / "nvidia-persistenced.pid") or ""
    if pid.isdigit() and state_of(int(pid), under(rootfs, "/proc")) == "D":
        return True  # reading the arguments of a process that is stuck in the driver may wait with it
    command = read_bytes(under(rootfs, f"/proc/{pid}/cmdline")) if pid.isdigit() else None
    return not (isinstance(command, bytes) and b"--no-persistence-mode" in command)


def read(report: Report, *, only: int | None = None, deep: bool = False) -> None:
    """Ask NVML for everything, or for one GPU only. All of the answer is in parts, for `parse`."""
    try:
        calls = Calls(report)
        calls.init()
        count = _system(calls, report) if only is None else only + 1
    except CallError as error:
        if only is None:
            report.part({"system": {"failure": msgspec.to_builtins(error.failure)}})
        else:
            report.part({"gpu": only, "known": {"failure": msgspec.to_builtins(error.failure)}})
        return
    for index in range(only or 0, count):
        read_gpu(calls, index, partial(_tell, report, index), deep=deep)
        report.part({"gpu": index, "known": {}, "done": True})


def _tell(report: Report, index: int, known: dict[str, Any]) -> None:
    report.part({"gpu": index, "known": known})


def _system(calls: Calls, report: Report) -> int:
    """What is known without a GPU; returns how many there are."""
    count: int = calls.must("nvmlDeviceGetCount")
    if not 0 <= count <= _MOST_GPUS:
        message = f"nvmlDeviceGetCount: an impossible number of GPUs ({count})"
        raise CallError(NvmlFailure("unknown", "nvmlDeviceGetCount", message))
    cuda = calls.ask("nvmlSystemGetCudaDriverVersion_v2")
    system = {
        "count": count,
        "driver_version": text(calls.ask("nvmlSystemGetDriverVersion")),
        "nvml_version": text(calls.ask("nvmlSystemGetNVMLVersion")),
        "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
    }
    report.part({"system": system})
    return count


def resume(parts: Sequence[Any], stopped: Unavailable, *, deep: bool = False) -> Sequence[Call]:
    """How to go on when one GPU stopped the child: each GPU after it in a child of its own."""
    count = _system_of(parts).get("count") or 0
    if stopped.gpu is None:
        return ()
    return tuple(partial(read, only=index, deep=deep) for index in range(stopped.gpu + 1, count))


def _system_of(parts: Sequence[Any]) -> dict[str, Any]:
    found: list[dict[str, Any]] = [part["system"] for part in parts if "system" in part]
    return found[0] if found else {}


def parse(outcome: Outcome) -> Nvml | Unavailable:
    """The reading: what the children said, and what became of them."""
    system = _system_of(outcome.parts)
    stops = outcome.interruptions or ((outcome.failure,) if outcome.failure else ())
    if not system:
        return _no_system(stops[0] if stops else Unavailable("NVML gave no answer"))
    if outcome.repeated:
        if stops[0].gpu is None:
            return Nvml(failure=NvmlFailure("hang", stops[0].call, stops[0].reason))
        system = {"count": system["count"], "not_asked": stops[0].reason}
    nvml = msgspec.convert({"reading": "taken", **system}, Nvml)
    gpus = (_gpu(index, outcome, stops) for index in range(nvml.count or 0))
    return msgspec.structs.replace(nvml, gpus=tuple(gpus))


def _gpu(index: int, outcome: Outcome, stops: Sequence[Unavailable]) -> Gpu:
    known: dict[str, Any] = {}
    done = False
    for part in outcome.parts:
        if part.get("gpu") == index:
            known |= part["known"]
            done = done or part.get("done", False)
    if outcome.repeated:
        known, done = {name: known[name] for name in _KEPT_WHEN_REPEATED if name in known}, False
    gpu = msgspec.convert({**known, "index": index}, Gpu)
    if done or gpu.failure:
        return gpu
    return msgspec.structs.replace(gpu, failure=_not_read(index, stops))


def _no_system(stopped: Unavailable) -> Nvml | Unavailable:
    """NVML as a whole hung or crashed: that is an answer; anything else is a reading not taken."""
    if stopped.kind in _STOPS and stopped.call.startswith("nvml"):
        return Nvml(failure=NvmlFailure(_kind(stopped), stopped.call, stopped.reason, gpu=stopped.gpu))
    return stopped


def _not_read(index: int, stops: Sequence[Unavailable]) -> NvmlFailure:
    """The GPU that stopped a child, or one that was behind it and not asked."""
    for stop in stops:
        if stop.gpu == index:
            return NvmlFailure(_kind(stop), stop.call, stop.reason, gpu=index)
    why = stops[-1].reason if stops else "the probe ended early"
    slow = bool(stops) and stops[-1].kind == "slow"  # more time helps, and no GPU is to blame
    return NvmlFailure("slow" if slow else "not_reached", "", why, gpu=index)


def _kind(stopped: Unavailable) -> NvmlKind:
    return _STOPS.get(stopped.kind, "unknown")
