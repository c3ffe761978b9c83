"""Read what ``runnerctl doctor`` judges: one scope at GitHub after the other. It changes nothing there.

With ``prove`` it mints one registration token for each scope, which registers nothing and ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from runnerctl.cli.context import Context
from runnerctl.cli.remote import HOW_TO_AUTHENTICATE, api_url, credential
from runnerctl.core.doctor_credential import LEVELS, NEEDED_SCOPES, SIGNATURE, missing_permissions
from runnerctl.core.doctor_readings import (
    CredentialReading,
    GroupReading,
    LimitReading,
    PolicyReading,
    ReachReading,
    RunnerReading,
    ScopeReading,
    VersionReading,
)
from runnerctl.core.reading import Unavailable
from runnerctl.core.scope import Scope, parse_scope
from runnerctl.errors import AccessError, DataError, RunnerctlError
from runnerctl.github.auth import Credential, CredentialInfo
from runnerctl.github.client import GitHubClient
from runnerctl.github.connect import Connector
from runnerctl.github.models import Runner
from runnerctl.github.registry import RELEASES, Registry

if TYPE_CHECKING:
    from runnerctl.github.app import AppCredential

__all__ = ["Examiner"]

APP_SKEW_SECONDS = 60.0  # a JWT is dated back by as much
MOST_VERSIONS = 30
BOUND = timedelta(days=30)  # after the next release; GitHub's rule for runners that do not update themselves
_READS_SETTINGS = "organization_administration"

T = TypeVar("T")


@dataclass(frozen=True)
class Examiner:
    """Reads scopes with the credential of the environment. ``needs``: classic scopes that they need."""

    context: Context
    scopes: Sequence[tuple[Scope, str | None]]
    prove: bool = False
    max_wait: str | None = None

    def read(self, scope: Scope, api: str | None) -> ScopeReading:
        """Everything of one scope. Raises AccessError without a credential, ConfigError for a broken one."""
        base = api_url(self.context, scope, api)
        connect = Connector(self.context.env, base, max_wait=self.max_wait, sleep=self.context.sleep)
        found = credential(self.context, scope, api=base, connect=connect)
        if found is None:
            raise AccessError("there is no GitHub credential", where=scope.name, remedy=HOW_TO_AUTHENTICATE)
        skew = self._skew(connect(None))
        if isinstance(skew, Unavailable):  # no answer at all: nor will anything else get one
            return ScopeReading(scope, skew)
        if _app(found) and skew is not None and skew > APP_SKEW_SECONDS:
            reason = "an App cannot sign in while this clock is wrong"
            return ScopeReading(scope, Unavailable(reason, call=SIGNATURE), skew)
        needs = frozenset(NEEDED_SCOPES[each.kind] for each, _ in self.scopes)
        desk = _Desk(scope, found, connect, self.prove, needs)
        return replace(desk.read(), skew_seconds=skew)

    def _skew(self, client: GitHubClient) -> float | Unavailable | None:
        """This clock minus GitHub's, by the Date of any answer: also of a refusal. None: it gave no time."""
        found = _try(lambda: client.get("/rate_limit", what="ask for the time", accept=(401, 403, 404)))
        date = client.last_date
        if isinstance(found, Unavailable) and not date:
            return found
        try:
            return self.context.clock() - parsedate_to_datetime(date or "").timestamp()
        except (TypeError, ValueError, OverflowError):
            return None


