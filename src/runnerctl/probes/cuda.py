"""CUDA's driver API through ctypes, one call at a time; each call is announced before it is made.

Runs in a child of `runnerctl.probes.bounded` only: any call can hang, and the library can end the process.
"""

from __future__ import annotations

import ctypes
from typing import Any

from runnerctl.probes.bounded import Report

__all__ = ["ERROR_NAMES", "LIBRARY", "CudaError", "Driver"]

LIBRARY = "libcuda.so.1"
# CUresult, from NVIDIA's cuda.h: those that may come before cuGetErrorName can be asked.
ERROR_NAMES = {
    1: "CUDA_ERROR_INVALID_VALUE",
    2: "CUDA_ERROR_OUT_OF_MEMORY",
    3: "CUDA_ERROR_NOT_INITIALIZED",
    46: "CUDA_ERROR_DEVICE_UNAVAILABLE",
    100: "CUDA_ERROR_NO_DEVICE",
    101: "CUDA_ERROR_INVALID_DEVICE",
    201: "CUDA_ERROR_INVALID_CONTEXT",
    214: "CUDA_ERROR_ECC_UNCORRECTABLE",
    304: "CUDA_ERROR_OPERATING_SYSTEM",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS",
    702: "CUDA_ERROR_LAUNCH_TIMEOUT",
    714: "CUDA_ERROR_HARDWARE_STACK_ERROR",
    717: "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    719: "CUDA_ERROR_LAUNCH_FAILED",
    800: "CUDA_ERROR_NOT_PERMITTED",
    802: "CUDA_ERROR_SYSTEM_NOT_READY",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    804: "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
    999: "CUDA_ERROR_UNKNOWN",
}


class CudaError(Exception):
    """A call that failed: its name, CUDA's code, and the code's name."""

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call} failed with {name} ({code})")
        self.call = call
        self.code = code
        self.name = name


class Driver:
    """The library, and one context on the one GPU that it was told to see.

    Raises OSError when there is no library, CudaError when a call fails.
    """

    def __init__(self, report: Report, gpu: int) -> None:
        self._report = report
        self._gpu = gpu
        report.stage(f"load of {LIBRARY}", gpu)
        self._library = ctypes.CDLL(LIBRARY)
        self._context = ctypes.c_void_p()

    def call(self, function: str, *arguments: Any) -> None:
        """One call. Numbers must come as ctypes: a plain int would be cut to 32 bits."""
        self._report.stage(function, self._gpu)
        self._raw(function, *arguments)

    def burst(self, function: str, *arguments: Any, times: int) -> None:
        """The same call several times and a wait for their end, announced once: for measuring."""
        self._report.stage(function, self._gpu)
        for _ in range(times):
            self._raw(function, *arguments)
        self._raw("cuCtxSynchronize")

    def _raw(self, function: str, *arguments: Any) -> None:
        try:
            found = self._library[function]
        except AttributeError:
            raise CudaError(function, 500, "CUDA_ERROR_NOT_FOUND") from None
        code = int(found(*arguments))
        if code:
            raise CudaError(function, code, self._name(code))

    def _name(self, code: int) -> str:
        text = ctypes.c_char_p()
        if code not in ERROR_NAMES:
            self._library["cuGetErrorName"](ctypes.c_int(code), ctypes.byref(text))
        return ERROR_NAMES.get(code) or (text.value or b"an unknown error").decode("ascii", "replace")

    def open(self) -> str:
        """Initialise CUDA, make a context on its first device, and return that device's UUID."""
        self.call("cuInit", ctypes.c_uint(0))
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        uuid = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid", ctypes.byref(uuid), device)
        self.call("cuCtxCreate_v2", ctypes.byref(self._context), ctypes.c_uint(0), device)
        text = bytes(uuid).hex()
        return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))

    def close(self) -> None:
        """Destroy the context: a GPU that cannot is no better than one that cannot make it."""
        self.call("cuCtxDestroy_v2", self._context)

    def memory(self) -> tuple[int, int]:
        """Free and total memory in bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> ctypes.c_uint64:
        """Memory of the device."""
        place = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
        return place

    def host_memory(self, size: int) -> ctypes.c_void_p:
        """Memory of the host that cannot be paged out: what copies at full speed need."""
        place = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(place), ctypes.c_size_t(size), ctypes.c_uint(0))
        return place

    def to_device(self, place: ctypes.c_uint64, data: bytes) -> None:
        """Copy bytes to the device."""
        self.call("cuMemcpyHtoD_v2", place, data, ctypes.c_size_t(len(data)))

    def to_host(self, place: ctypes.c_uint64, size: int) -> bytes:
        """Copy bytes back."""
        data = ctypes.create_string_buffer(size)
        self.call("cuMemcpyDtoH_v2", data, place, ctypes.c_size_t(size))
        return data.raw

    def function(self, module: ctypes.c_void_p, name: bytes) -> ctypes.c_void_p:
        """A function of a loaded module."""
        found = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(found), module, ctypes.c_char_p(name))
        return found

    def module(self, text: bytes) -> ctypes.c_void_p:
        """Compile PTX for this GPU."""
        found = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(found), ctypes.c_char_p(text))
        return found

    def launch(self, function: ctypes.c_void_p, *arguments: Any, blocks: int, threads: int) -> None:
        """Run a function over a grid and wait for its end."""
        pointers = (ctypes.c_void_p * len(arguments))(
            *(ctypes.cast(ctypes.pointer(each), ctypes.c_void_p) for each in arguments)
        )
        one, none = ctypes.c_uint(1), ctypes.c_void_p()
        grid = (ctypes.c_uint(blocks), one, one)
        block = (ctypes.c_uint(threads), one, one)
        self.call("cuLaunchKernel", function, *grid, *block, ctypes.c_uint(0), none, pointers, none)
        self.call("cuCtxSynchronize")
