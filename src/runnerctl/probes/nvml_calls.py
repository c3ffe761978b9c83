"""Single calls of NVML: announced before they are made, and their return values told apart."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import msgspec

from runnerctl.core.snapshot import NvmlFailure, NvmlKind
from runnerctl.probes.child import Report

__all__ = [
    "INSUFFICIENT_SIZE",
    "INVALID_ARGUMENT",
    "NOT_APPLICABLE",
    "NOT_FOUND",
    "NO_PERMISSION",
    "CallError",
    "Calls",
    "Device",
    "kind_of",
    "text",
]

SONAME = "libnvidia-ml.so.1"

# nvmlReturn_t, from NVIDIA's nvml.h
INVALID_ARGUMENT, NO_PERMISSION, NOT_FOUND, INSUFFICIENT_SIZE = 2, 4, 6, 7
_LIBRARY_MISSING, _NO_FUNCTION = 12, 13
_NOT_TOLD = frozenset({2**32 - 1, 2**64 - 1})  # NVML_VALUE_NOT_AVAILABLE, -1, in an unsigned number
_KINDS: dict[int, NvmlKind] = {
    NO_PERMISSION: "no_permission",
    9: "driver_not_loaded",
    11: "irq",
    _LIBRARY_MISSING: "library_missing",
    14: "corrupted_inforom",
    15: "gpu_lost",
    16: "reset_required",
    17: "no_permission",  # OPERATING_SYSTEM: "blocked by the operating system/cgroups"
    18: "mismatch",
}
# NOT_SUPPORTED; FUNCTION_NOT_FOUND and ARGUMENT_VERSION_MISMATCH: the driver is older than the question;
# DEPRECATED: it is newer than the question; NO_DATA: there is nothing to tell; VGPU_ECC_NOT_SUPPORTED.
NOT_APPLICABLE = frozenset({3, _NO_FUNCTION, 21, 22, 25, 26})
# Asking NVML for its words (nvmlErrorString) would be one more call that can hang.
_WORDS = {
    1: "not initialised",
    2: "invalid argument",
    3: "not supported",
    NO_PERMISSION: "no permission",
    NOT_FOUND: "not found",
    INSUFFICIENT_SIZE: "insufficient size",
    8: "external power cables are not attached",
    9: "the driver is not loaded",
    10: "the driver timed out",
    11: "the GPU's interrupts do not arrive",
    _LIBRARY_MISSING: "the library is missing",
    _NO_FUNCTION: "the library has no such function",
    14: "the infoROM is corrupted",
    15: "the GPU is lost",
    16: "the GPU needs a reset",
    17: "blocked by the operating system or its device cgroup",
    18: "library and kernel module are of different versions",
    19: "in use",
    20: "out of memory",
    23: "insufficient resources",
    27: "not ready",
    28: "the GPU is not found",
    29: "invalid state",
    999: "unknown error",
}


class CallError(Exception):
    """A call failed in a way that is not "not supported"."""

    def __init__(self, failure: NvmlFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def kind_of(code: int) -> NvmlKind:
    """What kind of failure an nvmlReturn_t is; one without a name of its own is unknown."""
    return _KINDS.get(code, "unknown")


def text(value: Any) -> Any:
    """Older bindings answer with bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class Calls:
    """NVML through NVIDIA's own binding, nvidia-ml-py."""

    def __init__(self, report: Report) -> None:
        """Raises CallError when there is no driver's library, no such binding, or another one of its name."""
        self._report = report
        report.stage("nvmlInit")
        if _is_absent():  # a host without a driver: no need to load the binding first
            raise self.failed("nvmlInit", _LIBRARY_MISSING, gpu=None)
        report.stage("import of nvidia-ml-py")
        try:
            self.pynvml: Any = import_module("pynvml")  # it has no types
        except ImportError as error:
            message = f"nvidia-ml-py cannot be imported: {error}"
            raise CallError(NvmlFailure("foreign_binding", "import of nvidia-ml-py", message)) from None
        if not hasattr(self.pynvml, "_nvmlGetFunctionPointer"):
            where = getattr(self.pynvml, "__file__", "an unknown place")
            message = f"the module pynvml in {where} is not NVIDIA's (nvidia-ml-py)"
            raise CallError(NvmlFailure("foreign_binding", "import of nvidia-ml-py", message))

    def init(self) -> None:
        """Load the library and initialise it. Raises CallError."""
        try:
            self.must("nvmlInit")
        except CallError as error:
            if error.failure.kind == "library_missing":
                raise CallError(_missing(error.failure)) from None
            if error.failure.code == _NO_FUNCTION:  # a file of that name, and no NVML
                raise CallError(msgspec.structs.replace(error.failure, kind="library_broken")) from None
            raise

    def ask(self, call: str, *arguments: Any, gpu: int | None = None, absent: Iterable[int] = ()) -> Any:
        """One call: its answer, or None where it does not apply. ``absent``: more codes that mean so.

        Raises CallError otherwise.
        """
        self._report.stage(call, gpu)
        function = getattr(self.pynvml, call, None)
        if function is None:
            return None
        try:
            answer = function(*arguments)
            return None if isinstance(answer, int) and answer in _NOT_TOLD else answer
        except self.pynvml.NVMLError as error:
            code = int(error.value)
        if code in NOT_APPLICABLE or code in absent:
            return None
        raise self.failed(call, code, gpu=gpu)

    def must(self, call: str, *arguments: Any, gpu: int | None = None) -> Any:
        """One call that every driver has: also "not supported" is a failure. Raises CallError."""
        self._report.stage(call, gpu)
        try:
            return getattr(self.pynvml, call)(*arguments)
        except self.pynvml.NVMLError as error:
            code = int(error.value)
        raise self.failed(call, code, gpu=gpu)

    @staticmethod
    def failed(call: str, code: int, *, gpu: int | None) -> CallError:
        """The failure of a call that returned ``code``."""
        on = f" on GPU {gpu}" if gpu is not None else ""
        words = f"{_WORDS[code]} (NVML error {code})" if code in _WORDS else f"NVML error {code}"
        return CallError(NvmlFailure(kind_of(code), call, f"{call}{on}: {words}", code, gpu))


