"""Why a slot's runner cannot take a job: everything that is known of it, root cause first. Pure.

Two views meet here: the verdict of the slot's host, and GitHub's record of the runner. Neither is enough: an
active unit proves little, and GitHub's status may lag by minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from runnerctl.core.findings import Finding, Status
from runnerctl.core.labels import DRAINED, READ_ONLY, normalise
from runnerctl.core.spec import HostSpec, Slot

__all__ = [
    "LAG_SECONDS",
    "Cause",
    "FleetRecord",
    "SlotSight",
    "agent_id",
    "held_id",
    "is_busy",
    "slot_causes",
]

LAG_SECONDS = 300.0  # how long GitHub's status of a runner may be behind its host's
_PROVISION = "run the provision playbook for this host again"
_FIRST_DAY = 86400.0
# What explains others comes before them: a full disk is why a listener ended, not the other way round.
_ORDER = (
    *("host.read_only", "host.disk", "host.inodes", "host.memory", "host.clock", "host.api", "host."),
    *("hold", "slot.registered", "github.version", "github.record"),
    *("slot.credentials", "slot.user", "slot.release"),
    *("driver.", "gpu.count", "gpu.answers", "xid.", "gpu.", "docker.", "conda."),
    *("slot.memory", "slot.unit", "slot.listener", "cut", "slot.connection", "github.online"),
    *("github.labels", "github.group", "slot.", "github.", ""),
)
_LEADS: Mapping[str, str] = {
    "host.disk": "disk is full",
    "host.inodes": "no inodes are left",
    "host.read_only": "file system is read-only",
    "host.clock": "clock is wrong",
    "host.api": "GitHub cannot be reached",
}
_MOST_COPIES = 3
_GPU_WIDE = ("driver.", "gpu.", "xid.")
# Whether a runner listens at all; not knowing one of these is not knowing whether it can take a job.
_ESSENTIAL = ("slot.registered", "slot.unit", "slot.listener")


class FleetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """GitHub's record of a runner. ``labels`` are the custom ones, in lower case.

    ``expires_at`` is when GitHub stops giving jobs to its version, None where no date is known.
    """

    id: int
    name: str
    online: bool
    busy: bool
    labels: tuple[str, ...] = ()
    group: str | None = None
    group_is_default: bool | None = None
    version: str | None = None
    expires_at: datetime | None = None


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a runner. ``blocks`` when it keeps jobs from it; None: not known."""

    id: str
    status: Status
    summary: str
    remedy: str = ""
    blocks: bool | None = False


@dataclass(frozen=True)
class SlotSight:
    """All that is known of one slot.

    ``findings`` are its host's, None when the host gave no verdict. ``record`` is GitHub's; ``asked`` tells
    whether GitHub was asked for the slot's scope, and ``failure`` why it did not tell. ``copies`` are other
    slots that say they have the same registration.
    """

    name: str
    spec: HostSpec
    slot: Slot | None
    findings: Sequence[Finding] | None
    time: datetime
    record: FleetRecord | None = None
    asked: bool = False
    failure: str = ""
    copies: tuple[str, ...] = ()

    def finding(self, check: str) -> Finding | None:
        """The host's finding of a check on this slot."""
        return next(
            (each for each in self.findings or () if each.id == check and each.subject == self.name), None
        )

    @property
    def held(self) -> bool:
        """Whether the slot is on hold, by its host's word."""
        found = self.finding("slot.unit")
        return bool(found and found.summary.startswith("held: "))

    @property
    def listens(self) -> bool | None:
        """Whether a listener runs, by its host's word; None when that is not known."""
        if self.findings is None:
            return None
        found = self.finding("slot.listener")
        if found and found.status == "UNKNOWN":
            return None
        return bool(found and found.status == "OK")


def agent_id(sight: SlotSight) -> int | None:
    """The id that the runner itself was registered with, by its host's word."""
    found = sight.finding("slot.registered")
    return held_id(found) if found else None


