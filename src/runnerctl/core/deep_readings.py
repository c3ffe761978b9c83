"""What the active probe found: a small CUDA workload, a memory test and copies, on each GPU."""

from __future__ import annotations

from typing import Literal

import msgspec

from runnerctl.core.reading import Taken

__all__ = ["DeepFailure", "DeepGpu", "DeepKind", "DeepProbe", "Extent", "MemoryTest", "Transfers"]

DeepKind = Literal[
    "library_missing",  # libcuda.so.1 cannot be loaded
    "error",  # a call returned an error
    "in_use",  # no room, or another process has the GPU to itself: says nothing about the GPU
    "wrong_data",  # what came back is not what was written
    "hang",  # a call that did not return
    "crash",  # the library ended the process
]

Extent = Literal["small", "memory", "all"]  # a small workload; a memory test as well; and copies


class DeepFailure(msgspec.Struct, frozen=True):
    """What stopped a part of the probe. ``code`` and ``name`` are of CUDA's CUresult."""

    kind: DeepKind
    call: str
    message: str
    code: int | None = None
    name: str | None = None


class MemoryTest(msgspec.Struct, frozen=True):
    """A test of the GPU's memory. ``mismatches`` counts 32-bit words; ``first_bad`` is a byte offset.

    ``complete`` is False where only samples were compared, because the driver cannot compile for the GPU.
    """

    failure: DeepFailure | None = None
    total_bytes: int = 0
    tested_bytes: int = 0
    passes: int = 0
    mismatches: int = 0
    first_bad: int | None = None
    complete: bool = True


class Transfers(msgspec.Struct, frozen=True):
    """Copies in bytes per second, the best of several; within the device reads and writes both count."""

    failure: DeepFailure | None = None
    host_to_device: float | None = None
    device_to_host: float | None = None
    device_to_device: float | None = None


class DeepGpu(msgspec.Struct, frozen=True):
    """One GPU, or one MIG device of it (then ``mig`` is its UUID). None: that part was not reached."""

    index: int
    uuid: str
    name: str | None = None
    mig: str | None = None
    failure: DeepFailure | None = None
    seconds: float = 0.0  # of the workload, with the creation of a context
    kernels: bool | None = None  # the driver compiled and ran our code
    memory: MemoryTest | None = None
    transfers: Transfers | None = None


class DeepProbe(Taken, frozen=True):
    """All GPUs that were probed; those that NVML cannot open are left out."""

    gpus: tuple[DeepGpu, ...] = ()
