"""Main memory, and the way between GPUs over PCI Express."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.driver_readings import DriverInstall, Memory
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import PciGpu, Snapshot
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]

_GIBIBYTE = 2**30
_WARNING_PERCENT = 5.0
_CRITICAL_PERCENT = 2.0
_MANY_CORRECTED = 1000  # since boot: a healthy module has a handful, a failing one thousands within a day


def _was_read(snapshot: Snapshot) -> bool:
    """Whether main memory was looked at."""
    return snapshot.memory is not None


def _judge_memory(memory: Memory | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    if memory is None or memory.total_bytes <= 0:
        return
    percent = 100 * memory.available_bytes / memory.total_bytes
    data = {
        "total_bytes": memory.total_bytes,
        "available_bytes": memory.available_bytes,
        "corrected_errors": memory.corrected_errors,
        "uncorrected_errors": memory.uncorrected_errors,
    }
    of = f"{memory.available_bytes / _GIBIBYTE:.1f} of {memory.total_bytes / _GIBIBYTE:.1f} GiB"
    faults = list(_errors(memory, data))
    yield from faults
    if percent < _CRITICAL_PERCENT:
        yield critical(f"memory is all but used up: {of} available, under {_CRITICAL_PERCENT:.0f} %", **data)
    elif percent < _WARNING_PERCENT:
        yield warning(f"memory is short: {of} available, under {_WARNING_PERCENT:.0f} %", **data)
    elif not faults:
        yield ok(f"{of} available", **data)


def _errors(memory: Memory, data: dict[str, int | None]) -> Iterable[Verdict]:
    remedy = "find the module with `edac-util -v` or `ras-mc-ctl --error-count`, and replace it"
    if memory.uncorrected_errors:
        summary = f"{memory.uncorrected_errors} uncorrected memory errors since the host was started"
        yield critical(summary, f"drain the host; {remedy}", **data)
    elif memory.corrected_errors and memory.corrected_errors >= _MANY_CORRECTED:
        summary = f"{memory.corrected_errors} corrected memory errors since the host was started"
        yield warning(summary, remedy, **data)


def _peers(snapshot: Snapshot) -> bool:
    """Whether it is bare metal with two GPUs or more, whose PCI paths could be read."""
    install, pci = snapshot.driver_install, snapshot.pci_gpus
    if snapshot.host.container or not isinstance(install, DriverInstall) or install.virtual_machine:
        return False
    return isinstance(pci, tuple) and sum(gpu.driver == "nvidia" for gpu in pci) > 1


def _judge_iommu(
    install: DriverInstall, pci: tuple[PciGpu, ...], *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del pci, spec
    data = {"iommu_type": install.iommu_type, "bridges": list(install.acs_redirect)}
    if install.acs_redirect:
        yield warning(
            f"{len(install.acs_redirect)} PCIe switch ports send traffic between GPUs up to the root complex "
            f"(ACS): {', '.join(install.acs_redirect[:3])}",
            **data,
        )
    else:
        kind = f"the IOMMU's domain is {install.iommu_type}" if install.iommu_type else "no IOMMU"
        yield ok(f"no PCIe switch redirects traffic between GPUs; {kind}", **data)


CHECKS: tuple[Check, ...] = (
    Check(
        id="host.memory",
        title="Main memory is free and sound",
        docs=(
            "Memory that is available to programs (MemAvailable) as a share of all of it: under 5 % is a "
            "warning, under 2 % is critical. Errors that ECC could not correct, counted by EDAC since "
            "the start, are critical; corrected ones are a warning from 1000 on."
        ),
        remedy="look for what holds it: `ps --sort=-rss -eo pid,rss,comm | head`",
        judge=_judge_memory,
        needs=("memory",),
        when=_was_read,
    ),
    Check(
        id="host.iommu",
        title="GPUs reach each other directly",
        docs=(
            "Only on bare metal with two GPUs or more. Access control services (ACS) on a PCIe switch that "
            "redirect peer-to-peer traffic to the root complex make copies between GPUs slow and NCCL "
            "hang. Guests need the redirection; hosts of runners do not. Reading it needs root."
        ),
        remedy="switch ACS off in the firmware's settings, or with `setpci -s PORT ECAP_ACS+6.w=0`",
        judge=_judge_iommu,
        needs=("driver_install", "pci_gpus"),
        when=_peers,
    ),
)