def held_id(finding: Finding) -> int | None:
    """The id in a finding of ``slot.registered``."""
    value = finding.data.get("agent_id")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_busy(sight: SlotSight) -> bool:
    """Whether a job runs, by either view."""
    found = sight.finding("slot.listener")
    return bool(found and found.data.get("busy") is True) or bool(sight.record and sight.record.busy)


def slot_causes(sight: SlotSight) -> tuple[Cause, ...]:
    """Everything that is wrong with a slot: what keeps jobs from it first, roots before their effects."""
    found = [*_host_causes(sight), *_github_causes(sight)]
    kept = {(cause.id, cause.summary): cause for cause in found}.values()
    return tuple(sorted(kept, key=_rank))


def _rank(cause: Cause) -> tuple[int, int]:
    place = next(number for number, prefix in enumerate(_ORDER) if cause.id.startswith(prefix))
    return (0 if cause.blocks else 1 if cause.blocks is None else 2), place


def _host_causes(sight: SlotSight) -> Iterator[Cause]:
    if sight.findings is None:
        return
    if sight.finding("slot.unit") is None and sight.finding("slot.registered") is None:
        summary = "this slot is not on the host"
        yield Cause(id="slot.registered", status="CRITICAL", summary=summary, remedy=_PROVISION, blocks=True)
    elif missing := _unsaid(sight):
        summary = f"the host does not say {missing}: another runnerctl is there"
        yield _say("slot.listener", "UNKNOWN", summary, _PROVISION, blocks=None)
    if sight.copies:
        summary = f"{', '.join(sight.copies[:_MOST_COPIES])} has the same registration: one disk is a copy"
        remedy = "remove the copy's slot from its disk, and provision that host again"
        yield _say("github.record", "CRITICAL", summary, remedy, blocks=True)
    for finding in sight.findings:
        if finding.status != "OK" and _concerns(finding, sight):
            yield _cause(finding, sight)


def _unsaid(sight: SlotSight) -> str:
    """What a verdict on a slot must hold and this one does not: what nobody spoke of is not well for that."""
    unit = sight.finding("slot.unit")
    if unit is None:
        return "whether its unit is active"
    if sight.finding("slot.registered") is None:
        return "whether it is registered"
    listens = unit.data.get("active_state", "active") != "active" or sight.finding("slot.listener")
    return "" if listens else "whether its listener runs"


def _cause(finding: Finding, sight: SlotSight) -> Cause:
    """A finding as a cause. CRITICAL means that jobs cannot run, or fail; a hold is no fault, but does so."""
    own = finding.subject == sight.name
    summary = finding.summary
    if finding.id in _LEADS and finding.status == "CRITICAL":
        summary = f"{_LEADS[finding.id]}: {summary}"
    if not own and finding.subject not in ("", "host"):
        summary = (
            f"{summary} ({finding.subject})" if finding.id in _LEADS else f"{finding.subject}: {summary}"
        )
    held = own and finding.id == "slot.unit" and sight.held
    remedy = finding.remedy
    if held and is_busy(sight):
        summary += "; its job still runs"
    if held and _is_cut(sight):  # on the host it would start, and without a credential stay out of routing
        remedy = remedy.replace(f"`runnerctl resume {sight.name}`", _resume(sight))
    return Cause(
        id="hold" if held else finding.id,
        status=finding.status,
        summary=summary,
        remedy=remedy,
        blocks=held or _blocks(finding, sight),
    )


def _is_cut(sight: SlotSight) -> bool:
    return sight.record is not None and DRAINED in normalise(sight.record.labels)


def _resume(sight: SlotSight) -> str:
    return f"`runnerctl resume -i INVENTORY --limit {sight.spec.host} --slot {sight.name}`"


