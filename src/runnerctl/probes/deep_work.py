"""What the active probe does on one GPU: three parts, each in a child of its own with its own deadline.

Each part ends with one plain value: what it measured, and the failure that stopped it, if one did. What is
measured before a failure is not lost with it.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from runnerctl.core.deep_readings import DeepFailure, DeepKind, MemoryTest, Transfers
from runnerctl.probes.bounded import Report
from runnerctl.probes.cuda import CudaError, Driver
from runnerctl.probes.deep_kernels import FULL_MASK, PASSES, PTX, pattern

__all__ = ["compute", "memory_test", "transfers"]

_MEBIBYTE = 2**20
_BLOCK = 4 * _MEBIBYTE  # of the small workload
_CHUNK = 1024 * _MEBIBYTE
_SMALLEST_CHUNK = 16 * _MEBIBYTE
_SAMPLE = _MEBIBYTE
_KEPT_FREE = 16  # a sixteenth of what is free is left for the driver's own needs
_COPY = 256 * _MEBIBYTE
_COPIES = 4
_BURST = 8
_COPY_SECONDS = 0.25  # an idle GPU takes a while to raise its clocks
_BLOCKS, _THREADS = 4096, 256
_NO_WORD = 0xFFFFFFFFFFFFFFFF
# Another process has the GPU, or most of its memory: that is no fault of the GPU.
_IN_USE = {2: "its memory is in use", 46: "another process has it to itself, or its compute mode forbids use"}
# The driver cannot compile here: no compiler library, PTX too new, or compiling is switched off.
_NO_COMPILER = frozenset({200, 209, 218, 221, 222, 223, 500})
_FREE_PERCENT = 90  # with less of it free, somebody works on the GPU and is left alone


class _WrongError(Exception):
    """What came back is not what was written."""


def compute(report: Report, *, device: str, gpu: int) -> dict[str, Any]:
    """The small workload: context, memory set and copied back, a kernel's words checked on the host."""
    found: dict[str, Any] = {"kernels": None}

    def work(driver: Driver) -> None:
        place = driver.allocate(_BLOCK)
        _sets(driver, place)
        _copies(driver, place)
        found["kernels"] = _kernel(driver, place)
        driver.call("cuMemFree_v2", place)

    found["failure"] = msgspec.to_builtins(_guarded(work, report, device, gpu=gpu))
    return found


