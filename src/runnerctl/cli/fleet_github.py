"""GitHub's view of a fleet: every scope's runners are listed once, and each version is asked for once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from runnerctl.cli.context import Context
from runnerctl.cli.remote import registry
from runnerctl.core.fleet import GithubView
from runnerctl.core.fleet_causes import FleetRecord
from runnerctl.core.scope import Scope
from runnerctl.core.spec import HostSpec
from runnerctl.errors import AccessError, RunnerctlError
from runnerctl.github.models import Runner, RunnerGroup
from runnerctl.github.registry import Registry

__all__ = ["ask_github", "scopes_of"]


def scopes_of(specs: Mapping[str, HostSpec]) -> dict[str, tuple[Scope, str | None]]:
    """Every scope of the fleet by its URL, with the API's base where the inventory names one."""
    found: dict[str, tuple[Scope, str | None]] = {}
    for spec in specs.values():
        for slot in spec.github_runner.slots:
            if spec.slot_url(slot):
                scope = spec.slot_scope(slot)
                found.setdefault(scope.url, (scope, spec.github_runner.api_url))
    return found


def ask_github(context: Context, specs: Mapping[str, HostSpec]) -> GithubView:
    """What GitHub has of each scope; a scope that fails keeps no other from being asked. Raises nothing."""
    records: dict[str, tuple[FleetRecord, ...]] = {}
    failures: dict[str, str] = {}
    own = {spec.runner_name(slot).casefold() for spec in specs.values() for slot in spec.github_runner.slots}
    for url, (scope, api) in scopes_of(specs).items():
        try:
            records[url] = _records(registry(context, scope, api=api), own)
        except RunnerctlError as error:
            failures[url] = str(error)
    return GithubView(records=records, failures=failures)


def _records(found: Registry, own: set[str]) -> tuple[FleetRecord, ...]:
    """All records of a scope. When versions end is asked only for those that the fleet's runners have."""
    runners = found.runners()
    groups = {group.id: group for group in _groups(found)}
    versions = {runner.version for runner in runners if runner.version and runner.name.casefold() in own}
    ends = {version: _end(found, version) for version in sorted(versions)}
    return tuple(_record(runner, groups, ends) for runner in runners)


def _record(
    runner: Runner, groups: Mapping[int, RunnerGroup], ends: Mapping[str, datetime | None]
) -> FleetRecord:
    group = groups.get(runner.runner_group_id) if runner.runner_group_id is not None else None
    return FleetRecord(
        id=runner.id,
        name=runner.name,
        online=runner.online,
        busy=runner.busy,
        labels=tuple(sorted(runner.custom_labels())),
        group=group.name if group else None,
        group_is_default=group.default if group else None,
        version=runner.version,
        expires_at=ends.get(runner.version or ""),
    )


def _groups(found: Registry) -> tuple[RunnerGroup, ...]:
    """Reading groups needs more than reading runners does: not knowing them is no fault of the fleet."""
    try:
        return found.groups()
    except AccessError:
        return ()


def _end(found: Registry, version: str) -> datetime | None:
    try:
        ending = found.deprecations(version)
    except AccessError:
        return None
    return ending.runtime_deprecates_at if ending else None