def _blocks(finding: Finding, sight: SlotSight) -> bool | None:
    if finding.status == "CRITICAL":
        return True
    if finding.subject != sight.name:
        return False
    if finding.status == "UNKNOWN":
        return None if finding.id in _ESSENTIAL else False
    if finding.id == "slot.unit":
        return finding.data.get("active_state") == "activating"
    if finding.id == "slot.registered":
        return "agent_id" not in finding.data and sight.slot is not None  # begun, and not finished
    return finding.id == "slot.connection" and not (sight.record and sight.record.online)


def _concerns(finding: Finding, sight: SlotSight) -> bool:
    """Whether a finding is about this slot, a GPU of its own, or, where it keeps jobs off, the host."""
    if finding.subject == sight.name:
        return True
    if finding.id.startswith(("slot.", "github.")) or finding.id == "gpu.slots":
        return False  # another slot's
    if finding.subject.startswith("GPU "):
        return _uses(finding.subject, sight)
    wide = finding.status == "CRITICAL"  # what jobs survive is the host's own line, not each slot's
    return wide and (not finding.id.startswith(_GPU_WIDE) or _uses_gpus(sight))


def _uses_gpus(sight: SlotSight) -> bool:
    """A slot claims GPUs, or none does, so that all are for all."""
    claimed = any(slot.gpus for slot in sight.spec.github_runner.slots)
    return not claimed or bool(sight.slot and sight.slot.gpus)


def _uses(subject: str, sight: SlotSight) -> bool:
    """Whether a GPU is one of the slot's. One that does not tell its UUID, or a part of one, may be."""
    if not _uses_gpus(sight):
        return False
    own = {uuid.lower() for uuid in (sight.slot.gpus if sight.slot else ())}
    answers = (each for each in sight.findings or () if each.id == "gpu.answers" and each.subject == subject)
    uuid = next((str(each.data.get("uuid") or "") for each in answers), "").lower()
    return not own or not uuid or uuid in own or any(each.startswith("mig-") for each in own)


def _github_causes(sight: SlotSight) -> Iterator[Cause]:
    if sight.failure:
        yield _say("github.asked", "UNKNOWN", f"GitHub did not tell: {sight.failure}", blocks=None)
    if not sight.asked:
        return
    record = sight.record
    if record is None:
        if sight.slot is not None and not _between_jobs(sight):
            yield _say(
                "github.record", "CRITICAL", "GitHub has no record of this runner", _PROVISION, blocks=True
            )
        return
    mine = agent_id(sight)
    if mine is not None and mine != record.id:
        summary = f"GitHub's record of this name is another's: id {record.id}, here {mine}"
        remedy = "another host took the name: rename one of the two and provision again"
        yield _say("github.record", "CRITICAL", summary, remedy, blocks=True)
    yield from _version(sight, record)
    yield from _labels(sight, record)
    yield from _group(sight, record)
    yield from _online(sight, record)


