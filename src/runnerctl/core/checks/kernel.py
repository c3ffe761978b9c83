"""What does the kernel log say of GPUs and NVSwitches?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from runnerctl.core.checks.expect import expects_gpus
from runnerctl.core.driver_readings import GpuHistory, KernelEvent, KernelLog
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import Gpu, NvidiaModule, Snapshot, Unavailable
from runnerctl.core.spec import HostSpec
from runnerctl.core.xid import GpuCondition, Moment, assess
from runnerctl.core.xid_table import Action, rank

__all__ = ["CHECKS", "conditions"]

_REMEDIES: Mapping[Action, str] = {
    "WARN": "read `runnerctl xid CODE`, and watch whether it comes again",
    "PROBE": "prove that it works with `runnerctl health --deep`; reset it if it does not",
    "RESET": "drain its slots, end every process on it, then `nvidia-smi --gpu-reset -i {gpu}`, or reboot",
    "REBOOT": "drain the host and reboot it; a reset does not help here",
    "POWER": (
        "drain the host, cut its power for a minute, check cables and seating; "
        "then `runnerctl resume --force`"
    ),
    "RMA": "take the GPU out of service and have it replaced; `runnerctl resume --force` when that is done",
}
_AWAY = "drain the host and reboot it; then compare `nvidia-smi -L` with `lspci -d 10de:`"
_IDLE = "drain its slots and reset it with `nvidia-smi --gpu-reset -i {gpu}` when no job runs"
# NVML's recovery actions that gpu.recovery_action calls CRITICAL (nvmlDeviceGpuRecoveryAction_t).
_WISHES = frozenset({1, 2, 4, 6, 7})
_ASKS = "the driver asks for recovery"
_SOURCES = {"journal": "the journal", "kmsg": "/dev/kmsg", "published": "what root last read"}
_CLIENT = re.compile(r"client has the version ([\w.]+)")
_LOADED = re.compile(r"kernel module has the version ([\w.]+)")


def _has_gpus(snapshot: Snapshot) -> bool:
    """Whether the kernel could have something to say of a GPU at all."""
    bus, module = snapshot.pci_gpus, snapshot.nvidia_module
    if isinstance(bus, Unavailable) or bus or snapshot.listed_gpus or expects_gpus(snapshot.host_spec):
        return True
    return isinstance(module, NvidiaModule) and module.version is not None


def _applies(snapshot: Snapshot) -> bool:
    """Whether there is something of NVIDIA's here; a container need not read its host's kernel log."""
    log = snapshot.kernel_log
    if log is None or (isinstance(log, Unavailable) and snapshot.host.container):
        return False
    return _has_gpus(snapshot) or (isinstance(log, KernelLog) and bool(log.events))


def conditions(
    log: KernelLog, gpus: tuple[Gpu, ...], history: GpuHistory | None, now: datetime
) -> tuple[GpuCondition, ...]:
    """What each GPU needs, by this log; the first ones are those of ``gpus``."""
    return assess(log.events, Moment(now, log.boot_id), gpus=gpus, history=history)


def _judge_xid(
    log: KernelLog,
    gpus: tuple[Gpu, ...],
    history: GpuHistory | None,
    now: datetime,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    del spec  # a fault is a fault whoever wants the GPU
    found = conditions(log, gpus, history, now)
    for condition in found:
        yield _xid_verdict(condition, _teller(condition, gpus))
    if not found:
        yield ok("no Xid in the last 24 hours", **_log_data(log))


def _teller(condition: GpuCondition, gpus: tuple[Gpu, ...]) -> str:
    """The check that raises the alarm already, by what NVML says of the same GPU: one cause, one finding.

    What asks for more than a reboot (a fault that comes back, a board to be replaced) is news in any case.
    """
    gpu = next((each for each in gpus if each.index == condition.gpu), None)
    if gpu and not gpu.failure and gpu.recovery_action and condition.reason.startswith(_ASKS):
        return "gpu.recovery_action"
    if gpu and not gpu.failure and condition.reset_when_idle and condition.action not in _REMEDIES:
        return "gpu.row_remap" if gpu.remapped_rows else "gpu.retired_pages" if gpu.retired_pages else ""
    if not rank("RESET") <= rank(condition.action) <= rank("REBOOT"):
        return ""
    if gpu is None:  # not at any address that NVML told: one that told none may be it
        mute = any(_is_mute(each) and not each.pci_bus_id for each in gpus)
        return "gpu.answers" if mute and condition.pci else ""
    if gpu.failure:
        return "gpu.answers" if _is_mute(gpu) else ""
    return "gpu.recovery_action" if gpu.recovery_action in _WISHES else ""


def _is_mute(gpu: Gpu) -> bool:
    return gpu.failure is not None and gpu.failure.kind not in ("no_permission", "not_reached", "slow")


def _xid_verdict(condition: GpuCondition, teller: str) -> Verdict:
    where = condition.pci or "a GPU that the line did not name"
    subject = f"GPU {condition.gpu}" if condition.gpu is not None else where
    summary = condition.reason
    if condition.last is not None and condition.action != "INFO":
        summary += f" (last {condition.last:%Y-%m-%d %H:%M:%SZ})"
    data = _data(condition)
    number = "INDEX" if condition.gpu is None else str(condition.gpu)
    if teller:
        verdict = ok(f"{summary}: {teller} raises the alarm", **data)
    elif condition.action in _REMEDIES:
        away = (
            condition.action == "RESET" and condition.gpu is None
        )  # NVML cannot reset what it does not list
        remedy = _AWAY if away else _REMEDIES[condition.action].replace("{gpu}", number)
        if len(condition.codes) == 1:
            remedy = remedy.replace("CODE", str(condition.codes[0]))
        made = critical if rank(condition.action) >= rank("RESET") else warning
        verdict = made(summary, remedy, **data)
    elif condition.reset_when_idle:
        verdict = warning(summary, _IDLE.replace("{gpu}", number), **data)
    else:
        verdict = ok(summary, **data)
    return Verdict(verdict.status, verdict.summary, verdict.remedy, subject, verdict.data)


def _data(condition: GpuCondition) -> dict[str, object]:
    return {
        "action": condition.action,
        "pci": condition.pci,
        "uuid": condition.uuid,
        "codes": list(condition.codes),
        "count": condition.count,
        "program_faults": condition.program_faults,
        "reset_when_idle": condition.reset_when_idle,
        "last": condition.last.isoformat() if condition.last else None,
    }


def _log_data(log: KernelLog) -> dict[str, object]:
    return {"source": log.source, "truncated": log.truncated}


def _judge_complete(log: KernelLog, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    if log.truncated:
        yield warning("not all of the kernel log could be read: older lines are missing", **_log_data(log))
    else:
        number = len(log.events)
        lines = f"{number} line{'' if number == 1 else 's'}"
        yield ok(f"read from {_SOURCES.get(log.source, log.source)}, {lines} about GPUs", **_log_data(log))


def _judge_sxid(log: KernelLog, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    switches: dict[str, list[KernelEvent]] = {}
    for event in log.events:
        if event.kind == "sxid" and event.boot_id in ("", log.boot_id):
            switches.setdefault(event.pci or event.device or "NVSwitch", []).append(event)
    for address, events in sorted(switches.items()):
        verdict = _switch(events)
        device = events[-1].device or "NVSwitch"
        yield Verdict(
            verdict.status, verdict.summary, verdict.remedy, f"{device} {address}".strip(), verdict.data
        )
    if not switches:
        yield ok("no SXid since the last boot")


def _switch(events: list[KernelEvent]) -> Verdict:
    fatal = [event for event in events if event.fatal is not False]
    codes = sorted({event.code for event in fatal or events if event.code is not None})
    listed = ", ".join(map(str, codes))
    data = {"codes": codes, "count": len(events), "fatal": len(fatal)}
    if fatal:
        return critical(f"SXid {listed}: {fatal[-1].message or 'no text'}", **data)
    times = "once" if len(events) == 1 else f"{len(events)} times"
    return ok(f"SXid {listed} {times}, none of them fatal", **data)


def _judge_mismatch(log: KernelLog, module: NvidiaModule, *, spec: HostSpec | None) -> Iterable[Verdict]:
    """A line is over when another driver is loaded by now."""
    del spec
    clients: dict[str, int] = {}
    for event in log.events:
        loaded = _LOADED.search(event.message)
        if event.kind != "api_mismatch" or event.boot_id not in ("", log.boot_id):
            continue
        if module.version and loaded and loaded[1].rstrip(".") == module.version:
            client = _CLIENT.search(event.message)
            version = client[1] if client else "another version"
            clients[version] = clients.get(version, 0) + 1
    if clients:
        listed = ", ".join(sorted(clients))
        times = sum(clients.values())
        summary = f"programs came with driver library {listed}, and module {module.version} is loaded"
        yield warning(f"{summary} ({times} time{'' if times == 1 else 's'})", clients=clients)
    else:
        yield ok("no program was turned away for its driver library")


def _judge_rejected(log: KernelLog, module: NvidiaModule, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    refused = [
        event
        for event in log.events
        if event.kind == "key_rejected" and event.fatal and event.boot_id in ("", log.boot_id)
    ]
    if refused and module.version is None:
        yield critical(f"the kernel refused a module: {refused[-1].message}", count=len(refused))
    else:
        yield ok("the kernel refused no module of the driver")


XID_EVENTS = Check(
    id="xid.events",
    title="No Xid that a GPU has not recovered from",
    docs=(
        "Reads Xid errors and GPUs that fell off the bus from the kernel log of this boot and of the last "
        "24 hours. What the driver itself asks for (NVML's recovery action, Xid 154) beats the table of "
        "codes; a code that nobody knows asks for a probe. Errors within a minute of each other are one. "
        "A second RESET or worse within 24 hours moves one step up; a program's own fault (13, 31, 43 ...) "
        "never does. A fault ends with the reset, the boot or the probe that it asked for. "
        "What gpu.answers, gpu.recovery_action or gpu.row_remap say of the same GPU already is no second "
        "alarm. `runnerctl xid CODE` explains a code."
    ),
    remedy=_REMEDIES["PROBE"],
    judge=_judge_xid,
    needs=("kernel_log", "listed_gpus", "known_history", "time"),
    when=_applies,
)
XID_SXID = Check(
    id="xid.sxid",
    title="No fatal error of an NVSwitch",
    docs=(
        "Reads SXid errors of NVSwitches from the kernel log of this boot. A fatal one stops the links of "
        "every GPU on that switch; the others are counted and are no fault."
    ),
    remedy="drain the host, save `dmesg` and the fabric manager's log, and reboot; then look at the switch",
    judge=_judge_sxid,
    needs=("kernel_log",),
    when=_applies,
)
XID_LOG = Check(
    id="xid.log",
    title="The kernel log can be read whole",
    docs=(
        "The journal is read from the start of this boot or from 24 hours ago, whichever is earlier (a "
        "week at most), and then from where the last reading ended. Without a journal /dev/kmsg is read, "
        "which holds this boot only and drops its oldest lines."
    ),
    remedy="look for what fills the kernel log (`journalctl -k`), and keep a persistent journal",
    judge=_judge_complete,
    needs=("kernel_log",),
    when=_applies,
)
DRIVER_API_MISMATCH = Check(
    id="driver.clients",
    title="Programs come with the driver's own library",
    docs=(
        "The kernel module turns away a program whose driver library is of another version, and says so in "
        "the kernel log: often a container or a conda environment that brings a libcuda of its own. Lines "
        "about a module that is not loaded any more are left out."
    ),
    remedy="let containers use the toolkit's libraries, and remove a libcuda.so.1 that an environment brings",
    judge=_judge_mismatch,
    needs=("kernel_log", "nvidia_module"),
    when=_applies,
)
DRIVER_REJECTED = Check(
    id="driver.rejected",
    title="The kernel accepts the driver's modules",
    docs=(
        "With Secure Boot the kernel loads signed modules only. A module that it refused since the last "
        "boot is a fault while no nvidia module is loaded."
    ),
    remedy="enrol the key that signs the modules (`mokutil --import`), or install the signed modules",
    judge=_judge_rejected,
    needs=("kernel_log", "nvidia_module"),
    when=_applies,
)

CHECKS: tuple[Check, ...] = (XID_EVENTS, XID_SXID, XID_LOG, DRIVER_API_MISMATCH, DRIVER_REJECTED)
