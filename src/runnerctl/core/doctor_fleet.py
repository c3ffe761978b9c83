"""What GitHub's records tell of a fleet: versions, names, drift, ghosts. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from runnerctl.core.breaker import allowance
from runnerctl.core.doctor_readings import RunnerReading, ScopeReading, Site, VersionReading
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.labels import READ_ONLY, normalise
from runnerctl.core.reading import Unavailable
from runnerctl.core.sections import SLOT_NAME

__all__ = ["CHECKS"]

LONGEST_NAME = 300  # far above GitHub's limit: what a server gives beyond it is not searched for hosts
MOST_NAMES = 5  # in a summary; all of them stand in the data


def _judge_online(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if reading.runners is None:
        return
    if isinstance(reading.runners, Unavailable):
        yield unknown(f"the runners could not be listed: {reading.runners.reason}", reading.runners.remedy)
        return
    ours = site.ours(reading)
    off = [runner.name for runner in ours if not runner.online]
    data = {"online": len(ours) - len(off), "offline": sorted(off)}
    text = f"{len(ours) - len(off)} of {_count(len(ours), 'runner')} online"
    if not ours:
        yield ok("no runner is registered yet", **data)
    elif len(off) == len(ours):
        yield critical(text, **data)
    elif 2 * len(off) > len(ours):
        yield warning(f"{text}; offline: {_some(off)}", **data)
    else:
        yield ok(text, **data)


def _judge_absent(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if not site.specs or not isinstance(reading.runners, tuple):
        return
    have = {runner.name.casefold() for runner in reading.runners}
    claims = site.claims(reading.scope)
    absent = [spec.runner_name(slot) for name, (spec, slot) in claims.items() if name not in have]
    if absent:
        yield warning(
            f"{_count(len(absent), 'slot')} without a record: {_some(absent)}", absent=sorted(absent)
        )
    else:
        yield ok(f"GitHub has a record of each of {_count(len(claims), 'slot')}")


def _judge_version(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if reading.versions is None:
        return
    counts = Counter(runner.version for runner in site.ours(reading))
    for found in reading.versions:
        if counts[found.version]:
            yield _judge_one_version(found, counts[found.version], site)
    if counts[None] and len(counts) == 1:
        yield unknown(f"GitHub does not tell which version {_count(counts[None], 'runner')} run")
    asked = {each.version for each in reading.versions}
    if unasked := sorted(name for name in counts if name and name not in asked):
        yield unknown(f"too many versions to ask for each; not asked: {_some(unasked)}", _FEWER)


_FEWER = "`runnerctl upgrade -i INVENTORY` brings the fleet to one version"


def _judge_one_version(found: VersionReading, runners: int, site: Site) -> Verdict:
    who = f"runner {found.version} ({_count(runners, 'runner')})"
    end = found.ends if found.asked else found.bound
    left = None if end is None else (end - site.time) // timedelta(days=1)
    soon = left is not None and left <= site.limits.health_version_expiry_warning_days
    data = {
        "version": found.version,
        "runners": runners,
        "ends_at": f"{end:%Y-%m-%dT%H:%M:%SZ}" if end else None,
        "days_left": left,
        "source": "github" if found.asked else "releases" if end or found.newest else None,
    }
    if found.asked:
        return _told(found, who, site, soon=soon, data=data)
    because = f"GitHub does not tell its end ({found.reason})" if found.reason else "GitHub tells no end"
    if end is None:
        text = f"{who} is the newest that is offered" if found.newest else f"the end of {who} is not known"
        return (ok if found.newest else unknown)(f"{text}; {because}", **data)
    text = f"{who} may get no jobs from {end:%Y-%m-%d}, 30 days after the next release; {because}"
    return (warning if soon else ok)(text, **data)


def _told(found: VersionReading, who: str, site: Site, *, soon: bool, data: dict[str, object]) -> Verdict:
    if found.ends is None:
        return ok(f"{who} has no end that is announced", **data)
    if found.ends <= site.time:
        return critical(f"{who} gets no jobs since {found.ends:%Y-%m-%d}", **data)
    text = f"{who} gets no jobs from {found.ends:%Y-%m-%d}, in {data['days_left']} days"
    if soon:
        return warning(text, **data)
    if found.registration_ends is not None and found.registration_ends <= site.time:
        return warning(f"{who} cannot be registered again since {_day(found.registration_ends)}", **data)
    return ok(f"{who} is accepted until {found.ends:%Y-%m-%d}", **data)


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"


_VALIDATE = "`runnerctl spec validate -i INVENTORY` names the problems"


def _judge_names(site: Site) -> Iterable[Verdict]:
    """Two hosts with one name push each other out of GitHub: the later one takes the record."""
    if site.left_out:
        yield unknown(f"not judged, for their variables have problems: {_some(site.left_out)}", _VALIDATE)
    if not site.specs:
        return
    claims: dict[tuple[str, str], list[str]] = {}
    for spec in site.specs:
        for slot in spec.github_runner.slots:
            key = (spec.slot_url(slot).rstrip("/").lower(), spec.runner_name(slot).casefold())
            claims.setdefault(key, []).append(spec.host)
    twice = {name: hosts for (_, name), hosts in sorted(claims.items()) if len(hosts) > 1}
    for name, hosts in twice.items():
        yield critical(f"{' and '.join(sorted(hosts))} both claim the runner name {name}", name=name)
    if not twice:
        yield ok(f"{_count(len(claims), 'runner name')}, each claimed by one host")


def _judge_held(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if not site.specs or not site.whole or not isinstance(reading.runners, tuple):
        return
    claims = site.claims(reading.scope)
    there = {runner.name.casefold(): runner for runner in reading.runners}
    out = [name for name in claims if name not in there or not there[name].online or there[name].drained]
    percent = min((spec.runnerctl.fleet_max_held_percent for spec, _ in claims.values()), default=100)
    limit = allowance(len(claims), percent)
    text = f"{len(out)} of {_count(len(claims), 'runner')} out of service; {limit} may be"
    data = {"out": sorted(out), "limit": limit, "percent": percent}
    yield (warning if len(out) > limit else ok)(text, **data)


def _judge_ghosts(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    """Only records that bear the name of a host of ours: what others forgot is theirs to remove."""
    if not site.specs or not isinstance(reading.runners, tuple):
        return
    claims = site.claims(reading.scope)
    hosts = {spec.host.casefold() for spec in site.specs}
    ghosts = [
        runner.name
        for runner in reading.runners
        if not runner.online
        and not runner.busy
        and runner.name.casefold() not in claims
        and _is_of(runner.name.casefold(), hosts)
    ]
    if ghosts:
        text = f"{_count(len(ghosts), 'offline record')} of our hosts for no slot: {_some(ghosts)}"
        yield warning(text, ghosts=sorted(ghosts))
    else:
        yield ok("no record is left over from a slot that is gone")


def _is_of(name: str, hosts: set[str]) -> bool:
    """Whether the name can be read as ``<host>-<slot>``; a host's own name may hold hyphens."""
    cuts = [at for at, char in enumerate(name[:LONGEST_NAME]) if char == "-"]
    return any(name[:at] in hosts and SLOT_NAME.fullmatch(name[at + 1 :]) for at in cuts)


