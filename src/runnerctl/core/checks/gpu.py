"""Are the GPUs there, does each answer, and has each slot the ones it claims?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runnerctl.core.checks.each import gpus_answer
from runnerctl.core.checks.expect import claims_gpus
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.snapshot import (
    GIVEN_AWAY,
    Gpu,
    Host,
    NvidiaModule,
    Nvml,
    NvmlFailure,
    NvmlKind,
    PciGpu,
    Snapshot,
)
from runnerctl.core.spec import HostSpec, Slot

__all__ = ["GPU_ANSWERS", "GPU_COUNT", "GPU_SLOTS"]

_MEBIBYTE = 2**20
_STUCK = "drain the host, save `dmesg`, and reboot; if it comes back, take the GPU out of service"
_NO_POWER = 8  # NVML_ERROR_INSUFFICIENT_POWER
_POWER = "drain the host, switch it off, and attach the GPU's external power cables"
_RESET = "drain the slots that use it, then `nvidia-smi --gpu-reset -i {index}`, or reboot"

# What is wrong with a GPU whose call failed so, and what to do; None: NVML's own words.
_SICK: dict[NvmlKind, tuple[str | None, str]] = {
    "gpu_lost": (
        "the GPU has fallen off the bus or is no longer reachable",
        "drain the host and reboot; if it stays away, cut the power, then reseat or replace the GPU",
    ),
    "reset_required": ("the GPU needs a reset before it can be used again", _RESET),
    "corrupted_inforom": (
        "the GPU's infoROM is corrupted",
        "drain the host and cut its power once; if it comes back, have the GPU replaced",
    ),
    "irq": (
        "the GPU's interrupts do not arrive",
        "reboot; if it comes back, look at the interrupt settings of firmware and kernel command line",
    ),
    "hang": (None, _STUCK),
    "crash": (
        None,
        "install the driver's packages again; if only this GPU does it, take it out of service",
    ),
}


def _nvml_answers(snapshot: Snapshot) -> bool:
    """Whether NVML answers as a whole (where it does not, `driver.nvml` says why)."""
    return isinstance(snapshot.nvml, Nvml) and snapshot.nvml.failure is None


def _slots_claim(snapshot: Snapshot) -> bool:
    """Whether a slot claims a GPU by its UUID, and NVML answers as a whole."""
    return claims_gpus(snapshot) and _nvml_answers(snapshot)


def _judge_count(
    nvml: Nvml,
    pci: tuple[PciGpu, ...] | None,
    module: NvidiaModule | None,
    host: Host,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    gpus = nvml.gpus
    # A GPU given to a virtual machine is not this host's any more; a container sees its host's bus.
    on_bus = [gpu for gpu in pci or () if gpu.driver != GIVEN_AWAY]
    unseen = [] if host.container else _unseen(gpus, on_bus)
    expected = spec.nvidia_driver.gpu_count if spec else None
    sick = [gpu.index for gpu in gpus if gpu.failure and gpu.failure.kind != "no_permission"]
    data = {
        "listed": len(gpus),
        "pci": len(on_bus),
        "expected": expected,
        "sick": sick,
        "unseen": [gpu.address for gpu in unseen],
    }
    why = _why(unseen, module)
    if expected is not None and len(gpus) < expected:
        yield critical(f"NVML shows {len(gpus)} of {_gpus(expected)}{why}", **data)
    elif unseen:
        yield warning(f"{_gpus(len(on_bus))} on the PCI bus, and NVML shows {len(gpus)}{why}", **data)
    elif expected is not None and len(gpus) > expected:
        remedy = f"set nvidia_driver_gpu_count to {len(gpus)} if the new GPUs are meant to be here"
        more = len(gpus) - expected
        yield warning(f"{_gpus(len(gpus))}, {more} more than the spec says", remedy, **data)
    elif gpus:
        note = f"; {len(sick)} do{'es' if len(sick) == 1 else ''} not answer" if sick else ""
        said = "no number is expected" if expected is None else "as the spec says"
        yield ok(f"{_gpus(len(gpus))}, {said}{note}", **data)


def _unseen(gpus: Sequence[Gpu], on_bus: Sequence[PciGpu]) -> list[PciGpu]:
    """GPUs on the bus that NVML does not list. One that did not even tell its address may be any of them."""
    listed = {_address(gpu.pci_bus_id) for gpu in gpus if gpu.pci_bus_id}
    blind = sum(gpu.pci_bus_id is None for gpu in gpus)
    others = [gpu for gpu in on_bus if _address(gpu.address) not in listed]
    return others if len(others) > blind else []


def _address(text: str) -> str:
    """A PCI address with a domain of four digits, as /sys has it; NVML's has eight."""
    domain, _, rest = text.lower().partition(":")
    return f"{domain[-4:]:0>4}:{rest}"


