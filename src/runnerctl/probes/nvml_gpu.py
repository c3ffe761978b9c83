"""Everything that NVML tells of one GPU, group by group.

A group's fields are handed over as soon as it has been read, so that they outlive a hang in the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from ctypes import byref
from typing import Any

import msgspec

from runnerctl.core.gpu_readings import EccCounts, Fabric, NvLink, RemappedRows, RetiredPages
from runnerctl.core.snapshot import NvmlFailure
from runnerctl.probes.nvml_calls import (
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NOT_APPLICABLE,
    CallError,
    Calls,
    Device,
    text,
)
from runnerctl.probes.nvml_work import mig, processes

__all__ = ["read_gpu"]

# nvml.h
_TEMPERATURE_GPU = 0
_SHUTDOWN, _SLOWDOWN, _MEMORY_MAX = 0, 1, 2  # nvmlTemperatureThresholds_t
_CLOCK_SM = 1
_CORRECTED, _UNCORRECTED, _VOLATILE, _AGGREGATE = 0, 1, 0, 1
_MULTIPLE_SINGLE_BIT, _DOUBLE_BIT = 0, 1  # nvmlPageRetirementCause_t
_AMPERE = 7
_MAX_LINKS = 36
_LINK_ERRORS = {"replay_errors": 0, "recovery_errors": 1, "crc_flit_errors": 2, "crc_data_errors": 3}
_FIELD_MEMORY_TEMPERATURE, _FIELD_RECOVERY_ACTION = 82, 230
_FIELD_RESET, _FIELD_DRAIN_AND_RESET = 226, 227  # what drivers before field 230 have
_RESET, _DRAIN_AND_RESET = 1, 4  # as field 230 has it
_INFOROM_CORRUPTED = 14
_MIG_ON = 1
# Idle, application clocks, power cap, sync boost, display clocks: reasons of a GPU that is well.
_ORDINARY_REASONS = 0x1 | 0x2 | 0x4 | 0x10 | 0x100
_SAMPLES, _SAMPLE_SECONDS = 3, 0.003

Known = dict[str, Any]
# What beats what when several calls of a GPU failed; of the rest the first is told.
_GRAVEST = ("gpu_lost", "reset_required")


def read_gpu(calls: Calls, index: int, tell: Callable[[Known], None], *, deep: bool) -> None:
    """Read one GPU as far as it answers; ``tell`` gets the fields as they come. Never raises CallError."""
    failures: list[NvmlFailure] = []
    try:
        handle = calls.must("nvmlDeviceGetHandleByIndex", index, gpu=index)
        device = Device(calls, index, handle, failures)
        for group in _groups(device, deep=deep):
            tell(_plain(group))
    except CallError as error:
        failures.append(error.failure)
    except Exception as error:  # of the binding: an answer that is none must not hide the other GPUs
        message = f"GPU {index}: {type(error).__name__}: {error}"
        failures.append(NvmlFailure("unknown", "", message, gpu=index))
    if failures:
        tell({"failure": msgspec.to_builtins(_gravest(failures))})


def _plain(group: Known) -> Known:
    plain: Known = msgspec.to_builtins({name: value for name, value in group.items() if value is not None})
    return plain


def _gravest(failures: list[NvmlFailure]) -> NvmlFailure:
    for kind in _GRAVEST:
        for failure in failures:
            if failure.kind == kind:
                return failure
    return failures[0]


def _groups(device: Device, *, deep: bool) -> Iterator[Known]:
    yield _identity(device)
    modes = _modes(device)
    yield modes
    if modes["mig_current"] == _MIG_ON:
        # What concerns all of its MIG devices is for the administrator only (nvml.h): no fault for others.
        device.tolerated = frozenset({NO_PERMISSION})
    memory = _memory(device)
    yield memory
    yield _health(device)
    yield _power_and_clocks(device)
    yield _pcie(device)
    yield _firmware(device, deep=deep)
    version = _versions(device)
    yield version
    yield _errors(device, ecc=modes.get("ecc"), architecture=version.get("architecture"))
    yield {"nvlinks": _nvlinks(device), "fabric": _fabric(device)}
    yield {"processes": processes(device)}
    if modes["mig_current"] == _MIG_ON:
        yield mig(device, memory["memory_total_bytes"])


def _identity(device: Device) -> Known:
    """Without these a GPU cannot be told from another."""
    pci = device.identify("nvmlDeviceGetPciInfo")
    return {
        "pci_bus_id": text(pci.busId).lower() if pci else None,
        "pci_device_id": pci.pciDeviceId if pci else None,
        "uuid": text(device.identify("nvmlDeviceGetUUID")),
        "name": text(device.identify("nvmlDeviceGetName")),
        "minor": device.identify("nvmlDeviceGetMinorNumber"),
    }


def _modes(device: Device) -> Known:
    ecc = device.ask("nvmlDeviceGetEccMode")
    current, pending = device.ask("nvmlDeviceGetMigMode") or (None, None)
    return {
        "persistence": _flag(device.ask("nvmlDeviceGetPersistenceMode")),
        "compute_mode": device.ask("nvmlDeviceGetComputeMode"),
        "ecc": _flag(ecc[0]) if ecc else None,
        "ecc_pending": _flag(ecc[1]) if ecc else None,
        "mig_current": current,
        "mig_pending": pending,
    }


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _memory(device: Device) -> Known:
    """Version 2 counts what the driver reserves for itself apart; version 1 counts it as used."""
    version = getattr(device.calls.pynvml, "nvmlMemory_v2", None)
    memory = device.ask("nvmlDeviceGetMemoryInfo", version) if version else None
    if memory is None:
        memory = device.ask("nvmlDeviceGetMemoryInfo")
    rates = device.ask("nvmlDeviceGetUtilizationRates")
    return {
        "memory_total_bytes": memory.total if memory else None,
        "memory_used_bytes": memory.used if memory else None,
        "utilization_percent": rates.gpu if rates else None,
    }


def _health(device: Device) -> Known:
    """Temperatures, and what the driver itself wants done."""
    temperature = device.ask("nvmlDeviceGetTemperatureV", _TEMPERATURE_GPU)
    if temperature is None:  # the older name, gone from CUDA 14 on
        temperature = device.ask("nvmlDeviceGetTemperature", _TEMPERATURE_GPU)
    call = "nvmlDeviceGetFieldValues"
    ids = [_FIELD_RECOVERY_ACTION, _FIELD_RESET, _FIELD_DRAIN_AND_RESET, _FIELD_MEMORY_TEMPERATURE]
    values = device.ask(call, ids, absent=(INVALID_ARGUMENT,)) or ()
    fields = {int(value.fieldId): device.field(call, value) for value in values}

    def threshold(kind: int) -> Any:
        return device.ask("nvmlDeviceGetTemperatureThreshold", kind, absent=(INVALID_ARGUMENT,))

    return {
        "temperature_celsius": temperature,
        "memory_temperature_celsius": fields.get(_FIELD_MEMORY_TEMPERATURE),
        "temperature_slowdown_celsius": threshold(_SLOWDOWN),
        "temperature_shutdown_celsius": threshold(_SHUTDOWN),
        "memory_temperature_max_celsius": threshold(_MEMORY_MAX),
        "temperature_margin_celsius": device.ask("nvmlDeviceGetMarginTemperature"),
        "recovery_action": _recovery(fields),
    }


def _recovery(fields: dict[int, Any]) -> int | None:
    action: int | None = fields.get(_FIELD_RECOVERY_ACTION)
    if action is not None:
        return action
    if fields.get(_FIELD_DRAIN_AND_RESET):
        return _DRAIN_AND_RESET
    if fields.get(_FIELD_RESET):
        return _RESET
    return None if fields.get(_FIELD_RESET) is None else 0


def _power_and_clocks(device: Device) -> Known:
    low, high = device.ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    return {
        "power_watts": _watts(device.ask("nvmlDeviceGetPowerUsage")),
        "power_limit_watts": _watts(device.ask("nvmlDeviceGetEnforcedPowerLimit")),
        "power_default_watts": _watts(device.ask("nvmlDeviceGetPowerManagementDefaultLimit")),
        "power_min_watts": _watts(low),
        "power_max_watts": _watts(high),
        "clock_sm_mhz": device.ask("nvmlDeviceGetClockInfo", _CLOCK_SM),
        "clock_sm_max_mhz": device.ask("nvmlDeviceGetMaxClockInfo", _CLOCK_SM),
        "clock_application_mhz": device.ask("nvmlDeviceGetApplicationsClock", _CLOCK_SM),
        "clock_application_default_mhz": device.ask("nvmlDeviceGetDefaultApplicationsClock", _CLOCK_SM),
        "clock_reasons": _clock_reasons(device),
    }


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _clock_reasons(device: Device) -> int | None:
    """The reasons that are there in every sample: a peak of a moment is no finding."""
    reasons = _reasons_now(device)
    for _ in range(_SAMPLES - 1):
        if reasons is None or not reasons & ~_ORDINARY_REASONS:
            break  # nothing that a second look could take back
        time.sleep(_SAMPLE_SECONDS)
        again = _reasons_now(device)
        reasons = None if again is None else reasons & again
    return reasons


def _reasons_now(device: Device) -> int | None:
    reasons: int | None = device.ask("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:  # the name before driver 535
        reasons = device.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    return reasons


def _pcie(device: Device) -> Known:
    return {
        "pcie_generation": device.ask("nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie_generation_max": device.ask("nvmlDeviceGetMaxPcieLinkGeneration"),
        "pcie_width": device.ask("nvmlDeviceGetCurrPcieLinkWidth"),
        "pcie_width_max": device.ask("nvmlDeviceGetMaxPcieLinkWidth"),
        "pcie_replays": device.ask("nvmlDeviceGetPcieReplayCounter"),
    }


def _firmware(device: Device, *, deep: bool) -> Known:
    gsp = device.ask("nvmlDeviceGetGspFirmwareMode")
    return {
        "serial": text(device.ask("nvmlDeviceGetSerial")),
        "vbios": text(device.ask("nvmlDeviceGetVbiosVersion")),
        "inforom": text(device.ask("nvmlDeviceGetInforomImageVersion")),
        "inforom_valid": _inforom_valid(device) if deep else None,
        "gsp": _flag(gsp[0]) if gsp else None,
        "gsp_version": text(device.ask("nvmlDeviceGetGspFirmwareVersion")) if gsp and gsp[0] else None,
    }


def _inforom_valid(device: Device) -> bool | None:
    """Reads flash memory. The binding's answer is None when all is well, so only its exceptions tell."""
    try:
        device.calls.must("nvmlDeviceValidateInforom", device.handle, gpu=device.index)
    except CallError as error:
        if error.failure.code == _INFOROM_CORRUPTED:
            return False
        if error.failure.code not in NOT_APPLICABLE:
            device.fail(error)
        return None
    return True


