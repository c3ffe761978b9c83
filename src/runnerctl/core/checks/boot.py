"""Will the driver still be there after the next reload, and after the next boot?

None of these speaks in a container, which boots no kernel, nor on a host without any part of a driver.
"""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.checks.boot_devices import DRIVER_CDI, DRIVER_FABRIC_MANAGER, DRIVER_PERSISTENCED
from runnerctl.core.checks.boot_scope import boots, driver_due, loaded
from runnerctl.core.driver_names import is_driver_package
from runnerctl.core.driver_readings import DriverInstall, KernelModule
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import Host, NvidiaModule, PciGpu
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]

_UNKNOWN = "unknown"
_FEDORA = frozenset({"rhel", "rocky", "almalinux", "centos", "ol", "fedora"})
_REBUILD = "run the provision playbook with --tags nvidia_driver"


def _module_for(install: DriverInstall, kernel: str | None) -> KernelModule | None:
    return next((module for module in install.modules if module.kernel == kernel), None)


def _known(module: KernelModule | None) -> str | None:
    """The module's version, when there is a module and its file could be read."""
    return module.version if module and module.version != _UNKNOWN else None


def _judge_on_disk(
    install: DriverInstall, module: NvidiaModule, host: Host, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec  # what is loaded and what is on disk should agree whoever installed it
    entry = _module_for(install, install.kernel)
    running, disk, library = module.version, _known(entry), install.library_version
    if running is None:
        return
    data = {"loaded": running, "on_disk": disk, "library": library, "kernel": install.kernel}
    if entry is None or entry.version is None:
        if _anywhere(install):
            yield warning(
                f"module {running} is loaded, and the running kernel {install.kernel} has none on disk: "
                "it works until it is unloaded",
                _for_kernel(install, entry, kernel=install.kernel, host=host),
                **data,
            )
    elif library and library != running:
        yield _library_differs(running, disk, library=library, data=data)
    elif disk and disk != running:
        yield warning(
            f"module {disk} is on disk while {running} is loaded: the driver works until the next reload or "
            f"reboot, and then its library {library or running} no longer fits",
            f"install library and kernel module of one version: {_REBUILD}",
            **data,
        )
    else:
        yield ok(f"loaded module, module on disk and library are all {running}", **data)


def _library_differs(running: str, disk: str | None, *, library: str, data: dict[str, str | None]) -> Verdict:
    if disk in (library, None):
        return critical(
            f"the driver was upgraded to {library} while {running} is loaded: "
            "new CUDA programs fail until the module is reloaded or the host rebooted",
            **data,
        )
    return critical(
        f"the library is {library}, and the module {running if disk == running else disk} stays on disk: "
        "a reboot does not mend it",
        f"install library and kernel module of one version: {_REBUILD}",
        **data,
    )


def _anywhere(install: DriverInstall) -> bool:
    """Whether we can see how this driver got here: modules, DKMS or packages."""
    return bool(
        install.dkms_sources
        or any(module.version for module in install.modules)
        or any(is_driver_package(name) for name in install.packages)
    )


def _judge_next_boot(
    install: DriverInstall, module: NvidiaModule, host: Host, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec
    kernel = install.next_kernel
    if kernel is None or not _anywhere(install):
        return
    entry = _module_for(install, kernel)
    library = install.library_version
    data = {
        "kernel": kernel,
        "running": install.kernel,
        "module": entry.version if entry else None,
        "library": library,
        "dkms": entry.dkms if entry else None,
        "without": [each.kernel for each in install.modules if each.version is None],
    }
    if entry is None or entry.version is None:
        why = _why(install, entry)
        # Where that kernel runs already and nothing is loaded, the boot has come: jobs fail now.
        said = critical if kernel == install.kernel and not module.version else warning
        summary = f"the next boot ({kernel}) will come up without the driver: {why}"
        yield said(summary, _for_kernel(install, entry, kernel=kernel, host=host), **data)
    elif _known(entry) and library and entry.version != library:
        if kernel != install.kernel:  # for the running kernel driver.module_on_disk says it
            yield warning(
                f"the next boot ({kernel}) will load module {entry.version}, and the library is {library}",
                f"`dkms autoinstall -k {kernel}`" if install.dkms_sources else _REBUILD,
                **data,
            )
    else:
        yield ok(f"the next boot ({kernel}) has module {entry.version}", **data)


def _why(install: DriverInstall, entry: KernelModule | None) -> str:
    if not install.dkms_sources:
        return "it has no nvidia module"
    if entry is None or not entry.headers:
        return "it has no nvidia module, and its headers are missing, so DKMS cannot build one"
    if entry.dkms == "failed":
        return "DKMS could not build its nvidia module"
    if entry.dkms == "built":
        return "DKMS built its nvidia module and did not install it"
    if entry.dkms == "installed":
        return "DKMS holds its nvidia module to be installed, and the file is gone"
    return "DKMS has not built its nvidia module"


def _for_kernel(install: DriverInstall, entry: KernelModule | None, *, kernel: str, host: Host) -> str:
    """The one thing to do so that ``kernel`` gets its module."""
    if not install.dkms_sources:
        signed = sorted(name for name in install.packages if name.startswith("linux-modules-nvidia-"))
        if signed:
            branch = "-".join(signed[0].removeprefix("linux-modules-nvidia-").split("-")[:2])
            return f"`apt-get install linux-modules-nvidia-{branch.removesuffix('-generic')}-{kernel}`"
        return _REBUILD
    build = f"`dkms autoinstall -k {kernel}`"
    if entry is None or not entry.headers:
        package = "dnf install kernel-devel" if host.os_id in _FEDORA else "apt-get install linux-headers"
        return f"`{package}-{kernel}`, then {build}"
    if entry.dkms == "installed":  # `autoinstall` would find nothing to do
        version = install.dkms_sources[-1]
        return f"`dkms install --force NAME/{version} -k {kernel}`, with the NAME that `dkms status` gives"
    if entry.dkms == "failed":
        log = f"/var/lib/dkms/nvidia*/{install.dkms_sources[-1]}/build/make.log"
        return f"read {log}, mend what it says, then {build}"
    return build


def _judge_secure_boot(install: DriverInstall, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    entry = _module_for(install, install.next_kernel or install.kernel)
    if not install.secure_boot or entry is None or entry.version is None:
        return
    data = {"kernel": entry.kernel, "path": entry.path, "signed": entry.signed, "key": install.mok_key}
    by_dkms = entry.dkms is not None
    if entry.signed is False:
        yield critical(
            f"Secure Boot is on, and the nvidia module of {entry.kernel} is not signed: it will be refused",
            "install the distribution's signed modules, or let DKMS sign and enrol its key with mokutil",
            **data,
        )
    elif by_dkms and install.mok_enrolled is False:
        yield critical(
            f"Secure Boot is on, and the key {install.mok_key} that signs the nvidia module is not enrolled",
            f"`mokutil --import {install.mok_key}`, then reboot and confirm it on the console",
            **data,
        )
    else:
        doubt = by_dkms and install.mok_enrolled is None
        how = "; whether its key is enrolled cannot be told" if doubt else ""
        yield ok(f"Secure Boot is on, and the nvidia module of {entry.kernel} is signed{how}", **data)


def _judge_nouveau(
    install: DriverInstall, pci: tuple[PciGpu, ...], *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec
    taken = [gpu.address for gpu in pci if gpu.driver == "nouveau"]
    kernel = install.next_kernel or install.kernel
    data = {"bound": taken, "blacklisted": install.nouveau_blacklisted, "kernel": kernel}
    if taken:
        yield critical(
            f"nouveau holds {', '.join(taken)}: the NVIDIA driver cannot have it",
            f"{_REBUILD} (it blacklists nouveau and makes the initramfs again), then reboot",
            **data,
        )
    elif install.nouveau_present and not install.nouveau_blacklisted:
        yield warning(f"nouveau is not blacklisted: at the next boot ({kernel}) it may take the GPUs", **data)
    elif install.nouveau_present and install.initramfs_newer is False:
        yield warning(
            f"the initramfs of {kernel} is older than the blacklist: nouveau may take the GPUs at boot",
            f"`update-initramfs -u -k {kernel}`, or `dracut --force --kver {kernel}`",
            **data,
        )
    elif install.nouveau_present:
        yield ok("nouveau is blacklisted", **data)
    else:
        yield ok(f"kernel {kernel} has no nouveau", **data)


def _judge_holds(install: DriverInstall, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    packages = sorted(filter(is_driver_package, install.packages))
    loose = [name for name in packages if name not in install.held]
    if not packages:
        return
    data = {"packages": packages, "not_held": loose, "upgrades_blocked": install.upgrades_blocked}
    if install.upgrades_blocked is False and loose:
        shown = ", ".join(loose[:3]) + (f" and {len(loose) - 3} more" if len(loose) > 3 else "")
        yield warning(
            f"automatic upgrades are on and may replace the driver under a running job: {shown}",
            f"hold them (`apt-mark hold`, `dnf versionlock add`): {_REBUILD}",
            **data,
        )
    elif install.upgrades_blocked is None and loose:
        yield ok("no automatic upgrade changes the driver", **data)
    else:
        yield ok("automatic upgrades leave the driver alone", **data)


CHECKS: tuple[Check, ...] = (
    Check(
        id="driver.module_on_disk",
        title="The loaded module is the one on disk",
        docs=(
            "Compares three versions: the loaded kernel module, the module file for the running kernel "
            "and the library on disk (the file that libnvidia-ml.so.1 leads to). It tells an upgrade that "
            "a reload or reboot finishes from one that leaves library and module apart for good, and "
            "from a driver that works only as long as it stays loaded."
        ),
        remedy="drain the host, then reload the nvidia modules while no process uses a GPU, or reboot",
        judge=_judge_on_disk,
        needs=("driver_install", "nvidia_module", "host"),
        when=loaded,
    ),
    Check(
        id="driver.next_boot",
        title="The next boot has the driver",
        docs=(
            "Finds the kernel that the next boot takes (the boot loader's saved or configured entry, or "
            "else the highest installed one) and looks whether it has an nvidia module that fits the "
            "installed library; if not, whether DKMS could build one: its source, the kernel's headers, a "
            "failed build. Only files are read. A missing module is a warning while the driver works: "
            "jobs run until the reboot."
        ),
        remedy=_REBUILD,
        judge=_judge_next_boot,
        needs=("driver_install", "nvidia_module", "host"),
        when=boots,
    ),
    Check(
        id="driver.secure_boot",
        title="Secure Boot accepts the module",
        docs=(
            "Only where the firmware enforces Secure Boot. The module for the next kernel must carry a "
            "signature, and if DKMS made it, the key that DKMS signs with must be in the list of enrolled "
            "keys (MokListRT). What the kernel already refused stands in the kernel log."
        ),
        remedy="enrol the key with `mokutil --import`, or use the distribution's signed modules",
        judge=_judge_secure_boot,
        needs=("driver_install",),
        when=driver_due,
    ),
    Check(
        id="driver.nouveau",
        title="Nouveau keeps off the GPUs",
        docs=(
            "Nouveau and the NVIDIA driver cannot share a GPU. Looks which driver each GPU is bound to, "
            "whether modprobe's configuration or the kernel's command line blacklists nouveau, and "
            "whether the initramfs of the next kernel was made after that."
        ),
        remedy=_REBUILD,
        judge=_judge_nouveau,
        needs=("driver_install", "pci_gpus"),
        when=driver_due,
    ),
    Check(
        id="driver.holds",
        title="No automatic upgrade replaces the driver",
        docs=(
            "An unattended upgrade of the driver's packages breaks every job until the next reboot. "
            "Packages may be held by dpkg or dnf's versionlock, or left out by unattended-upgrades' "
            "blacklist or dnf's excludes. Without automatic upgrades there is nothing to hold."
        ),
        remedy=_REBUILD,
        judge=_judge_holds,
        needs=("driver_install",),
        when=driver_due,
    ),
    DRIVER_FABRIC_MANAGER,
    DRIVER_PERSISTENCED,
    DRIVER_CDI,
)
