"""A verdict and its snapshot as metrics in Prometheus' text format. Pure.

Names and units follow prometheus.io/docs/practices/naming: base units (bytes, seconds, hertz, celsius, watts,
ratios), ``_total`` for counters only. What is not known is left out: a missing series is not a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from runnerctl.core.driver_readings import KernelLog
from runnerctl.core.exposition import Family, Labels, Sample, written
from runnerctl.core.health import EXIT_CODES, Health
from runnerctl.core.kernel_lines import normal_pci
from runnerctl.core.snapshot import Gpu, SlotReading, Snapshot, Unavailable, Unit
from runnerctl.core.xid import DAY

__all__ = ["prometheus_text"]

_NONE: Labels = {}
_MEGAHERTZ = 1_000_000


def prometheus_text(health: Health, snapshot: Snapshot) -> str:
    """The text of a ``.prom`` file for the node exporter's textfile collector."""
    families = [*_verdict(health), *_gpus(snapshot), *_xids(snapshot), *_slots(snapshot)]
    return "".join(written(family) for family in families if family.samples)


def _verdict(health: Health) -> Iterator[Family]:
    statuses = "0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN"
    yield Family("health_status", f"The verdict on the host: {statuses}.", ((_NONE, _code(health.status)),))
    counts = Counter[str](finding.status for finding in health.findings)
    yield Family(
        "health_findings",
        "Findings by status.",
        tuple(({"status": status}, counts.get(status, 0)) for status in EXIT_CODES),
    )
    yield Family("finding_status", f"The status of each finding: {statuses}.", _worst(health))
    yield Family(
        "health_timestamp_seconds",
        "When the host was looked at, in seconds since the epoch.",
        ((_NONE, health.checked_at.timestamp()),),
    )
    yield Family(
        "health_duration_seconds", "How long looking took.", ((_NONE, round(health.duration_seconds, 3)),)
    )


def _code(status: str) -> int:
    return EXIT_CODES[status]


def _worst(health: Health) -> tuple[Sample, ...]:
    """One sample for each check and subject: a check may say several things of one subject."""
    found: dict[tuple[str, str], int] = {}
    gravity = [0, 1, 3, 2]  # CRITICAL outranks UNKNOWN, whose exit code is higher
    for finding in health.findings:
        key, code = (finding.id, finding.subject), _code(finding.status)
        if key not in found or gravity.index(code) > gravity.index(found[key]):
            found[key] = code
    return tuple(({"id": name, "subject": subject}, code) for (name, subject), code in found.items())


_Plain = tuple[str, str, str]
# Metric, help, field of a GPU.
_GAUGES: tuple[_Plain, ...] = (
    ("gpu_temperature_celsius", "Temperature of the GPU.", "temperature_celsius"),
    ("gpu_memory_temperature_celsius", "Temperature of the GPU's memory.", "memory_temperature_celsius"),
    ("gpu_power_watts", "Power that the GPU draws.", "power_watts"),
    ("gpu_power_limit_watts", "Power that the GPU may draw.", "power_limit_watts"),
    ("gpu_memory_used_bytes", "Memory in use on the GPU.", "memory_used_bytes"),
    ("gpu_memory_size_bytes", "Memory of the GPU.", "memory_total_bytes"),
    ("gpu_pcie_generation", "Generation of the PCIe link; it falls when the GPU is idle.", "pcie_generation"),
    ("gpu_pcie_lanes", "Lanes of the PCIe link in use.", "pcie_width"),
    ("gpu_recovery_action", "What the driver asks for: 0 nothing, 1 reset, 2 reboot, ...", "recovery_action"),
)


def _gpus(snapshot: Snapshot) -> Iterator[Family]:
    gpus = snapshot.listed_gpus
    yield Family("gpu_info", "Who the GPU is.", tuple((_identity(gpu, snapshot), 1) for gpu in gpus))
    up = tuple((_gpu(gpu), float(gpu.failure is None)) for gpu in gpus)
    yield Family("gpu_up", "Whether the GPU answers.", up)
    for name, text, attribute in _GAUGES:
        yield Family(name, text, _values(gpus, attribute))
    yield Family(
        "gpu_utilization_ratio", "Share of time with work.", _values(gpus, "utilization_percent", 0.01)
    )
    clocks = _values(gpus, "clock_sm_mhz", _MEGAHERTZ)
    yield Family("gpu_sm_clock_hertz", "Clock of the multiprocessors.", clocks)
    replays = _values(gpus, "pcie_replays")
    yield Family("gpu_pcie_replays_total", "PCIe packets that were sent again.", replays, "counter")
    yield from _memory(gpus)
    links = [(gpu, sum(link.active for link in gpu.nvlinks)) for gpu in gpus if gpu.nvlinks]
    yield Family("gpu_nvlinks_active", "NVLinks in use.", tuple((_gpu(gpu), n) for gpu, n in links))


