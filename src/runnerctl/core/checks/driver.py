"""Is the NVIDIA driver there, and is it one driver?"""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.checks.expect import expects_gpus
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.snapshot import Host, NvidiaModule, Nvml, NvmlFailure, PciGpu
from runnerctl.core.spec import HostSpec

__all__ = ["DRIVER_MISMATCH", "DRIVER_NVML"]

_INSTALL = "install the NVIDIA driver for this GPU, or set nvidia_driver_gpu_count to 0 if jobs need none"
_LOAD = "load it with `modprobe nvidia`; if that fails, `dmesg` and `dkms status` say why"
_RELOAD = "reboot, or reload the nvidia modules while no process uses a GPU; hold driver packages back"
_STUCK = "drain the host, save `dmesg`, and reboot; if it comes back, take the GPU out of service"


def _judge_nvml(
    nvml: Nvml, pci: tuple[PciGpu, ...], module: NvidiaModule, host: Host, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    failure = nvml.failure
    if failure is None:
        note = "" if module.version else "; no kernel module is visible here (a container)"
        cuda = f", CUDA {nvml.cuda_version}" if nvml.cuda_version else ""
        summary = f"driver {nvml.driver_version}{cuda} answers and shows {_count(nvml.count or 0)}{note}"
        yield ok(summary, driver_version=nvml.driver_version, count=nvml.count)
    elif failure.kind in ("library_missing", "driver_not_loaded"):
        yield _not_there(failure, len(pci), spec)
    else:
        yield _refused(failure, host)


def _not_there(failure: NvmlFailure, on_bus: int, spec: HostSpec | None) -> Verdict:
    """No driver: right where there is no GPU, an open wish where nobody asked, a fault where GPUs are due."""
    missing = failure.kind == "library_missing"
    state = "no driver is installed" if missing else "the driver is not loaded"
    remedy = _INSTALL if missing else _LOAD
    data = {"kind": failure.kind, "pci_gpus": on_bus}
    if expects_gpus(spec):
        return critical(f"GPUs are expected, and {state} ({_count(on_bus)} on the PCI bus)", remedy, **data)
    if on_bus and not missing:
        return critical(f"{_count(on_bus)} on the PCI bus, and {state}", remedy, **data)
    if on_bus:
        return warning(f"{_count(on_bus)} on the PCI bus, and {state}", remedy, **data)
    if missing:
        return ok("no NVIDIA GPU and no driver: nothing to check", **data)
    remedy = "remove the driver packages, or look for the GPU with `lspci -d 10de:`"
    return warning("a driver is installed, but no NVIDIA GPU is on the PCI bus", remedy, **data)


def _refused(failure: NvmlFailure, host: Host) -> Verdict:
    data = {"kind": failure.kind, "call": failure.call, "code": failure.code}
    if failure.kind == "mismatch":
        return critical("NVML refuses: driver library and kernel module differ", _RELOAD, **data)
    if failure.kind == "no_permission":
        remedy = "run it as root; if it was, look at the owner and mode of /dev/nvidiactl"
        said = critical if host.root else unknown
        return said("NVML refuses: no permission to open the driver's devices", remedy, **data)
    if failure.kind == "hang":
        return critical(f"NVML hangs: {failure.message}", _STUCK, **data)
    if failure.kind == "crash":
        remedy = "install the driver's packages again: the library and the driver may be of different builds"
        return critical(f"NVML crashes: {failure.message}", remedy, **data)
    return critical(f"NVML fails: {failure.message}", _STUCK, **data)


def _count(number: int) -> str:
    return f"{number} NVIDIA GPU{'' if number == 1 else 's'}"


def _judge_mismatch(nvml: Nvml, module: NvidiaModule, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec  # two versions of one driver are wrong whatever the spec says
    data = {"library_version": nvml.driver_version, "module_version": module.version}
    if nvml.failure and nvml.failure.kind == "mismatch":
        loaded = f"kernel module {module.version} is loaded" if module.version else "another module is loaded"
        yield critical(f"the driver library was changed under a running driver: {loaded}", **data)
    elif nvml.driver_version and module.version:
        if nvml.driver_version == module.version:
            yield ok(f"library and kernel module are both {module.version}", **data)
        else:
            summary = f"the library answers for driver {nvml.driver_version}, the module is {module.version}"
            yield critical(summary, **data)


DRIVER_NVML = Check(
    id="driver.nvml",
    title="The driver answers",
    docs=(
        "Asks NVML (libnvidia-ml.so.1) for the driver's version and its GPUs, in a child process with a "
        "deadline. A missing library, a driver that is not loaded, a library of another version, a "
        "missing permission, a call that never returns and a crash are told apart. A host without a GPU "
        "and without a driver is fine unless its spec expects GPUs."
    ),
    remedy=_LOAD,
    judge=_judge_nvml,
    needs=("nvml", "pci_gpus", "nvidia_module", "host"),
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
    needs=("nvml", "nvidia_module"),
)
