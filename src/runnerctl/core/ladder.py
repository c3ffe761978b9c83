"""What to do about a sick GPU: hold its slots, reset it, boot the host, or take it out; and back again. Pure.

The rules:

1. CRITICAL puts a slot on hold; UNKNOWN neither holds, nor mends, nor releases: a reading that could not be
   taken is no sick GPU, and no healthy one.
2. A driver that fails as a whole holds every slot with GPUs; slots without GPUs go on.
3. A reset waits until every slot that it touches is on hold and stopped and no process is on the GPU; where
   GPUs are joined by NVLink it touches them all. A reboot waits for every slot of the host.
4. Beyond the limits of a day, after a reset that failed, or when a GPU falls ill again within 24 hours of its
   release, the next rung is due: reset, reboot, out. What the host's spec forbids is left to a human.
5. A slot that the verdict holds is released when all its GPUs were clean so many times in a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, NamedTuple

from runnerctl.core.driver_readings import GpuEvent, GpuHistory
from runnerctl.core.sections import Runnerctl
from runnerctl.core.xid import DAY, Moment
from runnerctl.core.xid_table import Action

__all__ = ["Decision", "GpuState", "Plan", "SlotState", "decide"]

REBOOT_PATIENCE = timedelta(minutes=15)
_RUNGS: Mapping[Action, int] = {"RESET": 1, "REBOOT": 2, "POWER": 3, "RMA": 3}
_RESET, _REBOOT, _OUT = 1, 2, 3
_TREATMENTS: Mapping[str, int] = {"reset": _RESET, "reset_failed": _RESET, "reboot": _REBOOT}


@dataclass(frozen=True)
class GpuState:
    """One GPU as the verdict sees it.

    ``action``: what it needs (see `runnerctl.core.xid_table`). ``users``: who uses it, empty for nobody, None
    when that is not known. ``together``: the UUIDs of all GPUs that a reset of it touches, its own included;
    ``alone``: the others need not be reset with it. ``probe``: it should prove that it works;
    thoroughly where it failed to, and was treated since.
    """

    uuid: str
    status: Literal["clean", "sick", "unknown"]
    action: Action = "INFO"
    reason: str = ""
    name: str = "GPU"
    pci: str | None = None
    users: str | None = ""
    together: frozenset[str] = frozenset()
    alone: bool = True
    probe: Literal["none", "small", "thorough"] = "none"


@dataclass(frozen=True)
class SlotState:
    """One slot: the UUIDs of the whole GPUs it uses, and how it stands.

    ``held``: by anybody; ``by_health``: the GPUs for which the verdict holds it, None when it does not.
    """

    name: str
    gpus: tuple[str, ...] = ()
    running: bool = True
    held: bool = False
    by_health: tuple[str, ...] | None = None

    @property
    def dry(self) -> bool:
        """Whether no job runs there and none can come."""
        return self.held and not self.running


@dataclass(frozen=True)
class Decision:
    """One thing to do, or to wait for. ``gpus``: the UUIDs it is about; ``slot``: for hold and release."""

    kind: Literal["hold", "release", "reset", "reboot", "take_out", "wait"]
    reason: str
    slot: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What to do, in this order, and how often each GPU was clean in a row."""

    decisions: tuple[Decision, ...] = ()
    clean_probes: dict[str, int] = field(default_factory=dict)


class _Step(NamedTuple):
    """The rung that is due for a sick GPU; ``why`` it is not the one its action names, or must wait."""

    gpu: GpuState
    rung: int
    why: str = ""
    by_hand: bool = False


def decide(
    gpus: Sequence[GpuState],
    slots: Sequence[SlotState],
    *,
    history: GpuHistory,
    limits: Runnerctl,
    moment: Moment,
) -> Plan:
    """What to do now. ``limits`` are the spec's ``runnerctl_health_*``."""
    clean = _clean(gpus, history, limits.health_clean_probes)
    steps = [_step(gpu, history, limits, moment) for gpu in gpus if gpu.status == "sick"]
    ladder = _Ladder({gpu.uuid: gpu for gpu in gpus}, slots, steps, history, limits, moment)
    decisions = [*ladder.holds(), *ladder.take_outs(), *ladder.resets(), *ladder.reboots()]
    decisions += ladder.releases(clean)
    return Plan(tuple(decisions), clean)


