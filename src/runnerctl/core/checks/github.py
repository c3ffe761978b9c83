"""GitHub's view of each slot; only where a credential is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from runnerctl.core.checks.expect import limits, spec_slot
from runnerctl.core.checks.slot_log import newest, stamp
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.labels import DRAINED, READ_ONLY, normalise
from runnerctl.core.snapshot import GithubRecord, LogLine, Registration, SlotReading, Snapshot, Unit
from runnerctl.core.spec import HostSpec

__all__ = ["GITHUB_GROUP", "GITHUB_LABELS", "GITHUB_ONLINE", "GITHUB_RECORD", "GITHUB_VERSION"]

_PROVISION = "run the provision playbook for this host again"
_AGAIN = "it registers the runner again"
_UNIT = "see slot.unit"


def _asked(snapshot: Snapshot) -> bool:
    """Whether there was a credential, and GitHub was asked."""
    slots = snapshot.slots
    return isinstance(slots, tuple) and any(slot.github is not None for slot in slots)


def _judge_record(
    slot: SlotReading,
    record: GithubRecord | None,
    registration: Registration | None,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    del spec
    if record is None:
        return
    data = {"id": record.id, "name": record.name}
    if slot.ephemeral:
        shown = f"record {record.id}, {record.name}, for one job" if record.found else "between two records"
        yield ok(shown, **data)
    elif not record.found:
        summary = "its record was deleted on GitHub, by hand or after 14 days offline"
        yield critical(f"GitHub has no record of this runner: {summary}", f"{_PROVISION}: {_AGAIN}", **data)
    elif registration is None:
        remedy = (
            "another host may use this name; if it is this host's own, set github_runner_replace: offline"
        )
        yield warning(
            f"GitHub has a record named {record.name}, and this host no registration", remedy, **data
        )
    elif record.id != registration.agent_id:
        remedy = (
            "find the other host by the runner's name on GitHub; rename one of the two, provision both again"
        )
        summary = f"the record has id {record.id}, this host's registration {registration.agent_id}"
        yield critical(f"two hosts with one name, {record.name}: {summary}", remedy, **data)
    else:
        yield ok(f"record {record.id}, {record.name}", **data)


def _judge_online(
    slot: SlotReading,
    record: GithubRecord | None,
    unit: Unit | None,
    log: tuple[LogLine, ...] | None,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    del spec
    if record is None or not record.found:
        return
    data = {"status": record.status, "busy": record.busy}
    if record.status == "online" and record.busy and slot.runs_job is False:
        summary = (
            "GitHub holds it for busy, and no job runs here: it took a job and hangs, or a job just ended"
        )
        remedy = "ask again in a minute; if it stays so, restart the unit"
        yield warning(summary, remedy, **data)
    elif record.status == "online":
        yield ok("online and busy" if record.busy else "online and idle", **data)
    elif isinstance(slot.hold, str):
        yield ok("offline, as it is held", **data)
    elif unit and unit.active_state != "active":
        yield warning(f"GitHub shows it {record.status}, as its unit is {unit.active_state}", _UNIT, **data)
    else:
        yield critical(*_offline(record, log or ()), **data)


def _offline(record: GithubRecord, log: tuple[LogLine, ...]) -> tuple[str, str]:
    """Why a listener that runs is offline, as far as its log tells, and what to do."""
    line, sign = newest(log)
    shown = f"GitHub shows it {record.status} while its listener runs"
    if line and sign and sign.wrong:
        return f"{shown}: since {stamp(line)} it {_spoken(sign.wrong)}", sign.remedy
    since = f"; its last line is of {stamp(line)}" if line else ""
    return f"{shown}: it hangs{since}", ""


def _spoken(wrong: str) -> str:
    """A complaint behind 'it'."""
    return wrong if wrong.split()[0] in ("cannot", "stopped", "may") else f"says that {wrong}"


def _cut_from_routing(slot: SlotReading, what: str, data: dict[str, object]) -> Verdict:
    """Out of routing by a drain: as wished while the slot is held, else a drain or a resume was cut short."""
    if slot.hold is None:
        remedy = f"`runnerctl resume {slot.name}`, or {_PROVISION}: both put it back"
        return warning(f"is out of routing ({what}), and nothing holds it: it gets no jobs", remedy, **data)
    return ok(f"out of routing ({what}), as it is held", **data)


def _judge_labels(
    slot: SlotReading, record: GithubRecord | None, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    wanted_slot = spec_slot(spec, slot.name)
    if record is None or not record.found or spec is None or wanted_slot is None:
        return
    have = normalise(record.labels) - READ_ONLY
    want = normalise(spec.expected_labels(wanted_slot, have)) - READ_ONLY
    data: dict[str, object] = {"labels": sorted(have), "missing": sorted(want - have)}
    data |= {"extra": sorted(have - want)}
    if have == want:
        yield ok(f"labels as the spec says: {', '.join(sorted(have)) or 'none of its own'}", **data)
        return
    if have == {DRAINED}:
        yield _cut_from_routing(slot, f"label {DRAINED}", data)
        return
    parts = [
        f"{word} {', '.join(sorted(labels))}"
        for word, labels in (("lacks", want - have), ("has besides", have - want))
        if labels
    ]
    yield warning(f"wrong labels: {'; '.join(parts)}", **data)


def _judge_group(
    slot: SlotReading, record: GithubRecord | None, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    wanted_slot = spec_slot(spec, slot.name)
    if record is None or not record.found or spec is None or wanted_slot is None or record.group is None:
        return
    wanted, drains = spec.slot_group(wanted_slot), spec.github_runner.drain_group
    have = record.group.casefold()  # as GitHub compares
    data: dict[str, object] = {"group": record.group, "wanted": wanted}
    right = have == wanted.casefold() if wanted is not None else record.group_is_default is not False
    if not right and drains is not None and have == drains.casefold():
        yield _cut_from_routing(slot, f"group {record.group}", data)
    elif right:
        yield ok(f"in group {record.group}", **data)
    elif wanted is None:
        yield warning(f"is in the wrong group: {record.group}, and the spec names none", **data)
    else:
        yield warning(f"is in the wrong group: {record.group}, and should be in {wanted}", **data)


def _judge_version(
    slot: SlotReading, record: GithubRecord | None, time: datetime, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    if record is None or not record.found:
        return
    version = record.version or slot.running_version
    if version is None:
        return
    end = record.runtime_deprecates_at
    data = {"version": version, "runtime_deprecates_at": _stamp(end)}
    warn = timedelta(days=limits(spec).health_version_expiry_warning_days)
    if not record.deprecations_known:
        yield ok(f"runner {version}; this GitHub gives no date for its end", **data)
    elif end is None:
        yield ok(f"runner {version}: no end is announced", **data)
    elif end <= time:
        yield critical(f"runner {version} gets no jobs since {end:%Y-%m-%d}", **data)
    elif end - time <= warn:
        left = (end - time).days
        yield warning(f"runner {version} gets no jobs from {end:%Y-%m-%d}, in {left} days", **data)
    else:
        yield ok(f"runner {version}, accepted until {end:%Y-%m-%d}", **data)


def _stamp(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time else None


GITHUB_RECORD = Check(
    id="github.record",
    title="GitHub knows the runner",
    docs=(
        "Looks up the record by the id in .runner, and by name where there is none. A record with the "
        "same name and another id belongs to somebody else."
    ),
    remedy=_PROVISION,
    judge=_judge_record,
    needs=(".github", ".registration"),
    over="slots",
    when=_asked,
)
GITHUB_ONLINE = Check(
    id="github.online",
    title="GitHub sees the runner online",
    docs=(
        "Jobs are given to online runners only. A listener may live, hold its connection and be offline for "
        "hours: only GitHub knows. Its view may lag behind the unit by a few minutes. A runner that GitHub "
        "holds for busy without a worker here took a job and hangs."
    ),
    remedy="look at slot.unit and slot.connection; if both are fine, wait five minutes and restart the unit",
    judge=_judge_online,
    needs=(".github", ".unit?", ".log?"),
    over="slots",
    when=_asked,
)
GITHUB_LABELS = Check(
    id="github.labels",
    title="The labels are the spec's",
    docs=(
        "Compares the record's custom labels with the spec's, without case and without those that "
        "GitHub adds itself. A job whose labels no runner has waits for a day and then fails. A drained slot "
        "has one label only, runnerctl-drained: right while it is held, a drain cut short when it is not."
    ),
    remedy=_PROVISION,
    judge=_judge_labels,
    needs=(".github",),
    over="slots",
    when=_asked,
)
GITHUB_GROUP = Check(
    id="github.group",
    title="The runner group is the spec's",
    docs="The group decides which repositories may use the runner. Repositories have no groups.",
    remedy=_PROVISION,
    judge=_judge_group,
    needs=(".github",),
    over="slots",
    when=_asked,
)
GITHUB_VERSION = Check(
    id="github.version",
    title="GitHub still accepts the runner's version",
    docs=(
        "Asks GitHub until when it gives jobs to the runner's version; the age of a release tells "
        "nothing. Limit: runnerctl_health_version_expiry_warning_days."
    ),
    remedy=(
        "run the provision playbook for this host again, with github_runner_version raised where it is pinned"
    ),
    judge=_judge_version,
    needs=(".github", "time"),
    over="slots",
    when=_asked,
)