def _versions(device: Device) -> Known:
    capability = device.ask("nvmlDeviceGetCudaComputeCapability")
    return {
        "architecture": device.ask("nvmlDeviceGetArchitecture"),
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
    }


def _errors(device: Device, *, ecc: bool | None, architecture: int | None) -> Known:
    rows = device.ask("nvmlDeviceGetRemappedRows")
    pages = None
    if rows is None and (architecture is None or architecture < _AMPERE):
        pages = _retired_pages(device)
    return {
        "ecc_counts": _ecc_counts(device) if ecc else None,
        "remapped_rows": RemappedRows(rows[0], rows[1], bool(rows[2]), bool(rows[3])) if rows else None,
        "retired_pages": pages,
    }


def _ecc_counts(device: Device) -> EccCounts:
    def total(error: int, counter: int) -> Any:
        return device.ask("nvmlDeviceGetTotalEccErrors", error, counter)

    return EccCounts(
        volatile_corrected=total(_CORRECTED, _VOLATILE),
        volatile_uncorrected=total(_UNCORRECTED, _VOLATILE),
        aggregate_corrected=total(_CORRECTED, _AGGREGATE),
        aggregate_uncorrected=total(_UNCORRECTED, _AGGREGATE),
        sram_threshold_exceeded=_sram_exceeded(device),
    )