def _sets(driver: Driver, place: ctypes.c_uint64) -> None:
    driver.call("cuMemsetD8_v2", place, ctypes.c_ubyte(0xA5), ctypes.c_size_t(_BLOCK))
    _compare(driver, place, b"\xa5" * _BLOCK, call="cuMemsetD8_v2")
    driver.call("cuMemsetD32_v2", place, ctypes.c_uint(0x12345678), ctypes.c_size_t(_BLOCK // 4))
    _compare(driver, place, b"\x78\x56\x34\x12" * (_BLOCK // 4), call="cuMemsetD32_v2")


def _copies(driver: Driver, place: ctypes.c_uint64) -> None:
    """To the device, within it, and back."""
    half = _BLOCK // 2
    data = os.urandom(half)
    driver.to_device(place, data)
    there = ctypes.c_uint64(place.value + half)
    driver.call("cuMemcpyDtoD_v2", there, place, ctypes.c_size_t(half))
    _compare(driver, there, data, call="cuMemcpyDtoD_v2")


def _compare(driver: Driver, place: ctypes.c_uint64, wanted: bytes, *, call: str) -> None:
    got = driver.to_host(place, len(wanted))
    if got != wanted:
        differs = int.from_bytes(got, "little") ^ int.from_bytes(wanted, "little")  # far quicker than a loop
        wrong = differs.to_bytes(len(wanted), "little")
        first, count = len(wrong) - len(wrong.lstrip(b"\0")), len(wrong) - wrong.count(0)
        raise _WrongError(f"after {call} {count} of {len(wanted)} bytes are wrong, the first at byte {first}")


def _kernel(driver: Driver, place: ctypes.c_uint64) -> bool:
    """Whether the driver could compile for this GPU; raises when what ran there was wrong."""
    fill = _compiled(driver)
    if fill is None:
        return False
    seed, mask, flip = PASSES[0]
    _run(driver, fill[0], place, words=_BLOCK // 4, look=PASSES[0], found=ctypes.c_uint64(0))
    words = _SAMPLE // 16
    expected = b"".join(
        pattern(index, seed=seed, mask=mask, flip=flip).to_bytes(4, "little") for index in range(words)
    )
    _compare(driver, place, expected, call="cuLaunchKernel")
    return True


def _compiled(driver: Driver) -> tuple[ctypes.c_void_p, ctypes.c_void_p] | None:
    """The two functions of `runnerctl.probes.deep_kernels`, or None where the driver cannot compile."""
    try:
        module = driver.module(PTX)
    except CudaError as error:
        if error.code in _NO_COMPILER:
            return None
        raise
    return driver.function(module, b"fill"), driver.function(module, b"verify")


def _run(
    driver: Driver,
    function: ctypes.c_void_p,
    place: ctypes.c_uint64,
    *,
    words: int,
    look: tuple[int, int, int],
    found: ctypes.c_uint64,
) -> None:
    arguments = (place, ctypes.c_uint64(words), *map(ctypes.c_uint, look), found)
    driver.launch(function, *arguments, blocks=_BLOCKS, threads=_THREADS)


# ---- memory ----------------------------------------------------------------------------------------


def memory_test(report: Report, *, device: str, gpu: int) -> dict[str, Any]:
    """Fill nearly all free memory, then compare it, for each pattern. A GPU in use is left alone."""
    found: dict[str, Any] = {}

    def work(driver: Driver) -> None:
        free, found["total_bytes"] = driver.memory()
        _alone(free, found["total_bytes"])
        compiled = _compiled(driver)
        result = driver.allocate(16)
        chunks = _chunks(driver, free - free // _KEPT_FREE)
        found["tested_bytes"] = sum(size for _, size in chunks)
        found["complete"] = compiled is not None
        for number, look in enumerate(PASSES, start=1):
            if compiled:
                _pass(driver, compiled, chunks, result=result, look=look, found=found)
            else:
                _sampled(driver, chunks, word=look[2] or FULL_MASK // 5, found=found)
            found["passes"] = number

    failure = _guarded(work, report, device, gpu=gpu)
    return _plain(MemoryTest(failure=failure, **found))


def _alone(free: int, total: int) -> None:
    if free * 100 < total * _FREE_PERCENT:
        raise CudaError("cuMemGetInfo_v2", 2, "CUDA_ERROR_OUT_OF_MEMORY")


def _chunks(driver: Driver, wanted: int) -> list[tuple[ctypes.c_uint64, int]]:
    """Blocks of at most 1 GiB, in all about ``wanted`` bytes; smaller ones where memory is in pieces."""
    chunks: list[tuple[ctypes.c_uint64, int]] = []
    size = min(_CHUNK, wanted)
    while size >= _SMALLEST_CHUNK and wanted >= _SMALLEST_CHUNK:
        try:
            place = driver.allocate(size)
        except CudaError as error:
            if error.code != 2:
                raise
            size = size // 2 // 4 * 4
            continue
        chunks.append((place, size))
        wanted -= size
        size = min(size, wanted) // 4 * 4
    if not chunks:
        raise CudaError("cuMemAlloc_v2", 2, "CUDA_ERROR_OUT_OF_MEMORY")
    return chunks


def _pass(
    driver: Driver,
    compiled: tuple[ctypes.c_void_p, ctypes.c_void_p],
    chunks: list[tuple[ctypes.c_uint64, int]],
    *,
    result: ctypes.c_uint64,
    look: tuple[int, int, int],
    found: dict[str, Any],
) -> None:
    """All of it is written before any of it is read: what the caches hold would prove nothing."""
    fill, verify = compiled
    for place, size in chunks:
        _run(driver, fill, place, words=size // 4, look=look, found=result)
    before = 0
    for place, size in chunks:
        driver.to_device(result, bytes(8) + _NO_WORD.to_bytes(8, "little"))
        _run(driver, verify, place, words=size // 4, look=look, found=result)
        answer = driver.to_host(result, 16)
        if count := int.from_bytes(answer[:8], "little"):
            found["mismatches"] = found.get("mismatches", 0) + count
            found.setdefault("first_bad", before + 4 * int.from_bytes(answer[8:], "little"))
        before += size


def _sampled(
    driver: Driver, chunks: list[tuple[ctypes.c_uint64, int]], *, word: int, found: dict[str, Any]
) -> None:
    """Without code of our own on the GPU: the beginning and the end of each block, on the host."""
    wanted = word.to_bytes(4, "little") * (_SAMPLE // 4)
    for place, size in chunks:
        driver.call("cuMemsetD32_v2", place, ctypes.c_uint(word), ctypes.c_size_t(size // 4))
    before = 0
    for place, size in chunks:
        for offset in (0, size - _SAMPLE):
            got = driver.to_host(ctypes.c_uint64(place.value + offset), _SAMPLE)
            if got != wanted:
                bad = [at for at in range(0, _SAMPLE, 4) if got[at : at + 4] != wanted[:4]]
                found["mismatches"] = found.get("mismatches", 0) + len(bad)
                found.setdefault("first_bad", before + offset + bad[0])
        before += size


# ---- copies ----------------------------------------------------------------------------------------


def transfers(report: Report, *, device: str, gpu: int) -> dict[str, Any]:
    """Copies of 256 MiB between pinned memory of the host and the device, and within the device."""
    found: dict[str, float] = {}

    def work(driver: Driver) -> None:
        free, total = driver.memory()
        _alone(free, total)
        size = min(_COPY, free // 4 // 4096 * 4096)
        host, one, other = driver.host_memory(size), driver.allocate(size), driver.allocate(size)
        length = ctypes.c_size_t(size)
        # Within the device one copy is over in a fraction of a millisecond, and each moves its bytes twice.
        ways: dict[str, tuple[str, Any, Any, int, int]] = {
            "host_to_device": ("cuMemcpyHtoD_v2", one, host, 1, 1),
            "device_to_host": ("cuMemcpyDtoH_v2", host, one, 1, 1),
            "device_to_device": ("cuMemcpyDtoD_v2", other, one, _BURST, 2),
        }
        for name, (call, target, source, times, moved) in ways.items():
            seconds = min(_timed(driver, call, target, source, length, times=times))
            found[name] = times * moved * size / seconds
        driver.call("cuMemFreeHost", host)

    failure = _guarded(work, report, device, gpu=gpu)
    return _plain(Transfers(failure=failure, **found))


def _timed(driver: Driver, call: str, *arguments: Any, times: int) -> Iterator[float]:
    """Seconds of each burst of copies."""
    end, number = time.perf_counter() + _COPY_SECONDS, 0
    while number < _COPIES or time.perf_counter() < end:
        begin = time.perf_counter()
        driver.burst(call, *arguments, times=times)
        yield max(time.perf_counter() - begin, 1e-9)
        number += 1


# ---- all parts -------------------------------------------------------------------------------------


def _guarded(work: Callable[[Driver], None], report: Report, device: str, *, gpu: int) -> DeepFailure | None:
    """Do the work in a context on the one device; returns what stopped it.

    The library reads CUDA_VISIBLE_DEVICES when it is initialised, so it is set before that.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = device
    os.environ["CUDA_CACHE_DISABLE"] = "1"  # compiled code is not kept in anybody's home
    try:
        driver = Driver(report, gpu)
        uuid = driver.open()
        if device.startswith("GPU-") and device[4:].lower() != uuid:
            raise _WrongError(f"CUDA opened GPU-{uuid} instead of {device}")
        work(driver)
        driver.close()
    except CudaError as error:
        return _failure(error)
    except _WrongError as error:
        return DeepFailure("wrong_data", "comparison", str(error))
    except OSError as error:
        return DeepFailure("library_missing", "dlopen", str(error))
    return None


def _failure(error: CudaError) -> DeepFailure:
    why = _IN_USE.get(error.code)
    kind: DeepKind = "in_use" if why else "error"
    message = f"{error}: {why}" if why else str(error)
    return DeepFailure(kind, error.call, message, error.code, error.name)


def _plain(reading: MemoryTest | Transfers) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(reading)
    return value
