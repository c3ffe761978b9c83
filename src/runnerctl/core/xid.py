"""From events of the kernel log to what each GPU needs. Pure.

The rules, strongest first:

1. What the driver itself asks for (NVML's field 230, or else the last Xid 154 of this boot) beats the table.
   When it asks for nothing, a lone fault of the class RESET or REBOOT asks for a probe only.
2. Lines within a minute of each other are one occurrence: a fault is logged once per unit, or every 45 s.
3. A second occurrence of a RESET or worse within 24 hours moves one step up: RESET, REBOOT, POWER, RMA; one
   after a reboot that did not help, another step. A program's own fault never climbs.
4. What was recovered is over: a RESET by a later reset or boot, a PROBE by a later probe that passed, a
   REBOOT by a later boot; POWER and RMA only by a release.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from runnerctl.core.driver_readings import GpuEvent, GpuHistory, KernelEvent
from runnerctl.core.gpu_readings import Gpu
from runnerctl.core.kernel_lines import RECOVERY_WORDS, normal_pci, plain_boot_id
from runnerctl.core.probe_notes import failed_probe, in_effect
from runnerctl.core.xid_table import Action, Xid, rank, xid

__all__ = ["BURST", "DAY", "GpuCondition", "Moment", "assess"]

BURST = timedelta(seconds=60)  # longer than the 45 s that the driver waits for the GSP each time
DAY = timedelta(hours=24)

_CLIMB: Mapping[Action, Action] = {"RESET": "REBOOT", "REBOOT": "POWER", "POWER": "RMA", "RMA": "RMA"}
_ASKED: Mapping[str, Action] = {
    "none": "INFO",
    "reset": "RESET",
    "reboot": "REBOOT",
    "drain_p2p": "WARN",  # peer-to-peer traffic alone: what checks/state.py says of it
    "drain_and_reset": "RESET",
    "imex": "PROBE",
    "bus_reset": "RESET",
    "system_reboot": "REBOOT",
}
_ENDED_BY: Mapping[Action, frozenset[str]] = {
    "PROBE": frozenset({"probe_passed", "reset", "released"}),
    "RESET": frozenset({"reset", "released"}),
    "REBOOT": frozenset({"released"}),
    "POWER": frozenset({"released"}),
    "RMA": frozenset({"released"}),
}
_WHY: Mapping[str, str] = {
    "off_the_bus": "the GPU has fallen off the bus",
    "init_failed": "the driver could not start the GPU",
    "gsp": "the GPU's system processor (GSP) failed",
}


@dataclass(frozen=True)
class GpuCondition:
    """What one GPU needs, by the kernel log, the driver's own word and the host's notes.

    ``pci``: address like ``0000:11:00``, empty for lines that named none. ``gpu`` and ``uuid``: NVML's, when
    it lists a GPU at that address. ``action``: what to do now (INFO: nothing). ``codes``, ``first``, ``last``
    and ``count`` (occurrences) are of what led to it; ``reason`` is a sentence about that.
    ``reset_when_idle``: it may work, and wants a reset when no job runs. ``probe_owed``: it failed a probe,
    was treated, and has not passed one since. ``program_faults``: occurrences of the last 24 hours that were
    a program's own fault; ``settled``: faults that were recovered.
    """

    pci: str
    gpu: int | None = None
    uuid: str | None = None
    action: Action = "INFO"
    reason: str = ""
    codes: tuple[int, ...] = ()
    first: datetime | None = None
    last: datetime | None = None
    count: int = 0
    reset_when_idle: bool = False
    probe_owed: bool = False
    program_faults: int = 0
    settled: int = 0


class Moment(NamedTuple):
    """When it is judged: the time, and the boot that runs."""

    now: datetime
    boot_id: str


class _Fault(NamedTuple):
    """One event with what the table says of it."""

    event: KernelEvent
    entry: Xid
    action: Action


class _Subject(NamedTuple):
    """One GPU, or an address that NVML does not list, with all that is known of it."""

    pci: str
    gpu: Gpu | None
    faults: tuple[_Fault, ...]
    history: tuple[GpuEvent, ...]
    asked: str | None
    moment: Moment


def assess(
    events: Iterable[KernelEvent],
    moment: Moment,
    *,
    gpus: Sequence[Gpu] = (),
    history: GpuHistory | None = None,
) -> tuple[GpuCondition, ...]:
    """One condition for each GPU of ``gpus``, in their order, then one for each other address with events."""
    moment = Moment(moment.now, plain_boot_id(moment.boot_id))
    by_pci: dict[str, list[KernelEvent]] = {}
    for event in sorted(events, key=lambda each: each.time):
        if event.kind in ("xid", *_WHY):
            by_pci.setdefault(event.pci or "", []).append(event)
    known = {normal_pci(gpu.pci_bus_id) or f"GPU {gpu.index}": gpu for gpu in gpus}
    addresses = [*known, *(pci for pci in sorted(by_pci) if pci not in known)]
    notes = history.events if history else ()
    subjects = (_subject(pci, known.get(pci), by_pci.get(pci, []), notes, moment) for pci in addresses)
    return tuple(_condition(subject) for subject in subjects)


def _subject(
    pci: str,
    gpu: Gpu | None,
    events: Sequence[KernelEvent],
    notes: Sequence[GpuEvent],
    moment: Moment,
) -> _Subject:
    faults = tuple(_fault(event, gpu) for event in events)
    own = in_effect([note for note in notes if _is_about(note, pci, gpu)])
    return _Subject(pci, gpu, faults, own, _asked(gpu, faults, own, moment), moment)


def _is_about(note: GpuEvent, pci: str, gpu: Gpu | None) -> bool:
    if gpu is not None and gpu.uuid and note.uuid:
        return note.uuid == gpu.uuid
    return bool(note.pci) and normal_pci(note.pci) == pci


def _fault(event: KernelEvent, gpu: Gpu | None) -> _Fault:
    """What the table says of an event, and what the line itself adds to it."""
    if event.kind == "off_the_bus":
        return _Fault(event, xid(79), "REBOOT")
    if event.kind == "init_failed":
        answers = gpu is not None and gpu.failure is None  # a later try went well
        return _Fault(event, xid(143), "INFO" if answers else "RESET")
    if event.kind == "gsp":
        return _Fault(event, xid(120), "PROBE")
    entry = xid(event.code or 0)
    action = entry.action
    if 144 <= entry.code <= 150 and event.fatal is not None:
        action = "RESET" if event.fatal else "INFO"
    if entry.code in (48, 172) and gpu and gpu.ecc_counts and gpu.ecc_counts.sram_threshold_exceeded:
        action = "RMA"
    return _Fault(event, entry, action)


def _asked(
    gpu: Gpu | None, faults: Sequence[_Fault], notes: Sequence[GpuEvent], moment: Moment
) -> str | None:
    """What the driver asks for now; None: it does not say, or said so before the last fault."""
    if gpu is not None and gpu.recovery_action is not None:
        known = 0 <= gpu.recovery_action < len(RECOVERY_WORDS)
        return RECOVERY_WORDS[gpu.recovery_action] if known else "unknown"
    now = [fault for fault in faults if _same_boot(fault.event.boot_id, moment)]
    said = [fault.event for fault in now if fault.entry.code == 154]
    if not said:
        return None
    last = said[-1]
    over = any(note.kind in ("reset", "released") and note.time >= last.time for note in notes)
    asked = "none" if over else last.recovery or "unknown"
    stale = any(f.event.time > last.time and rank(f.action) >= rank("RESET") for f in now)
    return None if asked == "none" and stale else asked


def _same_boot(boot_id: str, moment: Moment) -> bool:
    """A boot that is not known counts as this one."""
    return not boot_id or not moment.boot_id or plain_boot_id(boot_id) == moment.boot_id


def _condition(subject: _Subject) -> GpuCondition:
    day = subject.moment.now - DAY
    recent = [fault for fault in subject.faults if fault.event.time >= day]
    candidates = [*_grave(subject), *_mild(subject, day), *_standing(subject), *_driver(subject)]
    open_ones = [each for each in candidates if not _settled(subject, each)]
    probe = failed_probe(subject.history, subject.moment.boot_id)
    base = GpuCondition(
        subject.pci,
        gpu=subject.gpu.index if subject.gpu else None,
        uuid=subject.gpu.uuid if subject.gpu else None,
        program_faults=sum(1 for _ in _bursts(fault for fault in recent if fault.action == "JOB")),
        reset_when_idle=_wants_idle_reset(subject),
        probe_owed=probe is not None and probe.treated,
        settled=len(candidates) - len(open_ones),
    )
    # Of several that are as grave the last one.
    worst = max(reversed(open_ones), key=lambda each: rank(each.action), default=None)
    if worst is None or worst.action == "INFO":
        return replace(base, reason=_calm(base))
    return replace(
        base,
        action=worst.action,
        reason=worst.reason,
        codes=worst.codes,
        first=worst.first,
        last=worst.last,
        count=worst.times,
    )


class _Candidate(NamedTuple):
    """Something that may have to be done, and why."""

    action: Action
    reason: str
    codes: tuple[int, ...] = ()
    first: datetime | None = None
    last: datetime | None = None
    boot_id: str = ""
    times: int = 1
    current: bool = False  # true now, whatever was done before


def _grave(subject: _Subject) -> Iterator[_Candidate]:
    """Each occurrence of a RESET or worse, a step up for those in the day before it."""
    bursts = [*_bursts(fault for fault in subject.faults if rank(fault.action) >= rank("RESET"))]
    start = 0
    for number, last in enumerate(bursts, 1):
        while bursts[start][-1].event.time < last[-1].event.time - DAY:
            start += 1
        close = bursts[start:number]
        action: Action = max((fault.action for fault in last), key=rank)
        reason, steps = _sentence(last), _steps(close)
        if steps:
            action = _repeat(last, close)
            action = _CLIMB[action] if steps > 1 else action
            reason += f"; occurrence {len(close)} within 24 hours"
        elif subject.asked == "none" and action in ("RESET", "REBOOT"):
            action, reason = "PROBE", f"{reason}; the driver asks for no recovery"
        yield _made(action, reason, [fault for burst in close for fault in burst], times=len(close))


def _steps(close: Sequence[Sequence[_Fault]]) -> int:
    """One for a second occurrence, and one more for each boot in between from the third on."""
    if len(close) < 2:
        return 0
    boots = len({burst[0].event.boot_id for burst in close}) - 1
    return min(len(close) - 1, 1 + boots)


def _repeat(last: Sequence[_Fault], close: Sequence[Sequence[_Fault]]) -> Action:
    """One step up, or what the table says of a code that came back."""
    worst = max(last, key=lambda fault: rank(fault.action))
    earlier = {fault.entry.code for burst in close[:-1] for fault in burst}
    named = [f.entry.repeat for f in last if f.entry.repeat and f.entry.code in earlier]
    return max([_CLIMB[worst.action], *named], key=rank)


def _mild(subject: _Subject, day: datetime) -> Iterator[_Candidate]:
    """PROBE until it was probed; WARN and repeated lesser ones for a day."""
    for code in sorted({fault.entry.code for fault in subject.faults if rank(fault.action) < rank("RESET")}):
        faults = [fault for fault in subject.faults if fault.entry.code == code and fault.action != "INFO"]
        late = [fault for fault in faults if fault.event.time >= day]
        wanted = faults if faults and faults[-1].action == "PROBE" else late
        bursts = [*_bursts(wanted)]
        if not bursts:
            continue
        repeat = wanted[-1].entry.repeat if len([*_bursts(late)]) > 1 else None
        action = repeat or wanted[-1].action
        if action != "JOB":
            yield _made(action, _sentence(bursts[-1]), wanted, times=len(bursts))


def _standing(subject: _Subject) -> Iterator[_Candidate]:
    """What the host wrote down and nobody took back."""
    probe = failed_probe(subject.history, subject.moment.boot_id)
    if probe is not None:
        action: Action = "PROBE" if probe.treated else "RESET"
        yield _Candidate(action, probe.sentence, last=probe.event.time, current=True)
    for note in reversed(subject.history):
        if note.kind == "released":
            return
        if note.kind == "taken_out":
            reason = f"taken out of service: {note.reason}" if note.reason else "taken out of service"
            yield _Candidate("RMA", reason, last=note.time, boot_id=note.boot_id)
            return


def _driver(subject: _Subject) -> Iterator[_Candidate]:
    """The driver's own word, current by nature."""
    if subject.asked in (None, "none"):
        return
    action = _ASKED.get(subject.asked or "", "PROBE")
    near = [fault for fault in subject.faults if _same_boot(fault.event.boot_id, subject.moment)]
    near = [fault for fault in near if rank(fault.action) >= rank("PROBE") or fault.entry.code == 154]
    words = (subject.asked or "").replace("_", " ").replace("p2p", "peer-to-peer traffic")
    reason = f"the driver asks for recovery: {words}"
    codes = [fault for fault in near if fault.entry.code != 154]
    if codes:
        reason += f", after {_sentence([codes[-1]])}"
    yield _made(action, reason, near)._replace(current=True)


