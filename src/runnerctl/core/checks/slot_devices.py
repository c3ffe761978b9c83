"""Checks of what a slot's unit lets its jobs reach: the device nodes of its own GPUs, and our sandbox."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.checks.slot_unit import DROP_IN
from runnerctl.core.device_nodes import SPARED, DeviceTable, UnitRules, compare, places_of, resolve
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.isolation import SETTINGS
from runnerctl.core.snapshot import Nvml, SlotReading, Snapshot, Unit
from runnerctl.core.spec import HostSpec
from runnerctl.errors import UnavailableError

__all__ = ["CHECKS"]

_PROVISION = "provision the host again, and restart the slot when it is idle"
_OPEN = "`runnerctl isolation devices {slot} --apply`, then `runnerctl restart {slot} --when-idle`"
_TAKE_AWAY = "`systemctl cat {unit}` shows what was added; take it away, or provision again"
_WAIT = "nothing: the slot is restarted when it is idle"
# systemd's own, of what is opened before each start.
_OURS = frozenset({DROP_IN, "50-DeviceAllow.conf", SPARED})


def _known(snapshot: Snapshot) -> bool:
    """Not in snapshots of older versions."""
    return snapshot.device_table is not None


def _judge_devices(
    slot: SlotReading,
    unit: Unit | None,
    rules: UnitRules | None,
    table: DeviceTable,
    nvml: Nvml | None,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    del spec
    if rules is None or unit is None or unit.load_state != "loaded":
        return
    data: dict[str, object] = {"policy": rules.policy, "allow": list(rules.allow)}
    if rules.policy not in ("closed", "strict"):
        yield _open(unit, data)
        return
    if rules.gpus and (nvml is None or not nvml.gpus):
        yield unknown("which nodes are its GPUs' cannot be told: NVML lists none", "see driver.nvml", **data)
        return
    try:
        nodes = resolve(rules.gpus, places_of(nvml.gpus if nvml else ()), table=table, engine=rules.engine)
    except UnavailableError as error:
        yield critical(f"it cannot start: {error.where} {error.what}", error.remedy, **data)
        return
    if unit.active_state != "active":
        yield ok("does not run; its next start opens the devices of its GPUs", **data)
        return
    found = compare(rules.allow, nodes, table=table)
    if found.foreign:
        remedy = _TAKE_AWAY.format(unit=unit.name)
        yield critical(f"opens what is not its own: {', '.join(found.foreign)}", remedy, **data)
    if found.missing:
        remedy = _OPEN.format(slot=slot.name)
        yield critical(f"does not open its own {', '.join(found.missing)}", remedy, **data)
    if found.other:
        remedy = _TAKE_AWAY.format(unit=unit.name)
        yield warning(f"somebody opened {', '.join(found.other)} to its jobs", remedy, **data)
    if not (found.foreign or found.missing or found.other):
        own = " ".join(node.path for node in nodes)
        yield ok(f"opens its own and no other GPU: {own}" if own else "opens no GPU: it has none", **data)


def _open(unit: Unit, data: dict[str, object]) -> Verdict:
    """Of a unit that keeps no device from its jobs."""
    if SPARED in unit.drop_ins:
        summary = "its job began before its unit was closed, and keeps every device until it has ended"
        return warning(summary, _WAIT, **data)
    return critical("its jobs can open every device of the host, all GPUs included", _PROVISION, **data)


def _judge_exposure(
    slot: SlotReading, unit: Unit | None, rules: UnitRules | None, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec, slot
    if rules is None or unit is None or unit.load_state != "loaded":
        return
    loose = [f"{name}={value}" for name, value in rules.settings.items() if value != SETTINGS[name]]
    foreign = [name for name in unit.drop_ins if name not in _OURS]
    data = {"different": loose, "drop_ins": foreign}
    if loose and SPARED in unit.drop_ins:
        summary = f"it is to be closed further when its job has ended: {', '.join(loose[:5])}"
        yield warning(summary, _WAIT, **data)
    elif loose:
        added = f" (somebody added {', '.join(foreign)})" if foreign else ""
        more = f" and {len(loose) - 5} more" if len(loose) > 5 else ""
        summary = f"its sandbox is not ours: {', '.join(loose[:5])}{more}{added}"
        yield critical(summary, _TAKE_AWAY.format(unit=unit.name), **data)
    elif foreign:
        summary = f"somebody added {', '.join(foreign)} to its unit"
        yield warning(summary, f"`runnerctl isolation verify {unit.name.partition('@')[2][:-8]}`", **data)
    else:
        yield ok(f"its sandbox is ours ({len(rules.settings)} settings)", **data)


CHECKS: tuple[Check, ...] = (
    Check(
        id="slot.devices",
        title="Each slot's unit opens the device nodes of its own GPUs, and no others",
        docs=(
            "A GPU's node has a number that may change when the driver is loaded again, and those of MIG "
            "devices change when they are made anew. Before each start the slot's GPUs, named by UUID in "
            "inventory, are looked up, and systemd is told what to open. This compares what it was told "
            "with what the UUIDs are now. What somebody opened by a drop-in of their own is named, too. It "
            "reads settings; `runnerctl isolation verify` makes the attempts."
        ),
        remedy="run `runnerctl isolation devices SLOT --apply`, then restart the slot when it is idle",
        judge=_judge_devices,
        needs=(".unit?", ".rules", "device_table", "nvml?"),
        over="slots",
        when=_known,
    ),
    Check(
        id="slot.exposure",
        title="Each slot's unit is as closed as ours",
        docs=(
            "Compares what systemd has loaded for the unit, all drop-ins included, with the sandbox that we "
            "ship. A drop-in of somebody else's that opens nothing of it is a warning."
        ),
        remedy=_PROVISION,
        judge=_judge_exposure,
        needs=(".unit?", ".rules"),
        over="slots",
        when=_known,
    ),
)
