"""The fleet: which runner is really able to take a job, and if not, why and what to do. Pure.

Every host's own verdict is merged with GitHub's records. A runner is able when both agree that it is; what is
known to be wrong comes root cause first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

import msgspec

from runnerctl.core.findings import SEVERITY, Finding, Status
from runnerctl.core.fleet_causes import (
    Cause,
    FleetRecord,
    SlotSight,
    agent_id,
    held_id,
    is_busy,
    slot_causes,
)
from runnerctl.core.health import Health, worst
from runnerctl.core.scope import parse_scope
from runnerctl.core.spec import HostSpec, Slot

__all__ = [
    "SCHEMA",
    "Able",
    "Counts",
    "Fleet",
    "FleetHost",
    "FleetRow",
    "GithubView",
    "HostAnswer",
    "judge_fleet",
]

SCHEMA = "runnerctl.fleet/1"
Able = Literal["yes", "busy", "no", "unknown"]
LONGEST_NAME = 300  # far above GitHub's limit: what a server gives beyond it is not searched for hosts
_PRUNE = "`runnerctl prune` shows what may be removed"


@dataclass(frozen=True)
class HostAnswer:
    """What came back from a host: its verdict, or the reason why there is none and what to do."""

    host: str
    spec: HostSpec | None
    health: Health | None = None
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class GithubView:
    """GitHub's side. ``records`` and ``failures`` by the scope's URL, as in ``Scope.url``.

    ``note`` says why GitHub was not asked at all.
    """

    records: Mapping[str, tuple[FleetRecord, ...]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class FleetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: a slot; a host without slots; or a record of GitHub that nobody has."""

    kind: Literal["slot", "host", "record"]
    host: str
    slot: str | None
    runner_name: str | None
    url: str | None
    can_take_a_job: Able
    status: Status
    why: str
    remedy: str
    causes: tuple[Cause, ...] = ()
    agent_id: int | None = None
    github: FleetRecord | None = None


class FleetHost(msgspec.Struct, frozen=True, kw_only=True):
    """One host's verdict: ``findings`` are those that are not OK, worst first."""

    host: str
    status: Status
    answered: bool
    why: str = ""
    remedy: str = ""
    checked_at: datetime | None = None
    findings: tuple[Finding, ...] = ()


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many runners the inventory has and how many can take a job; hosts by status."""

    runners: int
    able: int
    busy: int
    unable: int
    unknown: int
    hosts: int
    hosts_ok: int
    hosts_warning: int
    hosts_critical: int
    hosts_unknown: int


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a fleet."""

    schema: str = SCHEMA
    status: Status
    checked_at: datetime
    duration_seconds: float
    github_asked: bool
    notes: tuple[str, ...]
    counts: Counts
    rows: tuple[FleetRow, ...]
    hosts: tuple[FleetHost, ...]


def judge_fleet(
    answers: Sequence[HostAnswer],
    github: GithubView,
    *,
    time: datetime,
    duration_seconds: float = 0.0,
    whole: bool = True,
) -> Fleet:
    """Merge both views. ``whole``: ``answers`` are all of the inventory's hosts, so that a record which looks
    like one of theirs and is none can be told."""
    indexes = {url: _Index(records) for url, records in github.records.items()}
    holders = _holders(answers)
    rows = [row for answer in answers for row in _Rows(answer, github, indexes, holders, time).rows()]
    rows += _unowned(answers, github, rows) if whole else ()
    hosts = tuple(_host(answer) for answer in answers)
    statuses: list[Status] = [*(row.status for row in rows), *(host.status for host in hosts)]
    return Fleet(
        status=max(statuses, key=SEVERITY.__getitem__, default="UNKNOWN"),
        checked_at=time,
        duration_seconds=round(duration_seconds, 3),
        github_asked=not github.note,
        notes=tuple(_notes(github)),
        counts=_counts(rows, hosts),
        rows=tuple(rows),
        hosts=hosts,
    )


def _notes(github: GithubView) -> Iterator[str]:
    if github.note:
        yield github.note
    for scope, failure in sorted(github.failures.items()):
        yield f"GitHub did not tell about {scope}: {failure}"