@dataclass(frozen=True)
class _Desk:
    """One scope and one credential."""

    scope: Scope
    found: Credential
    connect: Connector
    prove: bool
    needs: frozenset[str]

    def read(self) -> ScopeReading:
        registry = Registry(self.connect(self.found), self.scope)
        plain = self._credential(self.found.describe())
        if plain.kind == "job":
            return ScopeReading(self.scope, plain)
        info = _try(lambda: self.found.describe(registry.client))
        if isinstance(info, Unavailable):
            return ScopeReading(self.scope, info)
        app = _app(self.found)
        granted = _try(app.granted) if app else None
        reading = self._credential(info, granted if isinstance(granted, dict) else None)
        sso = _try(lambda: self._sso(registry.client))
        runners = _try(registry.runners)
        reading = msgspec.structs.replace(reading, sso=sso if isinstance(sso, str) else "")
        limits = _try(lambda: _limits(registry))
        if isinstance(runners, Unavailable) and runners.kind == "denied":
            reading = msgspec.structs.replace(reading, refused=runners.reason, remedy=runners.remedy)
            return ScopeReading(self.scope, reading, limits=limits)
        if self.prove and not missing_permissions(reading, self.scope):
            reading = self._proved(registry, reading)
        return self._whole(registry, reading, limits, runners)

    def _credential(self, info: CredentialInfo, granted: dict[str, str] | None = None) -> CredentialReading:
        kind = "app" if info.kind == "app" else info.token_type
        known = kind if kind in ("classic", "fine-grained", "app", "job") else "other"
        named = known == "classic" or bool(info.scopes)
        ends = info.expires_at
        return CredentialReading(
            kind=known,
            source=info.source,
            identity=info.identity,
            scopes=info.scopes if named else None,
            granted=granted,
            minted=info.permissions if kind == "app" else None,
            needs=self.needs,
            expires_at=datetime.fromisoformat(ends.replace("Z", "+00:00")) if ends else None,
            unread_end=info.unread_end,
            ignored=info.ignored,
        )

    def _sso(self, client: GitHubClient) -> str:
        """What GitHub says of single sign-on, on an answer that it concerns."""
        path = f"{self.scope.path}/actions/runners"
        params = {"per_page": 1}
        answer = client.get(path, params=params, what="list the runners", accept=(403, 404), fresh=True)
        return str(answer.headers.get("x-github-sso", ""))

    def _proved(self, registry: Registry, reading: CredentialReading) -> CredentialReading:
        minted = _try(registry.registration_token)
        if not isinstance(minted, Unavailable):
            return msgspec.structs.replace(reading, proved=True)
        if minted.kind != "denied":
            return reading
        return msgspec.structs.replace(reading, proved=False, refusal=minted.reason, remedy=minted.remedy)

    def _whole(
        self,
        registry: Registry,
        reading: CredentialReading,
        limits: dict[str, LimitReading] | Unavailable,
        runners: tuple[Runner, ...] | Unavailable,
    ) -> ScopeReading:
        groups = None if self.scope.kind == "repository" else _try(lambda: _groups(registry))
        settings = _try(lambda: self._settings(registry, reading))
        asks = settings if isinstance(settings, Registry) else registry
        versions: tuple[VersionReading, ...] | None = None
        if not isinstance(runners, Unavailable):
            versions = _Versions(registry).read(runners)
        return ScopeReading(
            self.scope,
            reading,
            limits=limits,
            runners=runners if isinstance(runners, Unavailable) else tuple(map(_runner, runners)),
            groups=groups,
            policy=self._policy(asks),
            reach=_reach(asks, groups),
            versions=versions,
        )

    def _settings(self, registry: Registry, reading: CredentialReading) -> Registry:
        """An App's token has one permission only: the settings are read with another one, where granted."""
        level = (reading.granted or {}).get(_READS_SETTINGS, "")
        app = _app(self.found)
        if app is None or self.scope.kind != "organization" or LEVELS.get(level, 0) == 0:
            return registry
        return Registry(self.connect(app.narrowed({_READS_SETTINGS: "read"})), self.scope)

    def _policy(self, registry: Registry) -> PolicyReading | Unavailable | None:
        """The organisation's, also for a repository of one; a person's and an enterprise's have none."""
        if self.scope.kind == "enterprise":
            return None
        if self.scope.kind == "repository":
            owner = _try(lambda: _owner(registry))
            if isinstance(owner, Unavailable):
                return owner
            if owner is None:
                return None
            url = self.scope.url.rpartition("/")[0]
            registry = Registry(registry.client, parse_scope(url))
        found = _try(registry.self_hosted_settings)
        if found is None:
            return Unavailable("GitHub does not show the organisation's policy")
        if isinstance(found, Unavailable):
            return found
        return PolicyReading(owner=registry.scope.name, enabled=found.enabled_repositories)


def _app(found: Credential) -> AppCredential | None:
    from runnerctl.github.app import AppCredential

    return found if isinstance(found, AppCredential) else None


def _try(ask: Callable[[], T]) -> T | Unavailable:
    """The answer, or why there is none; ``denied`` where the credential is what is wrong."""
    try:
        return ask()
    except AccessError as error:
        return Unavailable(error.what, kind="denied", remedy=error.remedy)
    except RunnerctlError as error:
        return Unavailable(error.what, remedy=error.remedy)


def _runner(runner: Runner) -> RunnerReading:
    return RunnerReading(
        name=runner.name,
        online=runner.online,
        busy=runner.busy,
        labels=runner.custom_labels(),
        group_id=runner.runner_group_id,
        version=runner.version,
        ephemeral=runner.ephemeral,
    )


def _groups(registry: Registry) -> tuple[GroupReading, ...]:
    return tuple(
        GroupReading(
            id=group.id,
            name=group.name,
            visibility=group.visibility,
            default=group.default,
            public=group.inherited_allows_public_repositories or group.allows_public_repositories,
            inherited=group.inherited,
            workflows=group.selected_workflows if group.restricted_to_workflows else None,
        )
        for group in registry.groups()
    )


