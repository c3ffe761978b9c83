"""What the kernel log, the installed driver, containers and our own notes say: part of a snapshot."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from runnerctl.core.reading import Taken

__all__ = [
    "Baseline",
    "BaselineGpu",
    "ContainerGpus",
    "DriverInstall",
    "GpuEvent",
    "GpuHistory",
    "KernelEvent",
    "KernelLog",
    "KernelModule",
    "Memory",
    "OpenContainer",
    "Residue",
    "ResidueProcess",
    "Zoned",
]

# A time of day without its zone cannot be compared with others: such a file is damaged.
Zoned = Annotated[datetime, msgspec.Meta(tz=True)]

KernelEventKind = Literal[
    "xid",  # NVRM: Xid (PCI:0000:11:00): 79, ...
    "sxid",  # nvidia-nvswitch3: SXid (PCI:...): 12028, Non-fatal, ...
    "off_the_bus",  # "GPU has fallen off the bus", with or without an Xid beside it
    "api_mismatch",  # NVRM: API mismatch: the client has the version ...
    "key_rejected",  # Secure Boot refused a module
    "gsp",  # GSP errors that carry no Xid
    "init_failed",  # RmInitAdapter failed: the driver could not start a GPU
]


class KernelEvent(msgspec.Struct, frozen=True):
    """A line of the kernel log about a GPU or an NVSwitch. ``pci`` keeps the domain: ``0000:11:00``.

    ``recovery``: what Xid 154 says, in the words none, reset, reboot, drain_p2p, drain_and_reset, ...
    ``fatal``: as NVLink5 and SXid lines say it. ``subcode``: of Xid 144 to 150, bits 20 to 25 of the first
    register. ``device`` is an NVSwitch's name.
    """

    time: Zoned
    boot_id: str
    kind: KernelEventKind
    code: int | None = None
    pci: str | None = None
    message: str = ""
    pid: int | None = None
    process: str | None = None
    fatal: bool | None = None
    recovery: str | None = None
    device: str | None = None
    subcode: int | None = None


class KernelLog(Taken, frozen=True):
    """Events of the last day, oldest first. ``truncated``: lines were lost.

    ``source``: journal, kmsg, or published (by root, for those who may not read the log).
    """

    boot_id: str
    source: str
    events: tuple[KernelEvent, ...] = ()
    truncated: bool = False


class KernelModule(msgspec.Struct, frozen=True):
    """The nvidia module on disk for one installed kernel; ``version`` is None when there is none.

    ``headers``: the kernel's build tree is there. ``dkms``: DKMS's state for it (installed, built, failed).
    A version of ``unknown``: there is a module, and its file could not be read.
    """

    kernel: str
    version: str | None = None
    path: str | None = None
    headers: bool = False
    dkms: str | None = None
    signed: bool | None = None  # the file carries a signature; None: it could not be told


class DriverInstall(Taken, frozen=True):
    """The driver as it is installed: what the next boot will make of it.

    ``next_kernel``: the one that the next boot takes, as far as can be told. ``packages``: driver packages
    and their versions; ``held`` those that upgrades leave alone; ``upgrades_blocked``: unattended-upgrades or
    dnf-automatic leave the driver alone (None: neither is there). ``cdi_driver``: the version that the CDI
    specification was made for.
    """

    kernel: str
    next_kernel: str | None = None
    modules: tuple[KernelModule, ...] = ()
    dkms_sources: tuple[str, ...] = ()  # versions of the nvidia source that DKMS has
    library_version: str | None = None  # of libnvidia-ml.so.1 on disk
    packages: dict[str, str] = msgspec.field(default_factory=dict)
    held: tuple[str, ...] = ()
    upgrades_blocked: bool | None = None
    nouveau_loaded: bool = False
    nouveau_blacklisted: bool = False
    nouveau_present: bool = True  # the next kernel has that module
    initramfs_newer: bool | None = None  # the initramfs of the next kernel was made after the blacklist
    secure_boot: bool | None = None  # None: no EFI
    mok_enrolled: bool | None = None  # the DKMS key is enrolled; None: not known or no such key
    mok_key: str | None = None  # the certificate that DKMS signs modules for
    persistenced: str | None = (
        None  # the unit's state: active, inactive, failed, unknown; None: not installed
    )
    nvswitches: int = 0
    fabric_manager: str | None = None  # the unit's state; None: not installed
    fabric_manager_version: str | None = None
    cdi_path: str | None = None
    cdi_driver: str | None = None
    cdi_devices: tuple[str, ...] = ()
    cdi_missing: tuple[str, ...] = ()  # device nodes and files that the specification names and that are gone
    iommu_type: str | None = None  # of the GPUs' group: DMA, DMA-FQ, identity
    acs_redirect: tuple[str, ...] = ()  # PCI bridges above GPUs that redirect peer-to-peer traffic
    virtual_machine: bool = False


class ResidueProcess(msgspec.Struct, frozen=True):
    """A process that holds a device of the driver open. ``slot``: whose control group it is in, if any."""

    pid: int
    comm: str
    devices: tuple[str, ...] = ()
    slot: str | None = None
    container: bool = False
    state: str = ""


class Residue(Taken, frozen=True):
    """Processes with /dev/nvidia* open; ``complete`` is False when not all processes could be read."""

    processes: tuple[ResidueProcess, ...] = ()
    complete: bool = True


class OpenContainer(msgspec.Struct, frozen=True):
    """A running container with GPUs. ``denied``: its device cgroup keeps it from them; None: not known."""

    id: str
    name: str
    denied: bool | None = None


class ContainerGpus(Taken, frozen=True):
    """How containers get GPUs on this host, and whether they still have them."""

    runtime_configured: bool = False  # the Engine has a runtime named nvidia
    cdi_enabled: bool | None = None
    cgroup_driver: str | None = None
    toolkit_version: str | None = None
    char_links_missing: tuple[
        str, ...
    ] = ()  # /dev/char/195:0 and so on, without which a daemon-reload takes GPUs away
    containers: tuple[OpenContainer, ...] = ()


class Memory(Taken, frozen=True):
    """Main memory of the host, from /proc/meminfo; the error counts are EDAC's."""

    total_bytes: int
    available_bytes: int
    corrected_errors: int | None = None
    uncorrected_errors: int | None = None


