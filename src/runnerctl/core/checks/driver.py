"""Is the NVIDIA driver there, and is it one driver?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runnerctl.core.checks.boot_scope import driver_due
from runnerctl.core.checks.expect import expects_gpus
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.snapshot import (
    GIVEN_AWAY,
    Host,
    NvidiaModule,
    Nvml,
    NvmlFailure,
    NvmlKind,
    PciGpu,
    Snapshot,
    Unavailable,
)
from runnerctl.core.spec import HostSpec

__all__ = ["DRIVER_MISMATCH", "DRIVER_NVML"]

_INSTALL = "install the NVIDIA driver for this GPU, or set nvidia_driver_gpu_count to 0 if jobs need none"
_LOAD = "load it with `modprobe nvidia`; if that fails, `dmesg` and `dkms status` say why"
_NOUVEAU = "blacklist nouveau, make the initramfs again and reboot; the role nvidia_driver does it"
_NODES = "make its device files with `nvidia-modprobe -c 0 -u`; if they exist, look at their owner and mode"
_LIBRARY = (
    "install the library package of exactly that version (libnvidia-ml1, libnvidia-compute-BRANCH, ...)"
)
_AGAIN = "install the driver's packages again: the library is damaged, or of another build than the module"
_RELOAD = "reboot, or reload the nvidia modules while no process uses a GPU; hold driver packages back"
_STUCK = "drain the host, save `dmesg`, and reboot; if it comes back, take the GPU out of service"
_RESTART = "start the container again: a daemon-reload on its host may have taken its devices away"
_GIVE = "give the container its GPUs (`--gpus`, or a CDI device), and look at the driver on its host"
_BINDING = "install runnerctl again in an environment of its own, without the package named pynvml"
_ROOT = "run it as root; if it was, look at the device rules of the unit and at /dev/nvidiactl"
_SLOW = "give it more time with --deadline, or turn persistence mode on"
_RESET = "drain the host and reset its GPUs with `nvidia-smi --gpu-reset`, or reboot"

# Kinds that need nothing but words: what is wrong, and what to do.
_REFUSALS: dict[NvmlKind, tuple[str, str]] = {
    "library_broken": ("the NVML library is damaged", _AGAIN),
    "gpu_lost": ("NVML fails, a GPU is lost", _STUCK),
    "reset_required": ("NVML fails until a GPU is reset", _RESET),
    "corrupted_inforom": ("NVML fails, an infoROM is corrupted", _STUCK),
    "irq": ("NVML fails, interrupts do not arrive", _STUCK),
    "hang": ("NVML hangs", _STUCK),
    "crash": ("NVML crashes", _AGAIN),
}


def _judge_nvml(
    nvml: Nvml,
    pci: tuple[PciGpu, ...] | None,
    module: NvidiaModule | None,
    host: Host,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    failure = nvml.failure
    version = module.version if module else None
    if nvml.not_asked:
        yield unknown(f"NVML was not asked again: {nvml.not_asked}", _STUCK)
    elif failure is None:
        note = "" if version else "; no kernel module is visible here (a container)"
        cuda = f", CUDA {nvml.cuda_version}" if nvml.cuda_version else ""
        driver = f"driver {nvml.driver_version or 'of an unknown version'}"
        summary = f"{driver}{cuda} answers and shows {_count(nvml.count or 0)}{note}"
        yield ok(summary, driver_version=nvml.driver_version, count=nvml.count)
    elif failure.kind in ("library_missing", "driver_not_loaded"):
        # GPUs on the bus of a container's host are not the container's.
        on_bus = () if host.container else pci or ()
        if host.container and failure.kind == "driver_not_loaded" and not expects_gpus(spec):
            yield warning(
                "the driver's library is here, and no driver can be reached from this container", _GIVE
            )
        else:
            yield _not_there(failure, on_bus, version, spec=spec)
    elif failure.kind != "mismatch":  # driver.mismatch has that
        yield _refused(failure, host)


def _not_there(
    failure: NvmlFailure, pci: Sequence[PciGpu], version: str | None, *, spec: HostSpec | None
) -> Verdict:
    """No driver: right where there is no GPU, an open wish where nobody asked, a fault where GPUs are due."""
    given = sum(gpu.driver == GIVEN_AWAY for gpu in pci)
    missing, on_bus = failure.kind == "library_missing", len(pci) - given
    state, remedy = _state(version, missing=missing)
    if not missing and _nouveau_holds(pci):
        state, remedy = f"{state}, because nouveau holds them", _NOUVEAU
    data = {"kind": failure.kind, "pci_gpus": on_bus, "module_version": version}
    if expects_gpus(spec):
        return critical(f"GPUs are expected, and {state} ({_count(on_bus)} on the PCI bus)", remedy, **data)
    if on_bus and not missing:
        return critical(f"{_count(on_bus)} on the PCI bus, and {state}", remedy, **data)
    if on_bus:
        return warning(f"{_count(on_bus)} on the PCI bus, and {state}", remedy, **data)
    if given:
        return ok(f"{_count(given)} given to virtual machines, and none left for this host", **data)
    if missing:
        return ok("no NVIDIA GPU and no driver: nothing to check", **data)
    remedy = "remove the driver packages, or look for the GPU with `lspci -d 10de:`"
    return warning("a driver is installed, but no NVIDIA GPU is on the PCI bus", remedy, **data)


def _state(version: str | None, *, missing: bool) -> tuple[str, str]:
    if missing and version:
        return f"kernel module {version} is loaded without its library libnvidia-ml.so.1", _LIBRARY
    if missing:
        return "no driver is installed", _INSTALL
    if version:
        return f"kernel module {version} is loaded and cannot be reached", _NODES
    return "the driver is not loaded", _LOAD


def _nouveau_holds(pci: Sequence[PciGpu]) -> bool:
    return bool(pci) and all(gpu.driver == "nouveau" for gpu in pci)


def _not_of_nouveau(snapshot: Snapshot) -> bool:
    """Everywhere, except where nouveau holds the GPUs of an installed driver (`driver.nouveau` says so)."""
    pci, nvml = snapshot.pci_gpus, snapshot.nvml
    failure = nvml.failure if isinstance(nvml, Nvml) else None
    if isinstance(pci, Unavailable) or failure is None or failure.kind != "driver_not_loaded":
        return True
    return not (_nouveau_holds(pci) and driver_due(snapshot))


def _refused(failure: NvmlFailure, host: Host) -> Verdict:
    data: dict[str, Any] = {
        "kind": failure.kind,
        "call": failure.call,
        "code": failure.code,
        "gpu": failure.gpu,
    }
    if failure.kind == "no_permission":
        said = critical if host.root else unknown
        return said("NVML refuses: no permission to open the driver's devices", _ROOT, **data)
    if failure.kind == "foreign_binding":
        return unknown(f"NVML cannot be asked: {failure.message}", _BINDING, **data)
    if failure.kind == "slow":
        return unknown(f"NVML is too slow to tell: {failure.message}", _SLOW, **data)
    what, remedy = _REFUSALS.get(failure.kind, ("NVML fails", _RESTART if host.container else _STUCK))
    return critical(f"{what}: {failure.message}", remedy, **data)


def _count(number: int) -> str:
    return f"{number} NVIDIA GPU{'' if number == 1 else 's'}"


def _nvml_read(snapshot: Snapshot) -> bool:
    """Whether NVML could be asked (where it could not, `driver.nvml` says so)."""
    return isinstance(snapshot.nvml, Nvml)


def _judge_mismatch(nvml: Nvml, module: NvidiaModule | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec  # two versions of one driver are wrong whatever the spec says
    version = module.version if module else None
    data = {"library_version": nvml.driver_version, "module_version": version}
    if nvml.failure and nvml.failure.kind == "mismatch":
        loaded = f"kernel module {version} is loaded" if version else "another module is loaded"
        summary = f"driver library and kernel module differ, and NVML refuses to answer: {loaded}"
        yield critical(summary, **data, kind="mismatch", call=nvml.failure.call, code=nvml.failure.code)
    elif nvml.driver_version and version:
        if nvml.driver_version == version:
            yield ok(f"library and kernel module are both {version}", **data)
        else:
            summary = f"the library answers for driver {nvml.driver_version}, the module is {version}"
            yield critical(summary, **data)


DRIVER_NVML = Check(
    id="driver.nvml",
    title="The driver answers",
    docs=(
        "Asks NVML (libnvidia-ml.so.1) for the driver's version and its GPUs, in a child process with a "
        "deadline. A missing and a damaged library, a driver that is not loaded, a missing permission, "
        "another package's pynvml, a call that never returns and a crash are told apart; a library of "
        "another version is driver.mismatch's. While NVML as a whole does not answer, the checks of single "
        "GPUs say nothing. A host without a GPU and without a driver is fine unless its spec expects GPUs. "
        "A process that hangs and cannot be killed is written down in /run/runnerctl/nvml-stuck.json, and "
        "NVML is not asked again while it lives."
    ),
    remedy=_LOAD,
    judge=_judge_nvml,
    needs=("nvml", "pci_gpus?", "nvidia_module?", "host"),
    when=_not_of_nouveau,
)

DRIVER_MISMATCH = Check(
    id="driver.mismatch",
    title="Driver library and kernel module are of one version",
    docs=(
        "A package upgrade replaces the driver's library at once and its kernel module at the next "
        "boot. Until then every new CUDA program on the host fails with 'Driver/library version "
        "mismatch'. The loaded version is read from /sys/module/nvidia/version, or else from "
        "/proc/driver/nvidia/version."
    ),
    remedy=_RELOAD,
    judge=_judge_mismatch,
    needs=("nvml", "nvidia_module?"),
    when=_nvml_read,
)
