"""Labels of a whole inventory: GitHub's records beside the specs, one list of runners a scope."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runnerctl.cli.context import Context
from runnerctl.cli.inventory import Resolved, resolve
from runnerctl.cli.label_edit import Edit, Result, change
from runnerctl.cli.remote import registry
from runnerctl.core.labels import normalise
from runnerctl.core.scope import Scope, parse_scope
from runnerctl.core.slot_layout_foreseen import foreseen
from runnerctl.core.spec import HostSpec, Slot
from runnerctl.errors import ConfigError, RunnerctlError

__all__ = ["Wanted", "inventory_specs", "sync_labels", "wanted_by_scope"]


@dataclass(frozen=True)
class Wanted:
    """One runner as the inventory wants it, and the API's base for its scope when inventory names one."""

    name: str
    api: str | None
    spec: HostSpec
    slot: Slot

    def labels(self, have: Iterable[str]) -> frozenset[str]:
        """The labels it should have, of a record that has ``have``."""
        return normalise(self.spec.expected_labels(self.slot, have))


def sync_labels(
    context: Context,
    inventory: str,
    *,
    limit: str | None,
    api: str | None,
    max_wait: str | None,
    dry_run: bool,
) -> tuple[list[Result], RunnerctlError | None]:
    """Bring the labels of the inventory's runners to its specs. Raises RunnerctlError before any change."""
    found = inventory_specs(resolve(context, inventory, limit=limit), inventory)
    specs = [foreseen(spec) for spec in found]
    results: list[Result] = []
    for scope, runners in wanted_by_scope(specs):
        at = registry(context, scope, api=api or runners[0].api, max_wait=max_wait)
        known = {runner.name.lower(): runner for runner in at.runners()}
        edits = [
            (record, Edit("set", runner.labels(record.custom_labels()), lenient=True))
            for runner in runners
            if (record := known.get(runner.name.lower())) is not None
        ]
        done, failure = change(at, edits, dry_run=dry_run)
        results += done
        results += [
            Result(runner.name, "absent", scope=scope.url)
            for runner in runners
            if runner.name.lower() not in known
        ]
        if failure:
            return results, failure
    return sorted(results, key=lambda result: result.name.lower()), None


def inventory_specs(hosts: list[Resolved], inventory: str) -> list[HostSpec]:
    """The specs of the hosts. Raises ConfigError when a host has none: half an inventory is no truth."""
    import msgspec

    for host in hosts:
        for problem in host.problems:
            raise ConfigError(
                f"{problem['variable']} {problem['message']}",
                where=host.host,
                remedy=f"{problem['remedy']}; `runnerctl spec validate -i {inventory}` names every problem",
            )
    return [msgspec.convert(_plain(host), HostSpec) for host in hosts]


def _plain(host: Resolved) -> dict[str, Any]:
    return host.spec or {"host": host.host}


def wanted_by_scope(specs: list[HostSpec]) -> list[tuple[Scope, list[Wanted]]]:
    """Every slot's runner and its custom labels, by scope."""
    scopes: dict[str, tuple[Scope, list[Wanted]]] = {}
    for spec in specs:
        for slot in spec.github_runner.slots:
            scope = parse_scope(spec.slot_url(slot))
            wanted = Wanted(spec.runner_name(slot), spec.github_runner.api_url, spec, slot)
            scopes.setdefault(scope.url.lower(), (scope, []))[1].append(wanted)
    return list(scopes.values())
