"""Where ``runnerctl list`` looks: this host, or scopes at GitHub. One may be asked again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.listing_rows import Expiry, Row
from runnerctl.errors import AccessError, RunnerctlError

if TYPE_CHECKING:
    from runnerctl.cli.listing_places import Place
    from runnerctl.core.scope import Scope
    from runnerctl.core.spec import HostSpec
    from runnerctl.github.models import Runner, RunnerGroup
    from runnerctl.github.registry import Registry

__all__ = ["HostSight", "Look", "Needs", "ScopesSight", "Sight"]

MOST_VERSIONS = 20  # versions whose end is asked for, the most frequent first


@dataclass(frozen=True)
class Needs:
    """What costs a request more, and is left out when no column and no filter wants it."""

    groups: bool = True
    expiry: bool = True


@dataclass(frozen=True)
class Look:
    """What one look found. ``code`` is the exit code of what was missing, ``name`` what was looked at."""

    rows: list[Row]
    name: str
    urls: tuple[str, ...] = ()
    code: int = 0
    problems: tuple[str, ...] = ()


class Sight(Protocol):
    """Something to list."""

    on_host: bool

    @property
    def low(self) -> bool:
        """Whether little is left of a rate limit: then the next look can wait."""
        ...

    def look(self) -> Look:
        """All rows. Raises RunnerctlError."""
        ...


@dataclass
class _Desk:
    """One scope at GitHub. The registry stays, so that a second look asks only what changed."""

    context: Context
    registry: Registry
    needs: Needs
    told: bool = False

    def groups(self) -> dict[int, str]:
        """Names by id; empty where the credential may not see them."""
        if not self.needs.groups or self.registry.scope.kind == "repository":
            return {}
        try:
            found: Sequence[RunnerGroup] = self.registry.groups()
        except AccessError as error:
            if not self.told:  # once, not each time that it is looked
                self.context.note(f"runnerctl: groups are not shown: {error}")
            self.told = True
            return {}
        return {group.id: group.name for group in found}

    def expiries(self, versions: Iterable[str | None]) -> dict[str, Expiry]:
        """The end of each version, asked for once; what GitHub does not tell is left out."""
        counts = Counter(version for version in versions if version)
        found: dict[str, Expiry] = {}
        for version, _ in counts.most_common(MOST_VERSIONS if self.needs.expiry else 0):
            try:
                expiry = Expiry.of(self.registry.deprecations(version), now=self.context.clock())
            except AccessError:  # needs more than reading runners does
                break
            if expiry is not None:
                found[version] = expiry
        return found


@dataclass
class ScopesSight:
    """The runners of one scope or more. ``claims`` as `claims_of` gives them."""

    context: Context
    scopes: Sequence[tuple[Scope, str | None]]
    needs: Needs
    place: Place
    claims: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    on_host: bool = False

    def __post_init__(self) -> None:
        from runnerctl.cli.remote import registry

        self._desks = [
            _Desk(
                self.context, registry(self.context, scope, api=api, max_wait=self.place.max_wait), self.needs
            )
            for scope, api in self.scopes
        ]

    @property
    def low(self) -> bool:
        """Whether a client is near the end of its rate limit."""
        return any(desk.registry.client.low for desk in self._desks)

    def look(self) -> Look:
        """Every runner of every scope, through all pages, and the claimed names that no runner has.

        A scope that cannot be read is a problem beside the others; where it is the only one, its error.
        """
        rows: list[Row] = []
        errors: list[RunnerctlError] = []
        for desk in self._desks:
            try:
                rows += self._rows(desk)
            except RunnerctlError as error:
                errors.append(error)
        if len(errors) == len(self._desks):
            raise errors[0]
        scopes = [desk.registry.scope for desk in self._desks]
        name = scopes[0].name if len(scopes) == 1 else f"{len(scopes)} scopes"
        problems = tuple(f"a scope is missing: {error}" for error in errors)
        code = errors[0].exit_code if errors else 0
        return Look(rows, name, tuple(scope.url for scope in scopes), code, problems)

    def _rows(self, desk: _Desk) -> list[Row]:
        here = desk.registry.scope.url.lower()
        runners = desk.registry.runners()
        groups = desk.groups()
        expiries = desk.expiries(runner.version for runner in runners)
        left = {name: claim for (scope, name), claim in self.claims.items() if scope == here}
        rows = []
        for runner in runners:
            host, slot = left.pop(runner.name.casefold(), (None, None))
            if self.place.limit is not None and host is None:
                continue
            rows.append(_row(runner, host, slot, groups=groups, expiries=expiries))
        return rows + [Row(f"{host}-{slot}", slot, host, asked=True) for host, slot in left.values()]


def _row(
    runner: Runner,
    host: str | None,
    slot: str | None,
    *,
    groups: dict[int, str],
    expiries: dict[str, Expiry],
) -> Row:
    return Row(
        runner=runner.name,
        slot=slot,
        host=host,
        record=runner,
        asked=True,
        group=groups.get(runner.runner_group_id or 0),
        expiry=expiries.get(runner.version or ""),
    )


@dataclass
class HostSight:
    """The slots of this host; with a credential GitHub's view of each."""

    context: Context
    paths: Paths
    spec: HostSpec | None
    place: Place
    needs: Needs
    on_host: bool = True
    _desks: dict[str, _Desk] = field(default_factory=dict)

    @property
    def low(self) -> bool:
        """Whether a client is near the end of its rate limit."""
        return any(desk.registry.client.low for desk in self._desks.values())

    def look(self) -> Look:
        """A row for each slot. What GitHub does not tell leaves its columns empty, and is a problem."""
        from runnerctl.cli.listing_host import host_rows
        from runnerctl.cli.local import local_slots
        from runnerctl.cli.remote import has_credential

        rows = host_rows(
            self.context, self.paths, self.spec, local_slots(self.context, self.paths, self.spec)
        )
        name = self.spec.host if self.spec else "this host"
        if not has_credential(self.context):
            return Look(rows, name)
        try:
            return Look(self._with_github(rows), name)
        except RunnerctlError as error:
            return Look(rows, name, code=error.exit_code, problems=(f"GitHub's view is missing: {error}",))

    def _with_github(self, rows: Sequence[Row]) -> list[Row]:
        found = list(rows)
        urls = {row.local.url for row in rows if row.local and row.local.url and row.runner}
        for url in sorted(urls):
            desk = self._desk(url)
            own = [at for at, row in enumerate(found) if row.local and row.local.url == url and row.runner]
            groups = desk.groups()
            for at in own:
                record = desk.registry.runner_by_name(found[at].runner or "")
                group = groups.get(record.runner_group_id or 0) if record else None
                found[at] = replace(found[at], record=record, asked=True, group=group)
            expiries = desk.expiries(found[at].version for at in own)
            for at in own:
                found[at] = replace(found[at], expiry=expiries.get(found[at].version or ""))
        return found

    def _desk(self, url: str) -> _Desk:
        from runnerctl.cli.remote import registry
        from runnerctl.core.scope import parse_scope

        if url not in self._desks:
            api = self.place.api or (self.spec.github_runner.api_url if self.spec else None)
            found = registry(self.context, parse_scope(url), api=api, max_wait=self.place.max_wait)
            self._desks[url] = _Desk(self.context, found, self.needs)
        return self._desks[url]