def _why(unseen: Sequence[PciGpu], module: NvidiaModule | None) -> str:
    said = [f"{gpu.address} ({_holder(gpu, module)})" for gpu in unseen]
    return f": not {', '.join(said)}" if said else ""


def _holder(gpu: PciGpu, module: NvidiaModule | None) -> str:
    if gpu.driver is None:
        return "no driver is bound to it"
    if gpu.driver != "nvidia":
        return f"{gpu.driver} holds it"
    known = module.gpus if module else None
    if known is not None and _address(gpu.address) not in map(_address, known):
        return "the driver could not start it"
    return "the driver has it"


def _gpus(number: int) -> str:
    return f"{number} GPU{'' if number == 1 else 's'}"


def _judge_answers(gpu: Gpu, gpus: tuple[Gpu, ...], *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec  # a GPU that does not answer is a fault whoever wants it
    failure = gpu.failure
    if failure is None:
        yield ok(_describe(gpu), uuid=gpu.uuid, pci_bus_id=gpu.pci_bus_id)
        return
    data = {"kind": failure.kind, "call": failure.call, "code": failure.code, "uuid": gpu.uuid}
    if failure.kind == "no_permission":
        yield _denied(gpu, failure, gpus, data)
    elif failure.kind == "not_reached":
        remedy = "mend the GPU that stopped the probe first"
        yield unknown(f"not asked: {failure.message}", remedy, **data)
    elif failure.kind == "slow":
        remedy = "give it more time with --deadline, or turn persistence mode on"
        yield unknown(f"not read to the end: {failure.message}", remedy, **data)
    else:
        words, remedy = _SICK.get(failure.kind, (None, _POWER if failure.code == _NO_POWER else _STUCK))
        summary = f"{failure.call}: {words}" if words else failure.message
        yield critical(summary, remedy.format(index=gpu.index), **data)


def _denied(gpu: Gpu, failure: NvmlFailure, gpus: Sequence[Gpu], data: dict[str, Any]) -> Verdict:
    """Inside a slot's device rules other slots' GPUs are listed and cannot be opened; that is right."""
    others = any(other.failure is None for other in gpus)
    if gpu.uuid is None and others:
        return ok("not given to this process, which has others", **data)
    if gpu.uuid is None:
        remedy = "run it as root, outside a slot's device rules"
        return unknown(f"{failure.call}: this process may not open it", remedy, **data)
    return unknown(f"{failure.call}: this process may not ask that", "run it as root", **data)


def _describe(gpu: Gpu) -> str:
    parts = [gpu.name or "GPU"]
    if gpu.temperature_celsius is not None:
        parts.append(f"{gpu.temperature_celsius} °C")
    if gpu.memory_total_bytes and gpu.memory_used_bytes is not None:
        used, total = gpu.memory_used_bytes // _MEBIBYTE, gpu.memory_total_bytes // _MEBIBYTE
        parts.append(f"{used} of {total} MiB in use")
    return ", ".join(parts)


def _judge_slots(nvml: Nvml, *, spec: HostSpec | None) -> Iterable[Verdict]:
    whole = {gpu.uuid.lower(): gpu for gpu in nvml.gpus if gpu.uuid}
    slices = {uuid.lower(): gpu for gpu in nvml.gpus for uuid in gpu.mig_uuids}
    for slot in spec.github_runner.slots if spec else ():
        if slot.gpus:
            verdict = _judge_slot(slot, whole | slices, nvml.gpus)
            yield Verdict(verdict.status, verdict.summary, verdict.remedy, slot.name, verdict.data)


def _judge_slot(slot: Slot, known: dict[str, Gpu], gpus: Sequence[Gpu]) -> Verdict:
    missing = [uuid for uuid in slot.gpus if uuid.lower() not in known]
    # GPUs that did not get as far as telling what they are: any of them may be a missing one.
    hidden = [
        gpu.failure.kind for gpu in gpus if gpu.failure and (gpu.uuid is None or _cut_off(gpu, missing))
    ]
    sick = {uuid: gpu.failure.kind for uuid in slot.gpus if (gpu := known.get(uuid.lower())) and gpu.failure}
    untold = ("not_reached", "slow", "no_permission")
    if missing and hidden and all(kind == "no_permission" for kind in hidden):
        return ok(
            f"cannot be seen from here: this process may not open {_gpus(len(hidden))}", missing=missing
        )
    if missing and hidden and all(kind in untold for kind in hidden):
        return unknown(f"claims what was not reached: {', '.join(missing)}", missing=missing)
    if missing:
        what = "what is not here, or does not answer" if hidden else "what is not here"
        return critical(f"claims {what}: {', '.join(missing)}", missing=missing)
    if sick and all(kind in untold for kind in sick.values()):
        return unknown(f"claims a GPU that could not be asked: {', '.join(sick)}", sick=list(sick))
    if sick:
        remedy = "mend the GPU first: gpu.answers says what is wrong with it"
        return critical(f"claims a GPU that does not answer: {', '.join(sick)}", remedy, sick=list(sick))
    count = len(slot.gpus)
    return ok(f"the GPU it claims is here{'' if count == 1 else f' (all {count})'}", gpus=count)


def _cut_off(gpu: Gpu, missing: Sequence[str]) -> bool:
    """Whether a missing MIG device may be one of a GPU that was not read to the end."""
    return not gpu.mig_uuids and any(uuid.upper().startswith("MIG-") for uuid in missing)


GPU_COUNT = Check(
    id="gpu.count",
    title="As many GPUs as expected",
    docs=(
        "Compares the GPUs that NVML lists with nvidia_driver_gpu_count, and with the PCI bus (class 03, "
        "vendor 10de; GPUs bound to vfio-pci left out), except in a container, which sees the whole bus and "
        "only its own GPUs. A GPU that NVML does not show is named by its PCI address. GPUs that are listed "
        "and do not answer are gpu.answers' affair."
    ),
    remedy="look for the missing GPU with `lspci -d 10de:` and `dmesg`; reboot, then check power and seating",
    judge=_judge_count,
    needs=("nvml", "pci_gpus?", "nvidia_module?", "host"),
    when=_nvml_answers,
)

GPU_ANSWERS = Check(
    id="gpu.answers",
    title="Each GPU answers",
    docs=(
        "Opens each GPU and reads its identity, memory, temperature, power, links and modes. A GPU that is "
        "lost, that needs a reset, whose infoROM is corrupted, whose interrupts do not arrive, or whose "
        "driver call does not return within the deadline or crashes is named together with the call; the "
        "others are read all the same. What a GPU does not support is left out and is no fault, nor is a GPU "
        "that the device rules of a slot keep from this process."
    ),
    remedy=_STUCK,
    judge=_judge_answers,
    over="gpus",
    needs=("gpus",),
    when=gpus_answer,
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
    needs=("nvml",),
    when=_slots_claim,
)