def _is_absent() -> bool:
    """Whether the linker finds no such library; one that it finds stays loaded, for the binding."""
    try:
        ctypes.CDLL(SONAME)
    except OSError as error:
        return _says_absent(error)
    return False


def _says_absent(error: OSError) -> bool:
    """Whether the linker misses the library itself: of one that it needs it says the same, with that name."""
    return str(error).startswith(f"{SONAME}: ") and "No such file" in str(error)


def _missing(failure: NvmlFailure) -> NvmlFailure:
    """The binding says "not found" of a library that is there and broken, too; the linker knows better."""
    try:
        ctypes.CDLL(SONAME)
    except OSError as error:
        if _says_absent(error):
            return failure
        message = f"{SONAME} cannot be loaded: {error}"
        return NvmlFailure("library_broken", failure.call, message, failure.code)
    return failure


class Device:
    """The calls on one GPU, or on a MIG device of it. What fails is kept, and asking goes on."""

    def __init__(self, calls: Calls, index: int, handle: Any, failures: list[NvmlFailure]) -> None:
        self.calls, self.index, self.handle, self.failures = calls, index, handle, failures
        self.tolerated: frozenset[int] = frozenset()  # more codes that mean "does not apply"

    def identify(self, call: str, *more: Any) -> Any:
        """A call without which nothing is known of the GPU: its failure ends the reading (CallError)."""
        return self.calls.ask(call, self.handle, *more, gpu=self.index)

    def ask(self, call: str, *more: Any, absent: Iterable[int] = ()) -> Any:
        """A call that may fail: None then, and the failure is kept. Raises CallError when the GPU is lost."""
        try:
            return self.calls.ask(call, self.handle, *more, gpu=self.index, absent={*absent, *self.tolerated})
        except CallError as error:
            self.fail(error)
            return None

    def field(self, call: str, value: Any) -> Any:
        """One of the values of nvmlDeviceGetFieldValues, each of which has a return value of its own."""
        code = int(value.nvmlReturn)
        if code == 0:
            return _number(value)
        # An unknown field is an invalid argument to older drivers.
        if code not in NOT_APPLICABLE and code not in (INVALID_ARGUMENT, NOT_FOUND):
            self.fail(self.calls.failed(f"{call} (field {value.fieldId})", code, gpu=self.index))
        return None

    def fail(self, error: CallError) -> None:
        """Keep a failure. Raises it when every further call would fail like it."""
        if error.failure.kind == "gpu_lost":
            raise error
        self.failures.append(error.failure)

    def other(self, handle: Any) -> Device:
        """The same for a MIG device; its failures are those of the GPU."""
        device = Device(self.calls, self.index, handle, self.failures)
        device.tolerated = self.tolerated
        return device


def _number(value: Any) -> Any:
    """The member of the union that nvmlValueType_t names."""
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    kind = int(value.valueType)
    return getattr(value.value, members[kind]) if kind < len(members) else None