def _counts(rows: Sequence[FleetRow], hosts: Sequence[FleetHost]) -> Counts:
    slots = [row.can_take_a_job for row in rows if row.kind == "slot"]
    statuses = [host.status for host in hosts]
    return Counts(
        runners=len(slots),
        able=slots.count("yes"),
        busy=slots.count("busy"),
        unable=slots.count("no"),
        unknown=slots.count("unknown"),
        hosts=len(hosts),
        hosts_ok=statuses.count("OK"),
        hosts_warning=statuses.count("WARNING"),
        hosts_critical=statuses.count("CRITICAL"),
        hosts_unknown=statuses.count("UNKNOWN"),
    )


def _host(answer: HostAnswer) -> FleetHost:
    if answer.health is None:
        return FleetHost(
            host=answer.host, status="UNKNOWN", answered=False, why=answer.reason, remedy=answer.remedy
        )
    bad = sorted(
        (finding for finding in answer.health.findings if finding.status != "OK"),
        key=lambda finding: -SEVERITY[finding.status],
    )
    return FleetHost(
        host=answer.host,
        status=max((answer.health.status, worst(answer.health.findings)), key=SEVERITY.__getitem__),
        answered=True,
        why=_line(bad[0]) if bad else "",
        remedy=bad[0].remedy if bad else "",
        checked_at=answer.health.checked_at,
        findings=tuple(bad),
    )


def _line(finding: Finding) -> str:
    return finding.summary if finding.subject in ("", "host") else f"{finding.subject}: {finding.summary}"


class _Index:
    """The records of one scope. GitHub compares names without case."""

    def __init__(self, records: Sequence[FleetRecord]) -> None:
        self._ids = {record.id: record for record in records}
        self._names = {record.name.casefold(): record for record in records}

    def find(self, own: int | None, name: str) -> FleetRecord | None:
        """The record of the id that the host has, whatever its name; else the one that has the name."""
        return (self._ids.get(own) if own is not None else None) or self._names.get(name.casefold())


_Holders = Mapping[tuple[str, int], list[str]]


def _holders(answers: Sequence[HostAnswer]) -> _Holders:
    """Who has which registration, by scope and id: a copied disk takes the one of its original along."""
    found: dict[tuple[str, int], list[str]] = {}
    for answer in answers:
        slots = {slot.name: slot for slot in answer.spec.github_runner.slots} if answer.spec else {}
        for each in answer.health.findings if answer.health and answer.spec else ():
            held = held_id(each) if each.id == "slot.registered" else None
            if held is not None and answer.spec:
                url = _scope(answer.spec, slots.get(each.subject)) or ""
                found.setdefault((url, held), []).append(f"slot {each.subject} of {answer.host}")
    return found


@dataclass(frozen=True)
class _Rows:
    """The rows of one host."""

    answer: HostAnswer
    github: GithubView
    indexes: Mapping[str, _Index]
    holders: _Holders
    time: datetime

    def rows(self) -> Iterator[FleetRow]:
        """A row for each slot of the spec and for each that is on the host besides; else one of the host."""
        spec = self.answer.spec
        slots: dict[str, Slot | None] = {slot.name: slot for slot in spec.github_runner.slots} if spec else {}
        for finding in self.answer.health.findings if self.answer.health else ():
            if finding.id == "slot.registered" and finding.subject != "host":
                slots.setdefault(finding.subject, None)
        if not slots or spec is None:
            yield self._bare(spec)
            return
        for name, slot in slots.items():
            yield self._slot(self._sight(name, slot, spec))

    def _bare(self, spec: HostSpec | None) -> FleetRow:
        """A host without slots."""
        known = self.answer.health is not None
        why = "has no slots" if known else self.answer.reason
        remedy = "" if known else self.answer.remedy
        able: Able = "no" if spec is not None and not spec.github_runner.slots else "unknown"
        return FleetRow(
            kind="host",
            host=self.answer.host,
            slot=None,
            runner_name=None,
            url=None,
            can_take_a_job=able,
            status="OK" if known else "UNKNOWN",
            why=why,
            remedy=remedy,
        )

    def _sight(self, name: str, slot: Slot | None, spec: HostSpec) -> SlotSight:
        url = _scope(spec, slot) or ""
        index = self.indexes.get(url)
        sight = SlotSight(
            name=name,
            spec=spec,
            slot=slot,
            findings=self.answer.health.findings if self.answer.health else None,
            time=self.time,
            asked=index is not None,
            failure=self.github.failures.get(url, ""),
        )
        if (own := agent_id(sight)) is not None:
            others = [who for who in self.holders.get((url, own), ()) if who != f"slot {name} of {spec.host}"]
            sight = replace(sight, copies=tuple(others))
        runner = spec.runner_name(slot) if slot else f"{spec.host}-{name}"
        return replace(sight, record=index.find(own, runner)) if index else sight

    def _slot(self, sight: SlotSight) -> FleetRow:
        causes = (*self._silence(sight), *slot_causes(sight))
        able = _able(sight, causes)
        shown = [cause for cause in causes if cause.blocks or cause.blocks is None] or list(causes)
        wanted = sight.spec.runner_name(sight.slot) if sight.slot else f"{sight.spec.host}-{sight.name}"
        return FleetRow(
            kind="slot",
            host=sight.spec.host,
            slot=sight.name,
            runner_name=sight.record.name if sight.record else wanted,
            url=_scope(sight.spec, sight.slot),
            can_take_a_job=able,
            status=max((cause.status for cause in causes), key=SEVERITY.__getitem__, default="OK"),
            why=shown[0].summary if shown else "",
            remedy=next((cause.remedy for cause in shown if cause.remedy), ""),
            causes=causes,
            agent_id=agent_id(sight),
            github=sight.record,
        )

    def _silence(self, sight: SlotSight) -> Iterator[Cause]:
        """The host gave no verdict: that comes first, and what GitHub says stands beside it."""
        if self.answer.health is not None:
            return
        reason, record = self.answer.reason, sight.record
        if record is not None:  # said here, for there is no verdict to compare it with
            reason += f"; GitHub shows it {'online' if record.online else 'offline'}"
        yield Cause(id="host", status="UNKNOWN", summary=reason, remedy=self.answer.remedy, blocks=None)