def _settled(subject: _Subject, candidate: _Candidate) -> bool:
    """Whether what was to be done has been done since."""
    if candidate.current or candidate.last is None:
        return False
    if candidate.action in ("PROBE", "RESET", "REBOOT") and not _same_boot(candidate.boot_id, subject.moment):
        return True
    ends = _ENDED_BY.get(candidate.action, frozenset({"released"}))
    return any(note.kind in ends and note.time >= candidate.last for note in subject.history)


def _wants_idle_reset(subject: _Subject) -> bool:
    """Bad memory was marked, or an error contained, and no reset came since; NVML knows it better."""
    gpu = subject.gpu
    if gpu and gpu.remapped_rows is not None:
        return gpu.remapped_rows.pending
    if gpu and gpu.retired_pages is not None:
        return gpu.retired_pages.pending
    marked = [fault for fault in subject.faults if fault.entry.idle_reset]
    if not marked or subject.asked == "none":
        return False
    event = marked[-1].event
    return not _settled(subject, _Candidate("RESET", "", last=event.time, boot_id=event.boot_id))


def _bursts(faults: Iterable[_Fault]) -> Iterator[list[_Fault]]:
    """Occurrences: lines of one boot, each within a minute of the one before it."""
    burst: list[_Fault] = []
    for fault in faults:
        if burst and (
            fault.event.time - burst[-1].event.time > BURST or fault.event.boot_id != burst[-1].event.boot_id
        ):
            yield burst
            burst = []
        burst.append(fault)
    if burst:
        yield burst


