"""What NVML, the kernel module and the PCI bus say of GPUs: part of a snapshot.

None in a field: not supported there, not asked, or not reached because of ``failure``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from runnerctl.core.reading import Taken

__all__ = [
    "EccCounts",
    "Fabric",
    "Gpu",
    "GpuProcess",
    "MigDevice",
    "NvLink",
    "NvidiaModule",
    "Nvml",
    "NvmlFailure",
    "NvmlKind",
    "PciGpu",
    "RemappedRows",
    "RetiredPages",
]

NvmlKind = Literal[
    "library_missing",  # there is no libnvidia-ml.so.1
    "library_broken",  # there is one, and it cannot be loaded
    "foreign_binding",  # the Python module pynvml is missing, or another package's
    "driver_not_loaded",  # NVML_ERROR_DRIVER_NOT_LOADED, 9
    "mismatch",  # NVML_ERROR_LIB_RM_VERSION_MISMATCH, 18
    "no_permission",  # NVML_ERROR_NO_PERMISSION, 4; NVML_ERROR_OPERATING_SYSTEM, 17: blocked by a cgroup
    "gpu_lost",  # NVML_ERROR_GPU_IS_LOST, 15
    "reset_required",  # NVML_ERROR_RESET_REQUIRED, 16
    "corrupted_inforom",  # NVML_ERROR_CORRUPTED_INFOROM, 14
    "irq",  # NVML_ERROR_IRQ_ISSUE, 11
    "unknown",  # NVML_ERROR_UNKNOWN, 999, and every other code
    "hang",  # a call that did not return
    "slow",  # all calls returned, and together they took too long
    "crash",  # the library ended the process
    "not_reached",  # an earlier call hung or crashed
]


class NvmlFailure(msgspec.Struct, frozen=True):
    """An NVML call that failed, and what kind of failure that is. ``code`` is NVML's return value."""

    kind: NvmlKind
    call: str
    message: str
    code: int | None = None
    gpu: int | None = None


class EccCounts(msgspec.Struct, frozen=True):
    """ECC errors. Volatile ones count since the driver was loaded, aggregate ones in the GPU's whole life."""

    volatile_corrected: int | None = None
    volatile_uncorrected: int | None = None
    aggregate_corrected: int | None = None
    aggregate_uncorrected: int | None = None
    sram_threshold_exceeded: bool | None = None


class RemappedRows(msgspec.Struct, frozen=True):
    """Rows of memory remapped (Ampere and newer). ``failure``: no spare row was left."""

    corrected: int
    uncorrected: int
    pending: bool
    failure: bool


class RetiredPages(msgspec.Struct, frozen=True):
    """Pages of memory retired (before Ampere), by cause; ``pending``: taken out at the next driver load."""

    single_bit: int
    double_bit: int
    pending: bool


class NvLink(msgspec.Struct, frozen=True):
    """One NVLink of a GPU and its error counters: replay, recovery, CRC flit, CRC data (None: not told)."""

    link: int
    active: bool
    replay_errors: int | None = None
    recovery_errors: int | None = None
    crc_flit_errors: int | None = None
    crc_data_errors: int | None = None


class Fabric(msgspec.Struct, frozen=True):
    """NVLink fabric (nvmlGpuFabricInfoV).

    ``state``: 0 not supported, 1 not started, 2 in progress, 3 completed.
    ``status`` is the nvmlReturn_t of the registration, ``health_mask`` NVML's bit fields (None: not told).
    """

    state: int
    status: int
    health_mask: int | None = None


class MigDevice(msgspec.Struct, frozen=True):
    """One MIG device of a GPU; ``profile`` is like ``1g.10gb``."""

    uuid: str
    profile: str | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    memory_bytes: int | None = None


class GpuProcess(msgspec.Struct, frozen=True):
    """A process that NVML shows on a GPU. ``pid`` is the host's; ``kind``: compute, graphics or mps."""

    pid: int
    kind: str
    memory_bytes: int | None = None


class Gpu(msgspec.Struct, frozen=True):
    """One GPU as NVML shows it. None: not supported there, or not reached because of ``failure``."""

    index: int
    failure: NvmlFailure | None = None
    uuid: str | None = None
    name: str | None = None
    serial: str | None = None
    pci_bus_id: str | None = None
    pci_device_id: int | None = None
    minor: int | None = None
    architecture: int | None = None  # nvmlDeviceArchitecture_t: 5 Volta, 6 Turing, 7 Ampere, 8 Ada, 9 Hopper
    compute_capability: str | None = None
    vbios: str | None = None
    inforom: str | None = None
    inforom_valid: bool | None = None  # asked by deep probes only: it reads flash memory
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None  # without what the driver reserves for itself
    temperature_celsius: int | None = None
    memory_temperature_celsius: int | None = None
    temperature_slowdown_celsius: int | None = None
    temperature_shutdown_celsius: int | None = None
    temperature_margin_celsius: int | None = None
    memory_temperature_max_celsius: int | None = None  # above it the GPU slows its memory down
    power_watts: float | None = None
    power_limit_watts: float | None = None  # the enforced one
    power_default_watts: float | None = None
    power_min_watts: float | None = None
    power_max_watts: float | None = None
    utilization_percent: int | None = None
    clock_sm_mhz: int | None = None
    clock_sm_max_mhz: int | None = None
    clock_application_mhz: int | None = None  # SM; what `nvidia-smi -ac` sets
    clock_application_default_mhz: int | None = None
    clock_reasons: int | None = None  # nvmlClocksEventReasons bits seen in every sample
    persistence: bool | None = None
    compute_mode: int | None = None  # 0 default, 1 exclusive thread, 2 prohibited, 3 exclusive process
    recovery_action: int | None = None  # field 230: 0 none, 1 reset, 2 reboot, 3 drain P2P, 4 drain+reset
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_replays: int | None = None
    mig_current: int | None = None
    mig_pending: int | None = None
    mig_uuids: tuple[str, ...] = ()
    mig_devices: tuple[MigDevice, ...] = ()
    ecc: bool | None = None
    ecc_pending: bool | None = None
    ecc_counts: EccCounts | None = None
    remapped_rows: RemappedRows | None = None
    retired_pages: RetiredPages | None = None
    nvlinks: tuple[NvLink, ...] | None = None
    fabric: Fabric | None = None
    gsp: bool | None = None
    gsp_version: str | None = None
    processes: tuple[GpuProcess, ...] | None = None


class Nvml(Taken, frozen=True):
    """NVML's answer. ``failure``: what stopped it as a whole (a GPU's own failure stands in the GPU).

    ``not_asked``: the process of an earlier probe is still stuck; the GPUs are those that it knew of.
    """

    failure: NvmlFailure | None = None
    not_asked: str | None = None
    driver_version: str | None = None
    nvml_version: str | None = None
    cuda_version: str | None = None
    count: int | None = None
    gpus: tuple[Gpu, ...] = ()


class NvidiaModule(Taken, frozen=True):
    """The kernel module; both versions are None when it is not loaded (or this is a container).

    ``gpus``: PCI addresses of the GPUs that it runs (/proc/driver/nvidia/gpus); None: not told.
    """

    sys_version: str | None = None
    proc_version: str | None = None
    open_modules: bool | None = None
    gpus: tuple[str, ...] | None = None

    @property
    def version(self) -> str | None:
        """The loaded version."""
        return self.sys_version or self.proc_version


class PciGpu(msgspec.Struct, frozen=True):
    """A PCI function of class 03 (display) and vendor 10de (NVIDIA)."""

    address: str
    device: str
    driver: str | None = None
