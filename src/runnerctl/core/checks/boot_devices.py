"""What the driver needs beside its module: fabric manager, persistence daemon, CDI specification."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.checks.boot_scope import driver_due, loaded
from runnerctl.core.driver_readings import DriverInstall
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.gpu_generations import needs_subnet_manager
from runnerctl.core.snapshot import NvidiaModule, Nvml, Snapshot
from runnerctl.core.spec import HostSpec

__all__ = ["DRIVER_CDI", "DRIVER_FABRIC_MANAGER", "DRIVER_PERSISTENCED"]

_REFRESH = "`systemctl restart nvidia-cdi-refresh`, or `nvidia-ctk cdi generate --output={path}`"


def _has_switches(snapshot: Snapshot) -> bool:
    """Whether the GPUs are joined by NVSwitches, and a driver is installed or due."""
    install = snapshot.driver_install
    if not driver_due(snapshot) or not isinstance(install, DriverInstall):
        return False
    gpus = snapshot.pci_gpus if isinstance(snapshot.pci_gpus, tuple) else ()
    # The switches of newer boards are no PCI devices; a whole board is known by its GPUs.
    return install.nvswitches > 0 or needs_subnet_manager(
        tuple(gpu.device.removeprefix("0x") for gpu in gpus)
    )


def _judge_fabric(
    install: DriverInstall, module: NvidiaModule, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec
    driver, manager = module.version or install.library_version, install.fabric_manager_version
    data = {
        "nvswitches": install.nvswitches,
        "state": install.fabric_manager,
        "version": manager,
        "driver": driver,
    }
    switches = f"{install.nvswitches} NVSwitches" if install.nvswitches else "a board with NVSwitches"
    fails = "CUDA programs fail with error 802 (system not yet initialized)"
    if install.fabric_manager is None:
        remedy = f"install the fabric manager of exactly the driver's version ({driver}) and start it"
        yield critical(f"{switches}, and no fabric manager: {fails}", remedy, **data)
    elif driver and manager and manager != driver:
        remedy = f"install the fabric manager of exactly the driver's version ({driver})"
        yield critical(f"fabric manager {manager} does not fit driver {driver}: {fails}", remedy, **data)
    elif install.fabric_manager not in ("active", "activating", "reloading", "unknown"):
        yield critical(f"the fabric manager is {install.fabric_manager}: {fails}", **data)
    else:
        yield ok(f"fabric manager {manager or ''} serves {switches}", **data)


def _needs_daemon(snapshot: Snapshot) -> bool:
    """The daemon is installed, a driver loaded, and not every GPU has persistence on without it."""
    install, spec = snapshot.driver_install, snapshot.host_spec
    if not loaded(snapshot) or not isinstance(install, DriverInstall) or install.persistenced is None:
        return False
    if spec is not None and not spec.nvidia_driver.persistence:
        return False
    gpus = snapshot.nvml.gpus if isinstance(snapshot.nvml, Nvml) else ()
    return install.persistenced == "active" or not gpus or not all(gpu.persistence for gpu in gpus)


def _judge_persistenced(install: DriverInstall, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    state = install.persistenced
    if state in ("inactive", "failed", "deactivating"):
        summary = f"the persistence daemon is {state}: each first use of an idle GPU takes seconds"
        yield warning(summary, state=state)
    elif state == "active":
        yield ok("the persistence daemon runs", state=state)


def _cdi_wanted(spec: HostSpec | None) -> bool:
    return spec is not None and spec.container_toolkit.manage and spec.container_toolkit.cdi


def _cdi_due(snapshot: Snapshot) -> bool:
    """Whether a driver is loaded, and a CDI specification is there or wanted by the spec."""
    install = snapshot.driver_install
    if not loaded(snapshot) or not isinstance(install, DriverInstall):
        return False
    return install.cdi_path is not None or _cdi_wanted(snapshot.host_spec)


def _judge_cdi(install: DriverInstall, module: NvidiaModule, *, spec: HostSpec | None) -> Iterable[Verdict]:
    path, made_for = install.cdi_path, install.cdi_driver
    driver = install.library_version or module.version
    said = critical if _cdi_wanted(spec) else warning
    data = {"path": path, "made_for": made_for, "driver": driver, "missing": list(install.cdi_missing)}
    remedy = _REFRESH.format(path=path or "/var/run/cdi/nvidia.yaml")
    if path is None:
        yield said("there is no CDI specification: containers cannot ask for GPUs by name", remedy, **data)
    elif made_for and driver and made_for != driver:
        summary = (
            f"{path} was made for driver {made_for}, and {driver} is installed: containers fail to start"
        )
        yield said(summary, remedy, **data)
    elif install.cdi_missing:
        shown = ", ".join(install.cdi_missing[:3])
        yield said(f"{path} names what is not there: {shown}; containers fail to start", remedy, **data)
    else:
        count = len(install.cdi_devices)
        yield ok(f"{path} fits driver {driver} ({count} device{'' if count == 1 else 's'})", **data)


DRIVER_FABRIC_MANAGER = Check(
    id="driver.fabric_manager",
    title="The fabric manager runs and fits the driver",
    docs=(
        "Only on hosts with NVSwitches: PCI class 0680 of vendor 10de, or all GPUs of a board whose switches "
        "are no PCI devices. Their fabric must be set up by the fabric manager, whose version must equal "
        "the driver's exactly; without it every CUDA program fails with error 802."
    ),
    remedy="`systemctl enable --now nvidia-fabricmanager`, and read `journalctl -u nvidia-fabricmanager`",
    judge=_judge_fabric,
    needs=("driver_install", "nvidia_module"),
    when=_has_switches,
)

DRIVER_PERSISTENCED = Check(
    id="driver.persistenced",
    title="The persistence daemon runs",
    docs=(
        "Where nvidia-persistenced is installed and the driver is loaded. Without it, or persistence mode "
        "by other means, the driver shuts an idle GPU down and starts it anew for the next program, "
        "which takes seconds for each GPU. Switched off by nvidia_driver_persistence."
    ),
    remedy="`systemctl enable --now nvidia-persistenced`",
    judge=_judge_persistenced,
    needs=("driver_install",),
    when=_needs_daemon,
)

DRIVER_CDI = Check(
    id="driver.cdi",
    title="The CDI specification fits the driver",
    docs=(
        "A CDI specification names the driver's libraries and device nodes one by one. After an upgrade "
        "of the driver or a change of its devices an old one keeps containers from starting. Compares the "
        "version in its libraries with the installed one and looks for each device node and file."
    ),
    remedy="`systemctl restart nvidia-cdi-refresh`",
    judge=_judge_cdi,
    needs=("driver_install", "nvidia_module"),
    when=_cdi_due,
)