class BaselineGpu(msgspec.Struct, frozen=True):
    """What one GPU was like when the baseline was saved."""

    uuid: str
    name: str | None = None
    pci_bus_id: str | None = None
    vbios: str | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    power_limit_watts: float | None = None
    ecc: bool | None = None
    mig_current: int | None = None
    mig_profiles: tuple[str, ...] = ()
    nvlinks_active: int | None = None
    compute_mode: int | None = None
    aggregate_uncorrected: int | None = None
    remapped_uncorrected: int | None = None
    clock_application_mhz: int | None = None


class Baseline(Taken, frozen=True):
    """The saved baseline, ``/var/lib/runnerctl/baseline.json``."""

    saved_at: datetime
    driver_version: str | None = None
    gpus: tuple[BaselineGpu, ...] = ()


class GpuEvent(msgspec.Struct, frozen=True):
    """Something that was done to a GPU and ends what was known of it before."""

    time: Zoned
    boot_id: str
    kind: Literal["reset", "reboot", "probe_passed", "probe_failed", "reset_failed", "taken_out", "released"]
    uuid: str
    pci: str | None = None
    reason: str = ""


class GpuHistory(Taken, frozen=True):
    """What the host wrote down about its GPUs (``/var/lib/runnerctl/gpus.json``), oldest first."""

    events: tuple[GpuEvent, ...] = ()
    clean_probes: dict[str, int] = msgspec.field(default_factory=dict)  # UUID -> clean verdicts in a row
