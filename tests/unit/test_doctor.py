"""What `doctor` judges, by readings alone: both directions of each check."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from runnerctl.core.doctor import CHECKS, examine
from runnerctl.core.doctor_credential import SIGNATURE
from runnerctl.core.doctor_readings import (
    CredentialReading,
    GroupReading,
    LimitReading,
    PolicyReading,
    ReachReading,
    RunnerReading,
    ScopeReading,
    Site,
    VersionReading,
)
from runnerctl.core.findings import Finding
from runnerctl.core.labels import DRAINED
from runnerctl.core.reading import Unavailable
from runnerctl.core.scope import parse_scope
from runnerctl.core.sections import GithubRunner, HostSpec, Slot

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)
ORG, REPOSITORY = "https://github.com/acme", "https://github.com/acme/widgets"
DENIED = Unavailable("the token may not", kind="denied", remedy="grant it")
CLASSIC = CredentialReading(kind="classic", source="GH_TOKEN", scopes=("admin:org",))
DEFAULT = GroupReading(id=1, name="Default", visibility="all", default=True)
RUNNER = RunnerReading(name="a-main", online=True, group_id=1, version="2.337.0")
VERSION = VersionReading(version="2.337.0", asked=True)
HEALTHY = ScopeReading(
    parse_scope(ORG),
    CLASSIC,
    skew_seconds=1.0,
    limits={"core": LimitReading(limit=5000, remaining=4000, resets_at=NOW)},
    runners=(RUNNER,),
    groups=(DEFAULT,),
    policy=PolicyReading(owner="acme", enabled="all"),
    reach=ReachReading(approval=""),
    versions=(VERSION,),
)
PRIVATE = replace(
    HEALTHY,
    scope=parse_scope(REPOSITORY),
    credential=msgspec.structs.replace(CLASSIC, scopes=("repo",)),
    groups=None,
    policy=None,
    reach=ReachReading(public=False, approval=""),
)


def judged(reading: ScopeReading, *specs: HostSpec) -> dict[str, Finding]:
    """The findings that are not OK, by id; each says what to do."""
    verdict = examine([reading], Site(NOW, specs), duration_seconds=0.0)
    bad = [finding for finding in verdict.findings if finding.status != "OK"]
    assert all(finding.remedy for finding in bad)
    assert len({finding.id for finding in bad}) == len(bad)
    return {finding.id: finding for finding in bad}


def statuses(reading: ScopeReading, *specs: HostSpec) -> dict[str, str]:
    """Finding -> status, of those that are not OK."""
    return {name: finding.status for name, finding in judged(reading, *specs).items()}


def spec(host: str, **runner: Any) -> HostSpec:
    """A host with one slot in the organisation."""
    return HostSpec(host=host, github_runner=GithubRunner(url=ORG, **runner))


def credential(**fields: Any) -> ScopeReading:
    """A healthy organisation with another credential."""
    return replace(HEALTHY, credential=msgspec.structs.replace(CLASSIC, **fields))


def runner(name: str = "a-main", **fields: Any) -> RunnerReading:
    """The runner of host a, or another, with something different."""
    return msgspec.structs.replace(RUNNER, name=name, **fields)


def test_what_is_healthy_is_ok() -> None:
    """An organisation and a private repository; each check has something to say of one of them."""
    assert statuses(HEALTHY) == statuses(PRIVATE) == statuses(HEALTHY, spec("a")) == {}
    verdict = examine([HEALTHY, PRIVATE], Site(NOW, (spec("a"),)), duration_seconds=0.0)
    dated = examine([credential(expires_at=NOW + 90 * DAY)], Site(NOW), duration_seconds=0.0)
    said = {finding.id for finding in (*verdict.findings, *dated.findings)}
    assert said == {check.id for check in CHECKS}
    assert verdict.status == "OK" and verdict.scopes == (ORG, REPOSITORY)


@pytest.mark.parametrize(
    ("reading", "found"),
    [
        (credential(scopes=("repo",)), {"github.permissions": "CRITICAL", "github.excess": "WARNING"}),
        (credential(scopes=("repo",), needs=frozenset({"repo"})), {"github.permissions": "CRITICAL"}),
        (credential(scopes=("admin:org", "repo"), needs=frozenset({"repo"})), {}),
        (credential(scopes=("admin:org", "read:packages", "user:email")), {}),
        (credential(scopes=("admin:org", "delete_repo")), {"github.excess": "WARNING"}),
        (credential(kind="other", scopes=None), {"github.permissions": "UNKNOWN"}),
        (credential(kind="other", scopes=None, proved=True), {}),
        (credential(proved=False, refusal="no", remedy="ask"), {"github.permissions": "CRITICAL"}),
        (credential(refused="cannot list", remedy="ask"), {"github.permissions": "CRITICAL"}),
        (credential(expires_at=NOW + 13 * DAY), {"github.credential_expiry": "WARNING"}),
        (credential(expires_at=NOW + 15 * DAY), {}),
        (credential(sso="required; url=x"), {"github.credential": "CRITICAL"}),
        (credential(sso="partial-results; organizations=1"), {"github.credential": "WARNING"}),
        (replace(HEALTHY, credential=DENIED), {"github.credential": "CRITICAL"}),
        (replace(HEALTHY, credential=Unavailable("no answer")), {"github.credential": "UNKNOWN"}),
        (
            replace(HEALTHY, credential=Unavailable("ahead", call=SIGNATURE), skew_seconds=61.0),
            {"github.clock": "CRITICAL"},
        ),
        (replace(HEALTHY, skew_seconds=-31.0), {"github.clock": "WARNING"}),
        (replace(HEALTHY, skew_seconds=301.0), {"github.clock": "CRITICAL"}),
        (replace(HEALTHY, limits=DENIED), {"github.rate_limit": "UNKNOWN"}),
        (replace(HEALTHY, limits={}), {}),
    ],
)
def test_credentials(reading: ScopeReading, found: dict[str, str]) -> None:
    """What it lacks is named and no more is found; what cannot be proven is UNKNOWN."""
    assert statuses(reading) == found


def app(minted: dict[str, str], *, granted: dict[str, str] | None = None, scope: str = ORG) -> ScopeReading:
    """A GitHub App, by what its installation was granted and its token got."""
    kind = CredentialReading(kind="app", source="RUNNERCTL_APP_ID", granted=granted or minted, minted=minted)
    return replace(HEALTHY if scope == ORG else PRIVATE, credential=kind)


def test_apps() -> None:
    """The permission to write is what counts; settings it reads are no excess, and contents are."""
    key = "organization_self_hosted_runners"
    write = {key: "write"}
    assert statuses(app(write)) == statuses(app({"administration": "write"}, scope=REPOSITORY)) == {}
    assert statuses(app({key: "read"})) == {"github.permissions": "CRITICAL"}
    useful = {key: "write", "metadata": "read", "organization_administration": "read"}
    assert statuses(app(write, granted=useful)) == {}
    assert statuses(app(write, granted={**useful, "contents": "read"})) == {"github.excess": "WARNING"}
    found = judged(app(write, granted={**useful, "organization_administration": "write"}))
    assert "organization_administration: write" in found["github.excess"].summary


def group(**fields: Any) -> ScopeReading:
    """The organisation with a second group; its approval policy is the strictest."""
    made = GroupReading(**{"id": 2, "name": "open", "visibility": "selected", **fields})
    reach = ReachReading(approval="all_external_contributors")
    return replace(HEALTHY, groups=(DEFAULT, made), reach=reach, runners=(runner(group_id=2),))


def repository(approval: str = "all_external_contributors", **fields: Any) -> ScopeReading:
    """A public repository."""
    return replace(PRIVATE, reach=ReachReading(public=True, approval=approval), **fields)


@pytest.mark.parametrize(
    ("reading", "found"),
    [
        (group(public=True), {"github.public": "CRITICAL"}),
        (group(public=True, workflows=("w.yml",)), {"github.public": "WARNING"}),
        (
            group(public=True, inherited=True, visibility="all"),
            {"github.public": "CRITICAL", "github.groups": "WARNING"},
        ),
        (
            replace(group(public=True), runners=(runner(group_id=2, ephemeral=True),)),
            {"github.public": "WARNING"},
        ),
        (replace(group(public=True), runners=(RUNNER,)), {"github.public": "WARNING"}),
        (group(), {}),
        (group(visibility="all"), {"github.groups": "WARNING"}),
        (group(visibility="all", workflows=("w.yml",)), {}),
        (replace(HEALTHY, groups=DENIED), {"github.public": "UNKNOWN"}),
        (repository(), {"github.public": "CRITICAL"}),
        (repository(runners=(runner(ephemeral=True),)), {"github.public": "WARNING"}),
        (repository(runners=()), {"github.public": "WARNING"}),
        (
            repository("first_time_contributors"),
            {"github.public": "CRITICAL", "github.fork_approval": "WARNING"},
        ),
        (
            replace(PRIVATE, reach=ReachReading(public=True, approval=DENIED)),
            {"github.public": "CRITICAL", "github.fork_approval": "UNKNOWN"},
        ),
        (replace(PRIVATE, reach=ReachReading(public=DENIED, approval=DENIED)), {"github.public": "UNKNOWN"}),
        (replace(HEALTHY, policy=PolicyReading(owner="acme", enabled="none")), {"github.policy": "CRITICAL"}),
        (replace(HEALTHY, policy=PolicyReading(owner="acme", enabled="selected")), {}),
        (replace(HEALTHY, policy=DENIED), {}),
        (
            replace(HEALTHY, policy=DENIED, runners=(runner(online=False),)),
            {"github.policy": "UNKNOWN", "github.runners": "CRITICAL"},
        ),
        (
            replace(PRIVATE, policy=PolicyReading(owner="acme", enabled="selected"), runners=()),
            {"github.policy": "UNKNOWN"},
        ),
    ],
)
def test_reach(reading: ScopeReading, found: dict[str, str]) -> None:
    """Who can reach the runners; runners that are online prove that they were let in."""
    assert statuses(reading) == found


def version(**fields: Any) -> ScopeReading:
    """The version of the organisation's runner."""
    return replace(HEALTHY, versions=(VersionReading(**{"version": "2.337.0", "asked": True, **fields}),))


