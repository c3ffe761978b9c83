"""The few questions to NVML that a test run has, by NVIDIA's own binding alone; only in a child process.

Any call can hang or end the process. Only the standard library and nvidia-ml-py are needed, so that a
project's environment needs nothing else for its tests.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["DEV", "Gpu", "Nvml", "NvmlError", "openable"]

DEV = Path("/dev")
# nvmlReturn_t, from NVIDIA's nvml.h
NO_PERMISSION, _BLOCKED = 4, 17
_WORDS = {
    NO_PERMISSION: "no permission",
    9: "the driver is not loaded",
    12: "there is no driver's library (libnvidia-ml.so.1)",
    15: "the GPU is lost",
    16: "the GPU needs a reset",
    _BLOCKED: "blocked by the operating system or its device cgroup",
    18: "library and kernel module are of different versions",
    999: "unknown error",
}
_LISTS = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)


class NvmlError(Exception):
    """NVML, or a call of it, failed; ``code`` is its nvmlReturn_t, None when it could not be asked at all."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class Gpu(NamedTuple):
    """A GPU that NVML lists. ``problem``: why this process cannot use it, empty when it can.

    ``migs``: UUIDs of its MIG devices; None when it is not divided.
    """

    uuid: str
    name: str
    minor: int | None
    problem: str
    migs: tuple[str, ...] | None = None


class Nvml:
    """NVML, initialised. ``stage`` is told of each call before it is made."""

    def __init__(self, stage: Callable[[str], None], *, dev: Path = DEV) -> None:
        """Raises NvmlError."""
        self._stage, self._dev = stage, dev
        stage("import of nvidia-ml-py")
        try:
            self._pynvml: Any = import_module("pynvml")  # it has no types
        except ImportError:
            raise NvmlError("nvidia-ml-py is not installed in this environment") from None
        if not hasattr(self._pynvml, "_nvmlGetFunctionPointer"):
            where = getattr(self._pynvml, "__file__", "an unknown place")
            raise NvmlError(f"the module pynvml in {where} is not NVIDIA's (nvidia-ml-py)")
        self._handles: list[Any] = []
        self._must("nvmlInit")

    def gpus(self) -> list[Gpu]:
        """Every GPU that NVML lists, those of others too. Raises NvmlError when NVML as a whole fails."""
        found = []
        self._handles = []
        for index in range(int(self._must("nvmlDeviceGetCount"))):
            try:
                found.append(self._gpu(index))
            except NvmlError as error:
                found.append(Gpu("", f"GPU {index}", None, str(error)))
        return found

    def processes(self) -> dict[int, int | None]:
        """Bytes that each process holds on all GPUs together, by NVML's process id; None: it does not say.

        Raises NvmlError when no list of processes can be had.
        """
        total: dict[int, int | None] = {}
        for handle in self._handles:
            for pid, used in self._of(handle).items():
                known = total.get(pid, 0)
                total[pid] = None if used is None or known is None else known + used
        return total

    def used(self) -> int:
        """Bytes in use on all GPUs, by whomever. Raises NvmlError."""
        total = 0
        for handle in self._handles:
            memory = None
            with contextlib.suppress(NvmlError):  # version 2 leaves out what the driver keeps for itself
                memory = self._must("nvmlDeviceGetMemoryInfo", handle, self._pynvml.nvmlMemory_v2)
            total += int((memory or self._must("nvmlDeviceGetMemoryInfo", handle)).used)
        return total

    def _of(self, handle: Any) -> dict[int, int | None]:
        """A process may stand in several lists of one GPU, each time with all its memory."""
        found: dict[int, int | None] = {}
        for number, call in enumerate(_LISTS):
            try:
                listed = self._must(call, handle)
            except NvmlError:
                if number == 0:
                    raise
                continue  # a GPU without graphics, a driver without MPS
            for each in listed:
                pid = int(each.pid)
                used = None if each.usedGpuMemory is None else int(each.usedGpuMemory)
                before = found.get(pid, 0)
                found[pid] = None if used is None or before is None else max(before, used)
        return found

    def _gpu(self, index: int) -> Gpu:
        handle = self._must("nvmlDeviceGetHandleByIndex", index)
        uuid = _text(self._must("nvmlDeviceGetUUID", handle))
        name, minor = uuid, None
        with contextlib.suppress(NvmlError):
            name = _text(self._must("nvmlDeviceGetName", handle))
        with contextlib.suppress(NvmlError):
            minor = int(self._must("nvmlDeviceGetMinorNumber", handle))
        self._stage(f"open of the device of {uuid}")
        problem = openable(minor, self._dev)
        migs = self._migs(handle) if not problem else None
        if migs is None:
            self._handles += [] if problem else [handle]
            return Gpu(uuid, name, minor, problem)
        self._handles += [mig for mig, _ in migs]
        problem = "" if migs else "MIG mode is on and no MIG device exists"
        return Gpu(uuid, name, minor, problem, tuple(uuid for _, uuid in migs))

    def _migs(self, handle: Any) -> list[tuple[Any, str]] | None:
        try:
            mode = self._must("nvmlDeviceGetMigMode", handle)
        except NvmlError:  # a GPU that cannot be divided
            return None
        return list(self._each_mig(handle)) if int(mode[0]) else None

    def _each_mig(self, handle: Any) -> Iterator[tuple[Any, str]]:
        for index in range(int(self._must("nvmlDeviceGetMaxMigDeviceCount", handle))):
            with contextlib.suppress(NvmlError):  # an index may be free, or somebody else's
                mig = self._must("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
                yield mig, _text(self._must("nvmlDeviceGetUUID", mig))

    def _must(self, call: str, *arguments: Any) -> Any:
        self._stage(call)
        try:
            return getattr(self._pynvml, call)(*arguments)
        except self._pynvml.NVMLError as error:
            code = int(error.value)
        words = f"{_WORDS[code]} (NVML error {code})" if code in _WORDS else f"NVML error {code}"
        raise NvmlError(f"{call}: {words}", code)


def openable(minor: int | None, dev: Path = DEV) -> str:
    """Why this process cannot open the GPU's device, empty when it can.

    NVML may list every GPU of a host of which a device cgroup leaves this process only some.
    """
    if (dev / "dxg").exists():  # WSL has this one instead
        return ""
    for name in ("nvidiactl", "nvidiactl" if minor is None else f"nvidia{minor}"):
        try:
            os.close(os.open(dev / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            return f"{dev / name} cannot be opened: {error.strerror}"
    return ""


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