def _made(action: Action, reason: str, faults: Sequence[_Fault], *, times: int = 1) -> _Candidate:
    return _Candidate(
        action,
        reason,
        codes=tuple(dict.fromkeys(f.event.code for f in faults if f.event.code is not None)),
        first=faults[0].event.time if faults else None,
        last=faults[-1].event.time if faults else None,
        boot_id=faults[-1].event.boot_id if faults else "",
        times=times,
    )


def _sentence(faults: Sequence[_Fault]) -> str:
    """The gravest of some faults in words; the first of them, if several are as grave."""
    worst = max(faults, key=lambda fault: rank(fault.action))
    if worst.event.kind != "xid":
        return _WHY[worst.event.kind]
    if not worst.entry.known:
        return worst.entry.meaning
    return f"Xid {worst.entry.code}: {worst.entry.meaning}"


def _calm(condition: GpuCondition) -> str:
    parts = []
    if condition.reset_when_idle:
        parts.append("bad memory is marked: reset the GPU when no job runs")
    if condition.program_faults:
        number = condition.program_faults
        parts.append(f"{number} fault{'' if number == 1 else 's'} of programs, none of the GPU's")
    if condition.settled > 0:
        parts.append("an earlier fault was recovered")
    return "; ".join(parts) or "no Xid in the last 24 hours"
