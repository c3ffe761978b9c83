"""The saved baseline: what the GPUs were like when all was well, and how they differ from it now. Pure.

Nothing in it is a limit that somebody sets: a difference is a finding because it is a difference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from runnerctl.core.driver_readings import Baseline, BaselineGpu
from runnerctl.core.findings import Status
from runnerctl.core.snapshot import Gpu, Snapshot, Unavailable
from runnerctl.errors import DataError, UnavailableError

__all__ = [
    "COMPUTE_MODES",
    "SAME_MHZ",
    "SAME_WATTS",
    "SCHEMA",
    "Difference",
    "baseline_of",
    "decode",
    "differences",
    "encode",
    "matched",
]

SCHEMA = "runnerctl.baseline/1"
SAVE_AGAIN = "if it is meant, `runnerctl baseline save --force`"
SAME_WATTS = 1.0  # power limits are set in steps of a watt or less
SAME_MHZ = 15  # clocks go in steps of up to 15 MHz
# nvmlComputeMode_t
COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}


class Difference(msgspec.Struct, frozen=True):
    """One difference. ``gpu``: the index of a GPU that is here, None for the host; OK: a note, no finding."""

    status: Status
    what: str
    summary: str
    gpu: int | None = None
    remedy: str = ""
    before: Any = None
    now: Any = None


def baseline_of(snapshot: Snapshot) -> Baseline:
    """What to save of a snapshot. Raises UnavailableError when a GPU does not answer or there is none."""
    nvml, gpus = snapshot.nvml, snapshot.gpus
    if isinstance(gpus, Unavailable):
        raise UnavailableError(gpus.reason, where="NVML", remedy="`runnerctl health` says what to do")
    if not gpus or isinstance(nvml, Unavailable):
        raise UnavailableError(
            "there is no GPU to save a baseline of", where=snapshot.host.name or "this host"
        )
    for gpu in gpus:
        if gpu.failure or gpu.uuid is None:
            why = gpu.failure.message if gpu.failure else "it tells no UUID"
            remedy = "mend it first (`runnerctl health`), or run this as root outside a slot"
            raise UnavailableError(f"does not answer: {why}", where=f"GPU {gpu.index}", remedy=remedy)
    return Baseline(snapshot.time, nvml.driver_version, tuple(map(_saved, gpus)))


def _saved(gpu: Gpu) -> BaselineGpu:
    counts, rows = gpu.ecc_counts, gpu.remapped_rows
    return BaselineGpu(
        uuid=gpu.uuid or "",
        name=gpu.name,
        pci_bus_id=gpu.pci_bus_id,
        vbios=gpu.vbios,
        pcie_generation_max=gpu.pcie_generation_max,
        pcie_width=gpu.pcie_width,
        power_limit_watts=gpu.power_limit_watts,
        ecc=gpu.ecc,
        mig_current=gpu.mig_current,
        mig_profiles=_profiles(gpu),
        nvlinks_active=_active_links(gpu),
        compute_mode=gpu.compute_mode,
        aggregate_uncorrected=counts.aggregate_uncorrected if counts else None,
        remapped_uncorrected=rows.uncorrected if rows else None,
        clock_application_mhz=gpu.clock_application_mhz,
    )


def _profiles(gpu: Gpu) -> tuple[str, ...]:
    return tuple(sorted(device.profile for device in gpu.mig_devices if device.profile))


def _active_links(gpu: Gpu) -> int | None:
    """None with MIG on, too: the links are not in use then, and their state says nothing."""
    if not gpu.nvlinks or gpu.mig_current == 1:
        return None
    return sum(link.active for link in gpu.nvlinks)


def encode(baseline: Baseline) -> bytes:
    """The baseline as a file: indented JSON with a final line break."""
    fields = msgspec.to_builtins(baseline)
    del fields["reading"]
    return msgspec.json.format(msgspec.json.encode({"schema": SCHEMA, **fields}), indent=2) + b"\n"


def decode(data: bytes, *, where: str) -> Baseline:
    """Read a baseline back. Raises DataError when it is none, or of a newer schema."""
    again = "save it again with `runnerctl baseline save --force`"
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"is damaged: {error}", where=where, remedy=again) from None
    schema = fields.pop("schema", None)
    if schema != SCHEMA:
        message = f"has schema {str(schema)[:40]!r}, and this runnerctl reads {SCHEMA!r}"
        raise DataError(message, where=where, remedy=again)
    try:
        return msgspec.convert({**fields, "reading": "taken"}, Baseline)
    except msgspec.MsgspecError as error:
        raise DataError(f"is damaged: {error}", where=where, remedy=again) from None


def matched(baseline: Baseline, gpus: Iterable[Gpu]) -> list[tuple[BaselineGpu, Gpu]]:
    """Which GPU of the baseline is which one here, by UUID."""
    here = {gpu.uuid.lower(): gpu for gpu in gpus if gpu.uuid}
    return [(then, here[then.uuid.lower()]) for then in baseline.gpus if then.uuid.lower() in here]


def differences(
    baseline: Baseline,
    gpus: tuple[Gpu, ...],
    *,
    driver_version: str | None = None,
    laid_out: Collection[int] = (),
) -> tuple[Difference, ...]:
    """How the GPUs differ from the baseline. What either side does not know is no difference.

    ``laid_out``: the indices of GPUs whose MIG layout the spec knows: `gpu.mig` judges that.
    """
    found = [*_set_changes(baseline, gpus), *_driver_change(baseline, driver_version)]
    for then, gpu in matched(baseline, gpus):
        if gpu.failure is None:
            found += _gpu_changes(then, gpu)
            found += [] if gpu.index in laid_out else _mig_changes(then, gpu)
    return tuple(found)


def _driver_change(baseline: Baseline, now: str | None) -> Iterator[Difference]:
    before = baseline.driver_version
    if before and now and before != now:
        yield Difference("OK", "driver", f"the driver was {before} and is {now}", before=before, now=now)


def _set_changes(baseline: Baseline, gpus: tuple[Gpu, ...]) -> Iterator[Difference]:
    """GPUs that are gone, new, or exchanged. One that does not answer may tell no UUID: it is not gone."""
    here = {gpu.uuid.lower() for gpu in gpus if gpu.uuid}
    known = {each.uuid.lower() for each in baseline.gpus}
    gone = [each for each in baseline.gpus if each.uuid.lower() not in here]
    new = [gpu for gpu in gpus if gpu.uuid and gpu.uuid.lower() not in known]
    for gpu in new:
        before = next((each for each in gone if _address(each) and _address(each) == _address(gpu)), None)
        if before:
            gone.remove(before)
            summary = f"it took the place of another GPU at {gpu.pci_bus_id}"
            yield Difference("WARNING", "uuid", summary, gpu.index, SAVE_AGAIN, before.uuid, gpu.uuid)
        else:
            yield Difference(
                "WARNING", "uuid", "it is not in the baseline", gpu.index, SAVE_AGAIN, None, gpu.uuid
            )
    if len(gone) > sum(gpu.uuid is None for gpu in gpus):
        yield from map(_gone, gone)


def _gone(gpu: BaselineGpu) -> Difference:
    where = f" at {gpu.pci_bus_id}" if gpu.pci_bus_id else ""
    summary = f"the {gpu.name or 'GPU'}{where} is gone"
    remedy = f"look for it with `lspci -d 10de:` and `dmesg`; {SAVE_AGAIN}"
    return Difference("CRITICAL", "missing", summary, None, remedy, gpu.uuid, None)


def _address(gpu: Gpu | BaselineGpu) -> str:
    return (gpu.pci_bus_id or "").lower()


def _gpu_changes(then: BaselineGpu, gpu: Gpu) -> list[Difference]:
    now = _saved(gpu)
    found = [
        _changed(gpu, "vbios", then.vbios, now.vbios, "VBIOS"),
        _fewer(gpu, "pcie_width", (then.pcie_width, now.pcie_width), "PCIe x{}"),
        _fewer(
            gpu,
            "pcie_generation",
            (then.pcie_generation_max, now.pcie_generation_max),
            "PCIe generation {} at most",
        ),
        _fewer(gpu, "nvlinks", (then.nvlinks_active, now.nvlinks_active), "{} active NVLinks"),
        _changed(gpu, "ecc", _switch(then.ecc), _switch(now.ecc), "ECC"),
        _changed(gpu, "compute_mode", _mode(then.compute_mode), _mode(now.compute_mode), "compute mode"),
        _near(gpu, "power_limit", (then.power_limit_watts, now.power_limit_watts), SAME_WATTS),
        _near(gpu, "clock", (then.clock_application_mhz, now.clock_application_mhz), SAME_MHZ),
        _grown(gpu, "aggregate_uncorrected", (then.aggregate_uncorrected, now.aggregate_uncorrected)),
        _grown(gpu, "remapped_uncorrected", (then.remapped_uncorrected, now.remapped_uncorrected)),
    ]
    if _address(then) and _address(gpu) and _address(then) != _address(gpu):
        summary = f"it was at {then.pci_bus_id} and is at {gpu.pci_bus_id}"
        found.append(Difference("OK", "pci_bus_id", summary, gpu.index, "", then.pci_bus_id, gpu.pci_bus_id))
    return [each for each in found if each]


def _mig_changes(then: BaselineGpu, gpu: Gpu) -> list[Difference]:
    now = _saved(gpu)
    if then.mig_current is not None and now.mig_current is not None and then.mig_current != now.mig_current:
        before, after = _switch(bool(then.mig_current)), _switch(bool(now.mig_current))
        return [
            Difference(
                "WARNING", "mig", f"MIG was {before} and is {after}", gpu.index, SAVE_AGAIN, before, after
            )
        ]
    if sorted(then.mig_profiles) == sorted(now.mig_profiles):
        return []
    before, after = (", ".join(each) or "none" for each in (then.mig_profiles, now.mig_profiles))
    summary = f"its MIG instances were {before} and are {after}"
    return [Difference("WARNING", "mig", summary, gpu.index, SAVE_AGAIN, then.mig_profiles, now.mig_profiles)]


def _changed(gpu: Gpu, what: str, before: str | None, now: str | None, name: str) -> Difference | None:
    if before is None or now is None or before == now:
        return None
    return Difference(
        "WARNING", what, f"{name} was {before} and is {now}", gpu.index, SAVE_AGAIN, before, now
    )


def _fewer(gpu: Gpu, what: str, values: tuple[int | None, int | None], text: str) -> Difference | None:
    """More than before is no fault, but worth a note: the baseline has too little."""
    before, now = values
    if before is None or now is None or before == now or (what != "nvlinks" and not now):
        return None
    status: Status = "WARNING" if now < before else "OK"
    summary = f"{text.format(now)}; it was {before}"
    return Difference(status, what, summary, gpu.index, SAVE_AGAIN, before, now)


def _near(gpu: Gpu, what: str, values: tuple[float | None, float | None], step: float) -> Difference | None:
    before, now = values
    if before is None or now is None or abs(before - now) <= step:
        return None
    name, unit, undo = {
        "power_limit": ("power limit", "W", f"`nvidia-smi -i {gpu.index} -pl {before:.0f}`"),
        "clock": ("application clock", "MHz", f"`nvidia-smi -i {gpu.index} -rac`"),
    }[what]
    summary = f"{name} was {before:.0f} {unit} and is {now:.0f} {unit}"
    return Difference("WARNING", what, summary, gpu.index, f"{undo}; {SAVE_AGAIN}", before, now)


def _grown(gpu: Gpu, what: str, values: tuple[int | None, int | None]) -> Difference | None:
    before, now = values
    if before is None or now is None or now <= before:
        return None
    name = {
        "aggregate_uncorrected": "uncorrectable ECC errors",
        "remapped_uncorrected": "rows remapped after uncorrectable errors",
    }[what]
    summary = f"{now - before} {name} since the baseline was saved"
    remedy = "have the GPU replaced if it goes on; `runnerctl baseline save --force` accepts it"
    return Difference("WARNING", what, summary, gpu.index, remedy, before, now)


def _switch(on: bool | None) -> str | None:
    return None if on is None else "on" if on else "off"


def _mode(mode: int | None) -> str | None:
    return None if mode is None else COMPUTE_MODES.get(mode, f"mode {mode}")