@pytest.mark.parametrize(
    ("reading", "status"),
    [
        (version(), None),
        (version(ends=NOW + 15 * DAY), None),
        (version(ends=NOW + 14 * DAY), "WARNING"),
        (version(ends=NOW), "CRITICAL"),
        (version(ends=NOW + 60 * DAY, registration_ends=NOW - DAY), "WARNING"),
        (version(asked=False), "UNKNOWN"),
        (version(asked=False, newest=True), None),
        (version(asked=False, bound=NOW + 20 * DAY), None),
        (version(asked=False, bound=NOW + 3 * DAY), "WARNING"),
        (version(asked=False, bound=NOW - 30 * DAY), "WARNING"),
        (replace(HEALTHY, versions=(), runners=(runner(version=None),)), "UNKNOWN"),
        (replace(HEALTHY, versions=(), runners=()), None),
    ],
)
def test_versions(reading: ScopeReading, status: str | None) -> None:
    """GitHub's word counts; a bound of our own is never more than a warning, and nothing is never OK."""
    assert statuses(reading) == ({"github.expiry": status} if status else {})


@pytest.mark.parametrize(
    ("runners", "specs", "found"),
    [
        ((RUNNER,), [spec("a"), spec("b")], {"github.absent": "WARNING"}),
        ((RUNNER,), [spec("a"), spec("a")], {"github.names": "CRITICAL"}),
        ((RUNNER,), [spec("a", labels=("big",))], {"github.label_drift": "WARNING"}),
        ((runner(labels=frozenset({"big"})),), [spec("a", labels=("BIG",))], {}),
        ((runner(labels=frozenset({DRAINED})),), [spec("a", labels=("big",))], {}),
        ((RUNNER,), [spec("a", group="fleet")], {"github.group_drift": "WARNING"}),
        ((RUNNER, runner("a-old", online=False)), [spec("a")], {"github.ghosts": "WARNING"}),
        ((RUNNER, runner("a-old", online=False, busy=True)), [spec("a")], {}),
        ((RUNNER, runner("a-old-", online=False), runner("b-main", online=False)), [spec("a")], {}),
        (
            (RUNNER, runner("x-y-old", online=False)),
            [spec("a"), spec("x-y", slots=())],
            {"github.ghosts": "WARNING"},
        ),
        ((runner(online=False),), [spec("a")], {"github.runners": "CRITICAL"}),
        (
            tuple(runner(f"{host}-main", online=host == "a") for host in "abc"),
            [spec(host) for host in "abc"],
            {"github.runners": "WARNING", "github.held": "WARNING"},
        ),
        (
            tuple(runner(f"{host}-main", online=host != "a") for host in "abc"),
            [spec(host) for host in "abc"],
            {},
        ),
    ],
)
def test_fleets(runners: tuple[RunnerReading, ...], specs: list[HostSpec], found: dict[str, str]) -> None:
    """Records against the inventory; one runner may always be out of service."""
    assert statuses(replace(HEALTHY, runners=runners), *specs) == found


