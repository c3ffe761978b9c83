"""What a host's hardware is, as far as slots are laid out over it: GPUs, NUMA nodes, CPUs, memory."""

from __future__ import annotations

import msgspec

__all__ = ["SCHEMA", "Gpu", "Hardware", "MigDevice", "NumaNode", "UnreadGpu"]

SCHEMA = "runnerctl.hardware/1"


class MigDevice(msgspec.Struct, frozen=True):
    """A MIG device. ``profile``: ``1g.10gb``, None where the driver does not name it."""

    uuid: str
    profile: str | None = None
    memory_bytes: int | None = None


class Gpu(msgspec.Struct, frozen=True):
    """One GPU that answered.

    ``links``: active NVLinks by the PCI address of what is at their other end, another GPU or a switch;
    ``nvlink_peers``: UUIDs of GPUs it reaches over NVLink at all; ``levels``: by UUID, how far away on the
    PCI bus another GPU is (nvmlGpuTopologyLevel_t: 0 same board ... 50 across sockets).
    ``compute_capability``: ``9.0``. ``mig``: None where the GPU has no such mode.
    """

    uuid: str
    index: int = 0
    minor: int | None = None
    name: str | None = None
    pci_bus_id: str | None = None
    memory_bytes: int | None = None
    compute_capability: str | None = None
    mig: bool | None = None
    mig_devices: tuple[MigDevice, ...] = ()
    numa_node: int | None = None
    links: dict[str, int] = {}
    nvlink_peers: tuple[str, ...] = ()
    levels: dict[str, int] = {}


class UnreadGpu(msgspec.Struct, frozen=True):
    """A GPU that the driver counts and that did not answer."""

    index: int
    reason: str


class NumaNode(msgspec.Struct, frozen=True):
    """A NUMA node. ``cores``: the CPUs of each core, numbers as the kernel has them, several with SMT."""

    id: int
    cores: tuple[tuple[int, ...], ...] = ()
    memory_bytes: int | None = None


class Hardware(msgspec.Struct, frozen=True):
    """A host's hardware.

    ``unavailable``: why the GPUs could not be read; then ``gpus`` says nothing, least of all that there are
    none. ``asked``: whether they were looked at. ``pci_gpus``: NVIDIA's GPUs on the PCI bus that this kernel
    may drive, None where the bus cannot be seen.
    """

    schema: str = SCHEMA
    asked: bool = True
    unavailable: str | None = None
    remedy: str | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    gpus: tuple[Gpu, ...] = ()
    unread: tuple[UnreadGpu, ...] = ()
    pci_gpus: int | None = None
    numa: tuple[NumaNode, ...] = ()
    memory_bytes: int | None = None

    @property
    def readable(self) -> bool:
        """Whether ``gpus`` can be taken at its word."""
        return self.asked and self.unavailable is None

    @property
    def incomplete(self) -> bool:
        """Whether there are more GPUs than those that answered."""
        return bool(self.unread) or (self.pci_gpus or 0) > len(self.gpus)
