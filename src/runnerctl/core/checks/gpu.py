"""Are the GPUs there, does each answer, and has each slot the ones it claims?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runnerctl.core.checks.expect import claims_gpus, gpus_to_count
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.snapshot import Gpu, Host, PciGpu
from runnerctl.core.spec import HostSpec

__all__ = ["GPU_ANSWERS", "GPU_COUNT", "GPU_SLOTS"]

_MEBIBYTE = 2**20


def _judge_count(
    gpus: tuple[Gpu, ...], pci: tuple[PciGpu, ...], host: Host, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    usable = [gpu for gpu in gpus if gpu.failure is None or gpu.failure.kind == "no_permission"]
    # A GPU given to a virtual machine is not this host's any more.
    on_bus = [gpu for gpu in pci if gpu.driver != "vfio-pci"]
    expected = spec.nvidia_driver.gpu_count if spec else None
    data = {"usable": len(usable), "listed": len(gpus), "pci": len(on_bus), "expected": expected}
    if expected is not None:
        yield _compare(len(usable), expected, data)
    elif len(on_bus) > len(gpus) and not host.container:
        yield warning(f"{len(on_bus)} GPUs on the PCI bus, and NVML shows {len(gpus)}", **data)
    elif len(usable) < len(gpus):
        yield warning(f"{len(usable)} of {len(gpus)} GPUs can be used", **data)
    elif gpus:
        yield ok(f"{_gpus(len(gpus))}; no number is expected", **data)


def _compare(usable: int, expected: int, data: Mapping[str, object]) -> Verdict:
    if usable < expected:
        return critical(f"{usable} of {expected} GPUs can be used", **data)
    if usable > expected:
        remedy = f"set nvidia_driver_gpu_count to {usable} if the new GPUs are meant to be here"
        return warning(f"{_gpus(usable)}, {usable - expected} more than the spec says", remedy, **data)
    return ok(f"{_gpus(usable)}, as the spec says", **data)


def _gpus(number: int) -> str:
    return f"{number} GPU{'' if number == 1 else 's'}"


def _judge_answers(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec  # a GPU that does not answer is a fault whoever wants it
    failure = gpu.failure
    if failure is None:
        yield ok(_describe(gpu), uuid=gpu.uuid, pci_bus_id=gpu.pci_bus_id)
        return
    data = {"kind": failure.kind, "call": failure.call, "code": failure.code, "uuid": gpu.uuid}
    if failure.kind == "not_reached":
        remedy = "mend the GPU that stopped the probe first"
        yield unknown(f"not asked: {failure.message}", remedy, **data)
    elif failure.kind == "no_permission":
        remedy = "run it as root, outside a slot's device rules"
        yield unknown(f"{failure.call}: this process may not open it", remedy, **data)
    elif failure.kind == "gpu_lost":
        remedy = "drain the host and reboot; if it stays away, cut the power, then reseat or replace the GPU"
        yield critical(
            f"{failure.call}: the GPU has fallen off the bus or is no longer reachable", remedy, **data
        )
    elif failure.kind == "reset_required":
        remedy = f"drain the slots that use it, then `nvidia-smi --gpu-reset -i {gpu.index}`, or reboot"
        yield critical(f"{failure.call}: the GPU needs a reset before it can be used again", remedy, **data)
    else:
        yield critical(failure.message, **data)


def _describe(gpu: Gpu) -> str:
    parts = [gpu.name or "GPU"]
    if gpu.temperature_celsius is not None:
        parts.append(f"{gpu.temperature_celsius} °C")
    if gpu.memory_total_bytes and gpu.memory_used_bytes is not None:
        used, total = gpu.memory_used_bytes // _MEBIBYTE, gpu.memory_total_bytes // _MEBIBYTE
        parts.append(f"{used} of {total} MiB in use")
    return ", ".join(parts)


def _judge_slots(gpus: tuple[Gpu, ...], *, spec: HostSpec | None) -> Iterable[Verdict]:
    whole = {gpu.uuid.lower(): gpu for gpu in gpus if gpu.uuid}
    slices = {uuid.lower(): gpu for gpu in gpus for uuid in gpu.mig_uuids}
    known = whole | slices
    for slot in spec.github_runner.slots if spec else ():
        missing = [uuid for uuid in slot.gpus if uuid.lower() not in known]
        sick = [uuid for uuid in slot.gpus if (gpu := known.get(uuid.lower())) and gpu.failure]
        if not slot.gpus:
            continue
        if missing:
            verdict = critical(f"claims what is not here: {', '.join(missing)}", missing=missing)
        elif sick:
            verdict = critical(f"claims a GPU that does not answer: {', '.join(sick)}", sick=sick)
        else:
            count = len(slot.gpus)
            verdict = ok(f"the GPU it claims is here{'' if count == 1 else f' (all {count})'}", gpus=count)
        yield Verdict(verdict.status, verdict.summary, verdict.remedy, slot.name, verdict.data)


GPU_COUNT = Check(
    id="gpu.count",
    title="As many GPUs as expected",
    docs=(
        "Compares the GPUs that NVML shows and that answer with nvidia_driver_gpu_count. Without that "
        "variable it compares with the PCI bus (class 03, vendor 10de; GPUs bound to vfio-pci left "
        "out), except in a container, which sees the whole bus and only its own GPUs."
    ),
    remedy="look for the missing GPU with `lspci -d 10de:` and `dmesg`; reboot, then check power and seating",
    judge=_judge_count,
    needs=("gpus", "pci_gpus", "host"),
    when=gpus_to_count,
)

GPU_ANSWERS = Check(
    id="gpu.answers",
    title="Each GPU answers",
    docs=(
        "Opens each GPU and reads its identity, memory, temperature, power and modes. A GPU that is "
        "lost, that needs a reset, or whose driver call does not return within the deadline is named "
        "together with the call. What a GPU does not support is left out and is no fault."
    ),
    remedy="drain the host, save `dmesg`, and reboot; if it comes back, take the GPU out of service",
    judge=_judge_answers,
    over="gpus",
    when=gpus_to_count,
)

GPU_SLOTS = Check(
    id="gpu.slots",
    title="Each slot has its GPUs",
    docs=(
        "Every UUID that a slot claims in github_runner_slots, of a whole GPU or of a MIG device, must "
        "be among those NVML shows. Indices change between boots; UUIDs do not, but those of MIG "
        "devices do when the layout is made again."
    ),
    remedy="compare with `nvidia-smi -L`, correct the slot's gpus in inventory and provision again",
    judge=_judge_slots,
    needs=("gpus",),
    when=claims_gpus,
)