def _clean(gpus: Sequence[GpuState], history: GpuHistory, enough: int) -> dict[str, int]:
    """Clean verdicts in a row, counted no further than needed: what does not change is not written again."""
    before, most = history.clean_probes, max(enough, 1)
    more = {"sick": -most, "unknown": 0, "clean": 1}
    return {gpu.uuid: max(0, min(before.get(gpu.uuid, 0) + more[gpu.status], most)) for gpu in gpus}


def _own(history: GpuHistory, uuid: str) -> list[GpuEvent]:
    return [event for event in history.events if event.uuid == uuid]


def _last(events: Sequence[GpuEvent], *kinds: str) -> GpuEvent | None:
    return next((event for event in reversed(events) if event.kind in kinds), None)


def _is_out(events: Sequence[GpuEvent]) -> bool:
    last = _last(events, "taken_out", "released")
    return last is not None and last.kind == "taken_out"


def _step(gpu: GpuState, history: GpuHistory, limits: Runnerctl, moment: Moment) -> _Step:
    own = _RUNGS.get(gpu.action, 0)
    if not own:
        return _Step(gpu, 0)
    if _is_out(_own(history, gpu.uuid)):
        return _Step(gpu, _OUT)  # for good: a new day brings no new attempts
    day = [event for event in _own(history, gpu.uuid) if moment.now - event.time <= DAY]
    rung, why = _climbed(own, day)
    if rung == _RESET:
        rung, why = _reset_or_more(day, limits) or (_RESET, why)
    if rung < _REBOOT:
        return _Step(gpu, rung, why)
    if rung > _REBOOT:
        return _Step(gpu, _OUT, why)
    if not limits.health_reboot:
        why = "; ".join(part for part in (why, "runnerctl_health_reboot forbids a reboot") if part)
        again = _last(day, "released") is not None or (own < _REBOOT and limits.health_reset)
        return _Step(gpu, _OUT, why) if again else _Step(gpu, _REBOOT, why, by_hand=True)
    over = _no_more_reboots(history, limits, moment)
    return _Step(gpu, _OUT, over) if over else _Step(gpu, _REBOOT, why)


def _reset_or_more(day: Sequence[GpuEvent], limits: Runnerctl) -> tuple[int, str] | None:
    """The next rung where a reset may not be tried any more; None where it may."""
    resets = sum(event.kind == "reset" for event in day)
    if not limits.health_reset:
        return _REBOOT, "runnerctl_health_reset forbids a reset"
    if resets >= limits.health_resets_per_day:
        return _REBOOT, f"{resets} resets in 24 hours did not help"
    return None


def _no_more_reboots(history: GpuHistory, limits: Runnerctl, moment: Moment) -> str:
    """Why no reboot may be tried any more; empty where it may. A reboot is of the whole host."""
    last = _last(history.events, "reboot")
    if last is not None and last.boot_id == moment.boot_id:
        late = moment.now - last.time > REBOOT_PATIENCE
        return "the host was told to reboot, and did not" if late else ""
    day = {
        event.time for event in history.events if event.kind == "reboot" and moment.now - event.time <= DAY
    }
    if len(day) >= limits.health_reboots_per_day:
        return f"{len(day)} reboot{'' if len(day) == 1 else 's'} in 24 hours did not help"
    return ""


def _climbed(own: int, day: Sequence[GpuEvent]) -> tuple[int, str]:
    """The rung that the last day's events make of the one that the GPU's state asks for."""
    failed, reset = _last(day, "reset_failed"), _last(day, "reset")
    if own == _RESET and failed and (reset is None or failed.time >= reset.time):
        return _REBOOT, "its reset failed"
    released = _last(day, "released")
    if released is None:
        return own, ""
    before = [_TREATMENTS.get(event.kind, 0) for event in day if event.time <= released.time]
    treated = max(before, default=0)
    if treated and treated + 1 > own:
        return treated + 1, "it fell ill again within 24 hours"
    return own, ""


def _rebooting(history: GpuHistory, moment: Moment) -> bool:
    """Whether this boot was told to end."""
    last = _last(history.events, "reboot")
    return last is not None and last.boot_id == moment.boot_id