def _memory(gpus: Iterable[Gpu]) -> Iterator[Family]:
    errors: list[Sample] = []
    remapped: list[Sample] = []
    flags: dict[str, list[Sample]] = {"pending": [], "failure": []}
    for gpu in gpus:
        for since in ("volatile", "aggregate"):
            for kind in ("corrected", "uncorrected"):
                value = getattr(gpu.ecc_counts, f"{since}_{kind}", None)
                if value is not None:
                    errors.append(({**_gpu(gpu), "type": kind, "since": since}, value))
        if rows := gpu.remapped_rows:
            remapped.append(({**_gpu(gpu), "cause": "corrected"}, rows.corrected))
            remapped.append(({**_gpu(gpu), "cause": "uncorrected"}, rows.uncorrected))
            flags["pending"].append((_gpu(gpu), float(rows.pending)))
            flags["failure"].append((_gpu(gpu), float(rows.failure)))
    text = "ECC errors since the driver was loaded (volatile) or in the GPU's life (aggregate)."
    yield Family("gpu_ecc_errors_total", text, tuple(errors), "counter")
    yield Family("gpu_remapped_rows", "Rows of memory that were remapped.", tuple(remapped))
    yield Family("gpu_row_remap_pending", "Whether a remap waits for a reset.", tuple(flags["pending"]))
    yield Family("gpu_row_remap_failed", "Whether no spare row was left.", tuple(flags["failure"]))


def _gpu(gpu: Gpu) -> dict[str, str]:
    return {"gpu": str(gpu.index), "uuid": gpu.uuid or ""}


def _identity(gpu: Gpu, snapshot: Snapshot) -> dict[str, str]:
    nvml = snapshot.nvml
    driver = "" if isinstance(nvml, Unavailable) else nvml.driver_version or ""
    more = {"name": gpu.name or "", "pci": gpu.pci_bus_id or "", "vbios": gpu.vbios or "", "driver": driver}
    return {**_gpu(gpu), **more}


def _values(gpus: Iterable[Gpu], attribute: str, factor: float = 1) -> tuple[Sample, ...]:
    found = ((gpu, getattr(gpu, attribute)) for gpu in gpus)
    return tuple((_gpu(gpu), value * factor) for gpu, value in found if value is not None)


def _xids(snapshot: Snapshot) -> Iterator[Family]:
    """Errors as the log has them, less those that repeat within seconds."""
    log = snapshot.kernel_log
    if not isinstance(log, KernelLog):
        return
    known = {normal_pci(gpu.pci_bus_id): str(gpu.index) for gpu in snapshot.listed_gpus}
    recent = (event for event in log.events if event.time >= snapshot.time - DAY)
    counts = Counter((event.kind, event.pci or "", event.code) for event in recent)
    samples: dict[str, list[Sample]] = {"xid": [], "sxid": []}
    for (kind, pci, code), count in sorted(counts.items(), key=repr):
        labels = {"pci": pci, "code": str(code)}
        if kind == "xid":
            samples["xid"].append(({"gpu": known.get(pci, ""), **labels}, count))
        elif kind == "sxid":
            samples["sxid"].append((labels, count))
    xids, sxids = tuple(samples["xid"]), tuple(samples["sxid"])
    yield Family("gpu_xid_errors", "Xid errors of the last 24 hours; the same within 5 seconds is one.", xids)
    yield Family(
        "nvswitch_sxid_errors", "SXid errors of the last 24 hours; the same within 5 seconds is one.", sxids
    )


def _slots(snapshot: Snapshot) -> Iterator[Family]:
    slots = () if isinstance(snapshot.slots, Unavailable) else snapshot.slots
    units = [(slot, slot.unit) for slot in slots if isinstance(slot.unit, Unit)]
    running = tuple((_slot(slot), float(unit.active_state == "active")) for slot, unit in units)
    yield Family("slot_running", "Whether the slot's runner is running.", running)
    restarts = tuple((_slot(slot), float(unit.restarts)) for slot, unit in units)
    yield Family("slot_restarts", "How often systemd restarted the runner since it was started.", restarts)
    busy = [(slot, slot.runs_job) for slot in slots]
    known = tuple((_slot(slot), float(runs)) for slot, runs in busy if runs is not None)
    yield Family("slot_busy", "Whether the slot runs a job.", known)
    holds = [(slot, slot.hold) for slot in slots if not isinstance(slot.hold, Unavailable)]
    held = tuple((_slot(slot), float(hold is not None)) for slot, hold in holds)
    yield Family("slot_held", "Whether the slot is on hold and takes no new job.", held)


def _slot(slot: SlotReading) -> dict[str, str]:
    return {"slot": slot.name}