def _limits(registry: Registry) -> dict[str, LimitReading]:
    return {
        name: LimitReading(
            limit=bucket.limit,
            remaining=bucket.remaining,
            resets_at=_moment(bucket.reset),
        )
        for name, bucket in registry.rate_limit().items()
    }


def _moment(seconds: int) -> datetime:
    """A time of GitHub's. Raises DataError for what is none."""
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc)
    except (OverflowError, ValueError, OSError):
        raise DataError("the rate limit's end is no time", remedy="check the API URL") from None


class _Owner(msgspec.Struct):
    """Of a repository's owner only what it is: ``User`` or ``Organization``."""

    type: str = ""
    login: str = ""


class _Owned(msgspec.Struct):
    owner: _Owner


def _owner(registry: Registry) -> str | None:
    """The organisation that a repository belongs to; None for a person."""
    found: _Owned = registry.client.get(registry.scope.path, what="read the repository").decode(_Owned)
    return found.owner.login if found.owner.type == "Organization" else None


def _reach(registry: Registry, groups: tuple[GroupReading, ...] | Unavailable | None) -> ReachReading:
    """A repository's visibility; and whose pull requests wait, where strangers may come at all."""
    public: bool | Unavailable | None = None
    reached: bool = not isinstance(groups, tuple) or any(group.public is not False for group in groups)
    if registry.scope.kind == "repository":
        repository = _try(registry.repository)
        if isinstance(repository, Unavailable):
            public = repository
        else:
            public = repository is not None and repository.public
        reached = public is not False
    if registry.scope.kind == "enterprise":
        return ReachReading()
    if not reached:
        return ReachReading(public=public, approval="")
    found = _try(registry.fork_approval)
    if found is None:
        return ReachReading(public=public, approval=Unavailable("GitHub does not show the policy"))
    if isinstance(found, Unavailable):
        return ReachReading(public=public, approval=found)
    return ReachReading(public=public, approval=found.approval_policy)


class _Release(msgspec.Struct):
    tag_name: str
    published_at: datetime | None = None
    prerelease: bool = False
    draft: bool = False


class _Versions:
    """When versions end: GitHub is asked once for each, and releases once where it does not tell."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._refused = ""
        self._released: dict[tuple[int, ...], datetime] | None = None
        self._downloads: frozenset[tuple[int, ...]] | None = None

    def read(self, runners: Sequence[Runner]) -> tuple[VersionReading, ...]:
        """One reading for each distinct version, newest first."""
        versions = sorted({runner.version for runner in runners if runner.version}, key=_parts, reverse=True)
        return tuple(self._one(version) for version in versions[:MOST_VERSIONS])

    def _one(self, version: str) -> VersionReading:
        reason = self._refused
        if not reason:
            found = _try(lambda: self._registry.deprecations(version))
            if isinstance(found, Unavailable):
                reason = found.reason
                self._refused = reason if found.kind == "denied" else ""
            elif found is not None:
                return VersionReading(
                    version=version,
                    asked=True,
                    ends=found.runtime_deprecates_at,
                    registration_ends=found.registration_deprecates_at,
                )
        return self._by_releases(version, reason)

    def _by_releases(self, version: str, reason: str) -> VersionReading:
        own, released = _parts(version), self._releases()
        later = [number for number in released if number > own]
        bound = released[min(later)] + BOUND if later else None
        newest = not later and (own in released or (not released and own in self._offered()))
        return VersionReading(version=version, asked=False, bound=bound, newest=newest, reason=reason)

    def _offered(self) -> frozenset[tuple[int, ...]]:
        """The versions that this server offers: GHES has no list of releases, and asks for no others."""
        if self._downloads is None:
            found = _try(self._registry.downloads)
            downloads = () if isinstance(found, Unavailable) else found
            self._downloads = frozenset(_parts(each.version) for each in downloads if each.version)
        return self._downloads

    def _releases(self) -> dict[tuple[int, ...], datetime]:
        """Publication by version, of the last hundred releases; none where this server has no such list."""
        if self._released is None:
            answer: Any = _try(
                lambda: self._registry.client.get(
                    RELEASES, params={"per_page": 100}, what="list the runner's releases", accept=(403, 404)
                )
            )
            found: list[_Release] = []
            if not isinstance(answer, Unavailable) and answer.status == 200:
                found = answer.decode(list[_Release])
            self._released = {
                _parts(release.tag_name): release.published_at
                for release in found
                if release.published_at and not release.prerelease and not release.draft
            }
        return self._released


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part[:9]) if part.isdecimal() else 0 for part in version.removeprefix("v").split("."))
