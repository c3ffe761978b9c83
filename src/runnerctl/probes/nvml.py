"""NVML, through NVIDIA's own binding, one call at a time; each call is announced before it is made.

Runs in a child of `runnerctl.probes.bounded` only: NVML can hang in any call and can abort the process.
What a GPU or a driver does not support is None; what fails otherwise ends the reading of that GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec

from runnerctl.core.snapshot import Gpu, Nvml, NvmlFailure, NvmlKind, Unavailable
from runnerctl.probes.bounded import Outcome, Report

__all__ = ["BASE_SECONDS", "SECONDS_PER_GPU", "parse", "read"]

BASE_SECONDS = 5.0
SECONDS_PER_GPU = 4.0  # without persistence mode the first open initialises a GPU: 1 to 3 s each (NVIDIA)

# nvmlReturn_t, from NVIDIA's nvml.h
_KINDS: dict[int, NvmlKind] = {
    4: "no_permission",
    9: "driver_not_loaded",
    12: "library_missing",
    15: "gpu_lost",
    16: "reset_required",
    18: "mismatch",
}
_NOT_SUPPORTED = (3, 13)  # NOT_SUPPORTED; FUNCTION_NOT_FOUND: the driver is older than the question
_MIG_ON = 1
_TEMPERATURE_GPU = 0  # NVML_TEMPERATURE_GPU


def read(report: Report) -> dict[str, Any]:
    """Ask NVML for everything. The answer is the last part again; `parse` needs only the parts."""
    report.stage("import of nvidia-ml-py")
    pynvml: Any = import_module("pynvml")  # it has no types

    def ask(call: str, *arguments: Any, gpu: int | None = None) -> Any:
        """One call: its answer, or None when it is not supported there. Raises NVMLError otherwise."""
        report.stage(call, gpu)
        function = getattr(pynvml, call, None)
        try:
            return function(*arguments) if function else None
        except pynvml.NVMLError as error:
            if error.value in _NOT_SUPPORTED:
                return None
            raise _FailedError(_failure(error, call, gpu)) from None

    try:
        system = _system(ask)
    except _FailedError as failed:
        report.part({"system": {"failure": msgspec.to_builtins(failed.failure)}})
        return {}
    report.part({"system": system})
    for index in range(system["count"]):
        report.part({"gpu": msgspec.to_builtins(_gpu(ask, index))})
    return {}


class _FailedError(Exception):
    def __init__(self, failure: NvmlFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _failure(error: Any, call: str, gpu: int | None) -> NvmlFailure:
    code = int(error.value)
    on = f" on GPU {gpu}" if gpu is not None else ""
    message = f"{call}{on}: {error} (NVML error {code})"
    return NvmlFailure(_KINDS.get(code, "unknown"), call, message, code, gpu)


def _system(ask: Callable[..., Any]) -> dict[str, Any]:
    ask("nvmlInit")
    cuda = ask("nvmlSystemGetCudaDriverVersion_v2")
    return {
        "driver_version": _text(ask("nvmlSystemGetDriverVersion")),
        "nvml_version": _text(ask("nvmlSystemGetNVMLVersion")),
        "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        "count": ask("nvmlDeviceGetCount") or 0,
    }


def _gpu(ask: Callable[..., Any], index: int) -> Gpu:
    """Read one GPU as far as it answers."""
    known: dict[str, Any] = {}

    def of(call: str, *more: Any) -> Any:
        return ask(call, *([handle] if handle is not None else []), *more, gpu=index)

    handle: Any = None
    try:
        handle = of("nvmlDeviceGetHandleByIndex", index)
        _identity(of, known)
        _state(of, known)
        if known["mig_current"] == _MIG_ON:
            known["mig_uuids"] = _mig_uuids(ask, handle, index)
    except _FailedError as failed:
        known["failure"] = failed.failure
    return Gpu(index=index, **known)


def _identity(of: Callable[..., Any], known: dict[str, Any]) -> None:
    known["uuid"] = _text(of("nvmlDeviceGetUUID"))
    known["name"] = _text(of("nvmlDeviceGetName"))
    pci = of("nvmlDeviceGetPciInfo")
    known["pci_bus_id"] = _text(pci.busId).lower() if pci else None
    known["minor"] = of("nvmlDeviceGetMinorNumber")


def _state(of: Callable[..., Any], known: dict[str, Any]) -> None:
    memory = of("nvmlDeviceGetMemoryInfo")
    known["memory_total_bytes"] = memory.total if memory else None
    known["memory_used_bytes"] = memory.used if memory else None
    temperature = of("nvmlDeviceGetTemperatureV", _TEMPERATURE_GPU)
    if temperature is None:  # the older name, gone from CUDA 14 on
        temperature = of("nvmlDeviceGetTemperature", _TEMPERATURE_GPU)
    known["temperature_celsius"] = temperature
    power = of("nvmlDeviceGetPowerUsage")
    known["power_watts"] = None if power is None else power / 1000
    rates = of("nvmlDeviceGetUtilizationRates")
    known["utilization_percent"] = rates.gpu if rates else None
    persistence = of("nvmlDeviceGetPersistenceMode")
    known["persistence"] = None if persistence is None else bool(persistence)
    known["compute_mode"] = of("nvmlDeviceGetComputeMode")
    known["mig_current"], known["mig_pending"] = of("nvmlDeviceGetMigMode") or (None, None)
    ecc = of("nvmlDeviceGetEccMode")
    known["ecc"] = bool(ecc[0]) if ecc else None


def _mig_uuids(ask: Callable[..., Any], handle: Any, index: int) -> tuple[str, ...]:
    pynvml: Any = import_module("pynvml")
    found = []
    for number in range(ask("nvmlDeviceGetMaxMigDeviceCount", handle, gpu=index) or 0):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except pynvml.NVMLError:  # NOT_FOUND: a place in the layout that is not taken
            continue
        found.append(_text(ask("nvmlDeviceGetUUID", device, gpu=index)))
    return tuple(uuid for uuid in found if uuid)


def _text(value: Any) -> Any:
    """Older bindings answer with bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def parse(outcome: Outcome) -> Nvml | Unavailable:
    """The reading: what the child said, and what became of it."""
    systems = [part["system"] for part in outcome.parts if "system" in part]
    gpus = [msgspec.convert(part["gpu"], Gpu) for part in outcome.parts if "gpu" in part]
    stopped = outcome.failure
    if not systems:
        return _no_system(stopped or Unavailable("NVML gave no answer"))
    nvml = msgspec.convert({"reading": "taken", **systems[0]}, Nvml)
    first = len(gpus)
    silent = (
        Gpu(index=each, failure=_not_read(each, first, stopped)) for each in range(first, nvml.count or 0)
    )
    return msgspec.structs.replace(nvml, gpus=(*gpus, *silent))


def _no_system(stopped: Unavailable) -> Nvml | Unavailable:
    """NVML as a whole hung or crashed: that is an answer; anything else is a reading not taken."""
    if stopped.kind in ("timeout", "crash") and stopped.call.startswith("nvml"):
        kind: NvmlKind = "hang" if stopped.kind == "timeout" else "crash"
        return Nvml(failure=NvmlFailure(kind, stopped.call, stopped.reason))
    return stopped


def _not_read(index: int, first: int, stopped: Unavailable | None) -> NvmlFailure:
    """The first GPU without an answer is the one that stopped the child; those after it were not asked."""
    if stopped is None or index > first:
        return NvmlFailure("not_reached", "", f"GPU {first} stopped the probe", gpu=index)
    kinds: dict[str, NvmlKind] = {"timeout": "hang", "crash": "crash"}
    kind = kinds.get(stopped.kind, "unknown")
    return NvmlFailure(kind, stopped.call, stopped.reason, gpu=index)
