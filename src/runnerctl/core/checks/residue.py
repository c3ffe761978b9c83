"""Does a job that ended still hold a GPU?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from runnerctl.core.checks.each import gpus_answer, slots_on
from runnerctl.core.driver_readings import Residue, ResidueProcess
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.snapshot import Gpu, Host, SlotReading, Snapshot
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]

_MEBIBYTE = 2**20
# What a driver may keep for itself: older ones count up to some 600 MiB of an idle GPU as used.
_FLOOR_BYTES = 512 * _MEBIBYTE
_FLOOR_SHARE = 0.01
# Services that open a GPU to look at it or to keep it awake, and hold next to none of its memory.
_WATCHERS = (
    "nvidia-persiste",
    "nv-fabricmanage",
    "nv-hostengine",
    "nvidia-smi",
    "dcgm-exporter",
    "nvsm_core",
)
# Where the CPU's and the GPU's memory are one address space the system itself may use the GPU's.
_SHARED_MEMORY = re.compile(r"\bG[BH]\d")
_DEVICE = re.compile(r"/dev/nvidia(\d+)")


def _looked(snapshot: Snapshot) -> bool:
    """Whether NVML shows GPUs and processes were looked at."""
    return gpus_answer(snapshot) and snapshot.residue is not None


def _judge_residue(
    gpus: tuple[Gpu, ...],
    residue: Residue,
    slots: tuple[SlotReading, ...],
    host: Host,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    busy = {slot.name for slot in slots if slot.runs_job is not False}  # as far as can be told
    left = [each for each in residue.processes if each.slot and each.slot not in busy and _gpus(each)]
    by_slot: dict[str, list[ResidueProcess]] = {}
    for process in left:
        by_slot.setdefault(process.slot or "", []).append(process)
    yield from (_left_behind(slot, processes, gpus) for slot, processes in by_slot.items())
    for gpu in gpus:
        if gpu.failure is None:
            for said in _of_gpu(gpu, residue, host, in_use=_in_use(gpu, busy, spec)):
                yield replace(said, subject=f"GPU {gpu.index}")


def _in_use(gpu: Gpu, busy: set[str], spec: HostSpec | None) -> bool:
    """Whether a job may be using the GPU now: memory comes and goes with it."""
    claimed = any(slot.gpus for slot in spec.github_runner.slots) if spec else False
    return bool(busy & set(slots_on(gpu, spec))) if claimed else bool(busy)


def _gpus(process: ResidueProcess) -> list[int]:
    """The minor numbers of the GPUs that a process holds open."""
    return [int(found[1]) for name in process.devices if (found := _DEVICE.fullmatch(name))]


def _left_behind(slot: str, processes: list[ResidueProcess], gpus: tuple[Gpu, ...]) -> Verdict:
    """Processes of a slot that runs no job."""
    index = {gpu.minor: gpu.index for gpu in gpus if gpu.minor is not None}
    held = sorted({index.get(minor, minor) for each in processes for minor in _gpus(each)})
    names = ", ".join(f"{each.comm} (pid {each.pid}{_stuck(each)})" for each in processes)
    number = ", ".join(f"GPU {each}" for each in held)
    stuck = any(each.state == "D" for each in processes)
    remedy = "reboot: a process in state D does not end" if stuck else f"`runnerctl restart {slot}` ends them"
    pids = [each.pid for each in processes]
    return replace(warning(f"no job runs, and {names} still holds {number}", remedy, pids=pids), subject=slot)


def _stuck(process: ResidueProcess) -> str:
    return ", state D" if process.state == "D" else ""


def _of_gpu(gpu: Gpu, residue: Residue, host: Host, *, in_use: bool) -> Iterator[Verdict]:
    used, total = gpu.memory_used_bytes, gpu.memory_total_bytes
    if used is None or not total or gpu.processes is None:
        return
    holders = [each for each in residue.processes if gpu.minor is None or gpu.minor in _gpus(each)]
    users = [each for each in holders if each.slot or each.comm not in _WATCHERS]
    pids = sorted({each.pid for each in gpu.processes} | {each.pid for each in users})
    data = {"used_bytes": used, "pids": pids, "complete": residue.complete}
    summary = f"{used // _MEBIBYTE} MiB of its memory are in use without a process"
    if used > total:
        remedy = "look at `nvidia-smi -q -d MEMORY`; if it says so, too, reset the GPU"
        yield unknown(
            f"it says that {used // _MEBIBYTE} of {total // _MEBIBYTE} MiB are in use", remedy, **data
        )
    elif used <= max(_FLOOR_BYTES, _FLOOR_SHARE * total):
        yield ok("nothing is left in its memory", **data)
    elif gpu.processes or users:
        number = len(pids)
        yield ok(f"its memory is used by {number} process{'' if number == 1 else 'es'}", **data)
    elif in_use or host.container or _SHARED_MEMORY.search(gpu.name or ""):
        yield ok(f"{used // _MEBIBYTE} MiB of its memory are in use", **data)
    elif residue.complete:
        remedy = f"drain its slots and reset the GPU: `nvidia-smi --gpu-reset -i {gpu.index}`, or reboot"
        yield critical(summary, remedy, action="RESET", **data)
    else:
        yield unknown(f"{summary} that can be seen", "run it as root", **data)


RESIDUE = Check(
    id="gpu.residue",
    title="No job left anything on a GPU",
    docs=(
        "A process in a slot's control group that holds a GPU while the slot runs no job was left behind. "
        f"Memory in use on an idle GPU (more than {_FLOOR_BYTES // _MEBIBYTE} MiB and "
        "1 %) of which neither NVML nor any process's open files know the owner is a context that outlived "
        "its process: only a reset frees it. Displays, containers, monitoring and running "
        "jobs are no residue."
    ),
    remedy="drain its slots and reset the GPU: `nvidia-smi --gpu-reset -i INDEX`, or reboot",
    judge=_judge_residue,
    needs=("gpus", "residue", "slots", "host"),
    when=_looked,
)

CHECKS: tuple[Check, ...] = (RESIDUE,)