def _able(sight: SlotSight, causes: Sequence[Cause]) -> Able:
    if any(cause.blocks for cause in causes):
        return "no"
    if any(cause.blocks is None for cause in causes):
        return "unknown"
    return "busy" if is_busy(sight) else "yes"


def _scope(spec: HostSpec, slot: Slot | None) -> str | None:
    """The URL of a slot's scope, by which `GithubView` is asked; the host's for one that is in no spec."""
    url = spec.slot_url(slot) if slot else spec.github_runner.url
    return parse_scope(url).url if url else None


def _unowned(
    answers: Sequence[HostAnswer], github: GithubView, rows: Sequence[FleetRow]
) -> Iterator[FleetRow]:
    """Records that are named like a runner of an inventory's host, and are no slot of it."""
    own = {name.casefold() for answer in answers for name in _names(answer)}
    shown = {(row.url, row.github.id) for row in rows if row.github}
    hosts = {answer.host.casefold(): answer.host for answer in answers if answer.spec}
    for url, records in sorted(github.records.items()):
        for record in sorted(records, key=lambda record: record.name):
            if record.name.casefold() in own or (url, record.id) in shown:
                continue
            host = _like(record.name, hosts)
            if host is not None:
                yield _left_over(record, host, url)


def _names(answer: HostAnswer) -> list[str]:
    if answer.spec is None:
        return []
    found = answer.health.findings if answer.health else ()
    here = {each.subject for each in found if each.id == "slot.registered"}  # not in the spec: a row already
    wanted = [answer.spec.runner_name(slot) for slot in answer.spec.github_runner.slots]
    return [*wanted, *(f"{answer.host}-{name}" for name in here)]


def _like(name: str, hosts: Mapping[str, str]) -> str | None:
    """The host whose name a record's begins with, the longest of several."""
    lowered = name[:LONGEST_NAME].casefold()
    at = lowered.rfind("-")
    while at > 0:
        if lowered[:at] in hosts:
            return hosts[lowered[:at]]
        at = lowered.rfind("-", 0, at)
    return None


def _left_over(record: FleetRecord, host: str, url: str) -> FleetRow:
    why = "GitHub has this record, and no slot of the inventory has its name"
    able: Able = "busy" if record.busy else "unknown" if record.online else "no"
    remedy = (
        _PRUNE if not record.online else f"find out where it runs (once it was on {host}), and stop it there"
    )
    return FleetRow(
        kind="record",
        host=host,
        slot=None,
        runner_name=record.name,
        url=url,
        can_take_a_job=able,
        status="WARNING",
        why=f"{why}; it is {'online' if record.online else 'offline'}",
        remedy=remedy,
        github=record,
    )