def _version(sight: SlotSight, record: FleetRecord) -> Iterator[Cause]:
    end = record.expires_at
    if end is None:
        return
    days = sight.spec.runnerctl.health_version_expiry_warning_days
    remedy = f"{_PROVISION}, with github_runner_version raised where it is pinned"
    name = f"runner {record.version}" if record.version else "its version"
    if end <= sight.time:
        summary = f"{name} is expired: GitHub gives it no jobs since {end:%Y-%m-%d}"
        yield _say("github.version", "CRITICAL", summary, remedy, blocks=True)
    elif end - sight.time <= timedelta(days=days):
        left = int((end - sight.time).total_seconds() // _FIRST_DAY)
        yield _say("github.version", "WARNING", f"{name} expires on {end:%Y-%m-%d}, in {left} days", remedy)


def _labels(sight: SlotSight, record: FleetRecord) -> Iterator[Cause]:
    have = normalise(record.labels) - READ_ONLY
    if DRAINED in have:
        if not sight.held:
            known = "" if sight.findings is None else ", and is not on hold: a drain or a resume did not end"
            remedy = f"{_resume(sight)}, or run the provision playbook"
            yield _say("cut", "WARNING", f"is cut from routing (label {DRAINED}){known}", remedy, blocks=True)
        return
    if sight.slot is None:
        return
    want = normalise(sight.spec.expected_labels(sight.slot, have)) - READ_ONLY
    parts = [
        f"{word} {', '.join(sorted(labels))}"
        for word, labels in (("lacks the labels", want - have), ("has besides the labels", have - want))
        if labels
    ]
    if parts:
        yield _say("github.labels", "WARNING", "; ".join(parts), _PROVISION, blocks=bool(want - have))


def _group(sight: SlotSight, record: FleetRecord) -> Iterator[Cause]:
    if sight.slot is None or record.group is None:
        return
    wanted = sight.spec.slot_group(sight.slot)
    parked = sight.spec.github_runner.drain_group
    if parked and record.group.casefold() == parked.casefold() and DRAINED in record.labels:
        return
    if wanted is None and record.group_is_default is False:
        summary = f"is in runner group {record.group}, and the spec names none"
        yield _say("github.group", "WARNING", summary, _PROVISION)
    elif wanted is not None and record.group.casefold() != wanted.casefold():
        summary = f"is in runner group {record.group}, and should be in {wanted}"
        yield _say("github.group", "WARNING", summary, _PROVISION, blocks=True)


def _online(sight: SlotSight, record: FleetRecord) -> Iterator[Cause]:
    """GitHub's status beside the host's: where they disagree, it is said who may be behind."""
    if record.online:
        if sight.listens is False and not sight.held:
            summary = "GitHub still shows it online: its view lags by minutes"
            yield _say("github.online", "WARNING", summary, "believe the host")
    elif sight.held or (_between_jobs(sight) and not sight.listens):
        return
    elif sight.findings is None:
        yield _say("github.online", "CRITICAL", "GitHub shows it offline", "look at the host", blocks=True)
    elif not sight.listens:
        yield _say("github.online", "CRITICAL", "GitHub shows it offline", blocks=True)
    else:
        yield _quiet(sight)


def _quiet(sight: SlotSight) -> Cause:
    """Listening on its host, offline at GitHub: young, it may be the lag; old, it hangs."""
    said = _last_line(sight)
    age = (sight.time - said).total_seconds() if said else None
    restart = f"`systemctl restart {_unit(sight)}` on {sight.spec.host}"
    if age is not None and age < LAG_SECONDS:
        summary = "GitHub shows it offline, and its listener runs: GitHub may lag by minutes"
        return _say(
            "github.online", "WARNING", summary, f"ask again in 5 minutes, then {restart}", blocks=True
        )
    since = f", silent for {_span(age)}," if age is not None else ""
    summary = f"GitHub shows it offline, and its listener runs{since} but does not get through"
    return _say(
        "github.online",
        "CRITICAL",
        summary,
        f"see `runnerctl logs {sight.name}`; then {restart}",
        blocks=True,
    )


def _unit(sight: SlotSight) -> str:
    return f"gha-{'ephemeral' if _is_ephemeral(sight) else 'runner'}@{sight.name}"


def _is_ephemeral(sight: SlotSight) -> bool:
    return sight.slot is not None and sight.slot.mode == "ephemeral"


def _between_jobs(sight: SlotSight) -> bool:
    """An ephemeral slot that GitHub does not see: its host says whether, and why, that is no moment only."""
    return _is_ephemeral(sight) and sight.finding("slot.minting") is not None and not sight.held


def _last_line(sight: SlotSight) -> datetime | None:
    found = sight.finding("slot.connection")
    text: Any = found.data.get("last_line_at") if found else None
    try:
        time = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return time if time.tzinfo else None


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def _say(name: str, status: Status, summary: str, remedy: str = "", *, blocks: bool | None = False) -> Cause:
    return Cause(id=name, status=status, summary=summary, remedy=remedy, blocks=blocks)