def test_a_slot_elsewhere_is_no_slot_here() -> None:
    """A slot of another scope neither lacks a record here nor claims one."""
    elsewhere = spec("a", slots=(Slot("main"), Slot("far", url=REPOSITORY)))
    assert statuses(HEALTHY, elsewhere) == {}


@pytest.mark.parametrize(
    ("reading", "found"),
    [
        (credential(unread_end="in a while"), "github.credential_expiry"),
        (replace(HEALTHY, groups=(msgspec.structs.replace(DEFAULT, public=None),)), "github.public"),
        (replace(HEALTHY, groups=(msgspec.structs.replace(DEFAULT, visibility=""),)), "github.groups"),
        (replace(HEALTHY, runners=(runner(group_id=None),)), "github.groups"),
        (replace(HEALTHY, policy=PolicyReading(owner="acme", enabled="some")), "github.policy"),
        (replace(HEALTHY, runners=(RUNNER, runner("b-main", version="2.300.0"))), "github.expiry"),
    ],
)
def test_what_github_does_not_tell_is_not_well(reading: ScopeReading, found: str) -> None:
    """A server that leaves something out, or says what nobody knows yet, earns no OK for it."""
    assert statuses(reading) == {found: "UNKNOWN"}


def test_what_cannot_be_compared_is_not_well() -> None:
    """A runner whose group is not told, and hosts whose variables have problems."""
    silent = replace(HEALTHY, runners=(runner(group_id=None),))
    assert statuses(silent, spec("a")) == {"github.group_drift": "UNKNOWN", "github.groups": "UNKNOWN"}
    verdict = examine([HEALTHY], Site(NOW, (spec("a"),), left_out=("b",)), duration_seconds=0.0)
    assert verdict.status == "UNKNOWN"


def test_a_judge_that_fails_hides_no_other() -> None:
    """Our own mistake is UNKNOWN, and the rest is judged."""
    wrong: dict[str, Any] = {"skew_seconds": "late"}
    broken = replace(HEALTHY, **wrong)
    assert statuses(broken) == {"github.clock": "UNKNOWN"}
