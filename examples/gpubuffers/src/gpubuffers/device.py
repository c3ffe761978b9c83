"""A GPU's memory by way of CUDA's driver API: enough to put bytes there and to get them back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Device", "DeviceError", "open_device"]

LIBRARY = "libcuda.so.1"


class DeviceError(RuntimeError):
    """CUDA refused a call, or is not there."""


class Device:
    """One GPU with a context of its own. `open_device` gives one."""

    def __init__(self, cuda: ctypes.CDLL) -> None:
        self._cuda = cuda

    def round_trip(self, data: bytes) -> bytes:
        """Copy ``data`` to the GPU and back; the same bytes come back from a sound one."""
        size = len(data)
        place, back = ctypes.c_uint64(), ctypes.create_string_buffer(size)
        self.call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
        try:
            self.call("cuMemcpyHtoD_v2", place, data, ctypes.c_size_t(size))
            self.call("cuMemcpyDtoH_v2", back, place, ctypes.c_size_t(size))
        finally:
            self.call("cuMemFree_v2", place)
        return back.raw

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the driver. Raises DeviceError when it fails."""
        function: Callable[..., int] = getattr(self._cuda, name)
        if code := function(*arguments):
            raise DeviceError(f"{name} failed with {code}")


@contextmanager
def open_device(index: int = 0) -> Iterator[Device]:
    """The GPU ``index``, for as long as the block. Raises DeviceError."""
    try:
        device = Device(ctypes.CDLL(LIBRARY))
    except OSError as error:
        raise DeviceError(f"no CUDA driver: {error}") from None
    number, context = ctypes.c_int(), ctypes.c_void_p()
    device.call("cuInit", 0)
    device.call("cuDeviceGet", ctypes.byref(number), index)
    device.call("cuCtxCreate_v2", ctypes.byref(context), 0, number)
    try:
        yield device
    finally:
        device.call("cuCtxDestroy_v2", context)