def _sram_exceeded(device: Device) -> bool | None:
    pynvml = device.calls.pynvml
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    status.version = pynvml.nvmlEccSramErrorStatus_v1
    done = device.ask("nvmlDeviceGetSramEccErrorStatus", byref(status))
    return None if done is None else bool(status.bThresholdExceeded)


def _retired_pages(device: Device) -> RetiredPages | None:
    single = device.ask("nvmlDeviceGetRetiredPages", _MULTIPLE_SINGLE_BIT)
    double = device.ask("nvmlDeviceGetRetiredPages", _DOUBLE_BIT)
    if single is None or double is None:
        return None
    pending = device.ask("nvmlDeviceGetRetiredPagesPendingStatus")
    return RetiredPages(len(single), len(double), bool(pending))


def _nvlinks(device: Device) -> tuple[NvLink, ...] | None:
    links = []
    silent: set[str] = set()  # counters that this generation does not have
    for number in range(_MAX_LINKS):
        active = device.ask("nvmlDeviceGetNvLinkState", number, absent=(INVALID_ARGUMENT,))
        if active is None:
            break
        links.append(NvLink(number, bool(active), **(_link_errors(device, number, silent) if active else {})))
    return tuple(links) or None


def _link_errors(device: Device, number: int, silent: set[str]) -> dict[str, int]:
    counted = {}
    for name, counter in _LINK_ERRORS.items():
        if name in silent:
            continue
        count = device.ask("nvmlDeviceGetNvLinkErrorCounter", number, counter, absent=(INVALID_ARGUMENT,))
        if count is None:
            silent.add(name)
        else:
            counted[name] = count
    return counted


def _fabric(device: Device) -> Fabric | None:
    pynvml = device.calls.pynvml
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    if device.ask("nvmlDeviceGetGpuFabricInfoV", byref(info)) is not None:
        return Fabric(info.state, info.status, info.healthMask)
    older = pynvml.c_nvmlGpuFabricInfo_t()
    if device.ask("nvmlDeviceGetGpuFabricInfo", byref(older)) is not None:
        return Fabric(older.state, older.status)
    return None