@dataclass(frozen=True)
class _Ladder:
    """One round: every method yields the decisions of one kind."""

    gpus: Mapping[str, GpuState]
    slots: Sequence[SlotState]
    steps: Sequence[_Step]
    history: GpuHistory
    limits: Runnerctl
    moment: Moment

    def holds(self) -> Iterator[Decision]:
        for slot in self.slots:
            wanted = self._wanted(slot)
            if wanted and (slot.by_health is None or not set(wanted.gpus) <= set(slot.by_health)):
                yield wanted

    def _wanted(self, slot: SlotState) -> Decision | None:
        """Why the verdict wants the slot on hold, if it does."""
        sick = [step for step in self.steps if step.gpu.uuid in slot.gpus]
        if sick:
            reason = "; ".join(_reason(step) for step in sick)
            return Decision("hold", reason, slot.name, tuple(step.gpu.uuid for step in sick))
        for step in self.steps:
            if step.rung == _REBOOT and not step.by_hand:
                return Decision("hold", f"the host is to be booted, because of {_reason(step)}", slot.name)
            if step.rung == _RESET and set(slot.gpus) & step.gpu.together:
                what = f"{step.gpu.name} is to be reset, and shares NVLink with this slot's"
                return Decision("hold", what, slot.name)
        return None

    def take_outs(self) -> Iterator[Decision]:
        for step in self.steps:
            if step.rung == _OUT and not _is_out(_own(self.history, step.gpu.uuid)):
                yield Decision("take_out", _reason(step), gpus=(step.gpu.uuid,))

    def resets(self) -> Iterator[Decision]:
        for step in self.steps:
            touched = step.gpu.together | {step.gpu.uuid}
            if step.rung != _RESET or not all(slot.dry for slot in self.slots if touched & set(slot.gpus)):
                continue
            used = [self.gpus[uuid] for uuid in sorted(touched) if uuid in self.gpus]
            used = [gpu for gpu in used if gpu.users != ""]
            if used:
                yield Decision("wait", f"{step.gpu.name} is to be reset, and {_used(used)}")
                continue
            others = () if step.gpu.alone else tuple(sorted(touched - {step.gpu.uuid}))
            yield Decision("reset", step.gpu.reason, gpus=(step.gpu.uuid, *others))

    def reboots(self) -> Iterator[Decision]:
        due = [step for step in self.steps if step.rung == _REBOOT and not step.by_hand]
        if due and all(slot.dry for slot in self.slots) and not _rebooting(self.history, self.moment):
            reason = "; ".join(_reason(step) for step in due)
            yield Decision("reboot", reason, gpus=tuple(step.gpu.uuid for step in due))

    def releases(self, clean: Mapping[str, int]) -> Iterator[Decision]:
        enough = self.limits.health_clean_probes
        all_known = all(gpu.status != "unknown" for gpu in self.gpus.values())
        for slot in self.slots:
            if slot.by_health is None or self._wanted(slot) or not (slot.by_health or all_known):
                continue
            concerned = {*slot.gpus, *(uuid for uuid in slot.by_health if uuid in self.gpus)}
            states = [self.gpus.get(uuid) for uuid in concerned]
            well = all(gpu is not None and gpu.status == "clean" for gpu in states)
            out = any(_is_out(_own(self.history, uuid)) for uuid in concerned)
            if well and not out and all(clean.get(uuid, 0) >= enough for uuid in concerned):
                yield Decision("release", _released(len(concerned), enough), slot.name, slot.by_health)


def _reason(step: _Step) -> str:
    reason = f"{step.gpu.name}: {step.gpu.reason}"
    if step.why:
        reason += f" ({step.why})"
    if step.rung == _OUT:
        reason += "; taken out until `runnerctl resume --force`"
    elif step.by_hand:
        reason += "; boot the host by hand"
    return reason


def _used(gpus: Sequence[GpuState]) -> str:
    said = (f"{gpu.name} is in use by {gpu.users or 'somebody who is not known'}" for gpu in gpus)
    return "; ".join(said)


def _released(gpus: int, enough: int) -> str:
    if not gpus:
        return "the host is no longer to be booted"
    return f"{enough} clean verdict{'' if enough == 1 else 's'} in a row"