def _judge_labels(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if not site.specs or not isinstance(reading.runners, tuple):
        return
    claims = site.claims(reading.scope)
    drifted = []
    for runner in site.ours(reading):
        spec, slot = claims[runner.name.casefold()]
        want = normalise(spec.expected_labels(slot, runner.labels)) - READ_ONLY
        if not runner.drained and runner.labels - READ_ONLY != want:
            drifted.append(runner.name)
    if drifted:
        yield warning(f"other labels than the inventory's: {_some(drifted)}", runners=sorted(drifted))
    else:
        yield ok("labels as the inventory says")


def _judge_group_drift(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if not site.specs or not isinstance(reading.runners, tuple) or not isinstance(reading.groups, tuple):
        return
    names = {group.id: group.name.casefold() for group in reading.groups}
    default = next((group.name.casefold() for group in reading.groups if group.default), None)
    claims = site.claims(reading.scope)
    drifted = []
    if unknown_ones := [each.name for each in site.ours(reading) if each.group_id not in names]:
        yield unknown(f"GitHub does not tell the group of {_some(unknown_ones)}", "ask again in a minute")
        return
    for runner in site.ours(reading):
        spec, slot = claims[runner.name.casefold()]
        want = (spec.slot_group(slot) or default or "").casefold()
        have = names[runner.group_id or 0]
        if have != want and not _parked(runner, have, spec.github_runner.drain_group):
            drifted.append(runner.name)
    if drifted:
        yield warning(f"in another group than the inventory's: {_some(drifted)}", runners=sorted(drifted))
    else:
        yield ok("groups as the inventory says")


def _parked(runner: RunnerReading, group: str, drain_group: str | None) -> bool:
    return runner.drained and drain_group is not None and group == drain_group.casefold()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    shown = sorted(names)[:MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


_PROVISION = "run the provision playbook for these hosts again"
CHECKS: tuple[Check, ...] = (
    Check(
        id="github.names",
        title="Each runner name is claimed by one host",
        docs=(
            "Two hosts of an inventory that want one name in one scope take GitHub's record from each other, "
            "and one of them is always offline. Only with -i."
        ),
        remedy="rename one of the slots, or one of the hosts in the inventory",
        judge=_judge_names,
    ),
    Check(
        id="github.runners",
        title="Most runners are online",
        docs=(
            "More of the runners offline than online is a WARNING, all of them CRITICAL. With -i the "
            "inventory's runners count, else all of the scope."
        ),
        remedy="`runnerctl fleet -i INVENTORY` tells why each one is offline",
        judge=_judge_online,
        over="scopes",
    ),
    Check(
        id="github.absent",
        title="Each slot has a record",
        docs="A slot of the inventory without a record at GitHub gets no job. Only with -i.",
        remedy=_PROVISION,
        judge=_judge_absent,
        over="scopes",
    ),
    Check(
        id="github.expiry",
        title="No version is about to end",
        docs=(
            "Asks GitHub once for each version that the runners run, with -i the inventory's, when it ends. "
            "Where GitHub does not tell, thirty days after the next release count, and the newest that "
            "is offered is OK. A version of which nothing is known is UNKNOWN. Limit: "
            "runnerctl_health_version_expiry_warning_days."
        ),
        remedy="`runnerctl upgrade`, or provision again with github_runner_version raised where it is pinned",
        judge=_judge_version,
        over="scopes",
    ),
    Check(
        id="github.held",
        title="Enough of the fleet is in service",
        docs=(
            "Runners that are offline, absent or drained, against runnerctl_fleet_max_held_percent, above "
            "which drains and upgrades are refused. Only with -i and without --limit."
        ),
        remedy="`runnerctl list -i INVENTORY --status drained`, then resume what can serve again",
        judge=_judge_held,
        over="scopes",
    ),
    Check(
        id="github.ghosts",
        title="No record is left over",
        docs=(
            "Offline records that bear the name of a host of the inventory and of none of its slots. What "
            "they cost is a longer list, and a name. Only with -i."
        ),
        remedy="`runnerctl prune -i INVENTORY` shows what may be removed",
        judge=_judge_ghosts,
        over="scopes",
    ),
    Check(
        id="github.label_drift",
        title="The labels are the inventory's",
        docs=(
            "Compares custom labels with the inventory's, without case. A drained runner has another label "
            "on purpose. Only with -i."
        ),
        remedy="`runnerctl labels sync -i INVENTORY`, or provision again",
        judge=_judge_labels,
        over="scopes",
    ),
    Check(
        id="github.group_drift",
        title="The groups are the inventory's",
        docs="A slot without a group belongs into the default one. Only with -i.",
        remedy=_PROVISION,
        judge=_judge_group_drift,
        over="scopes",
    ),
)
