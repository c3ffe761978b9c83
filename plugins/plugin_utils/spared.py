"""Whether a fleet can spare the hosts of a play: every host's spec, GitHub's records, the circuit breaker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain

from runnerctl.core.breaker import Judgement, judge
from runnerctl.core.spec import SECTIONS, HostSpec, Slot, host_spec
from runnerctl.reconcile import Fleet, record_of
from runnerctl.rollout.routing import is_cut

__all__ = ["fleet_specs", "judge_hosts", "out_of_service"]

GROUP = "runner_hosts"


def fleet_specs(
    variables: Mapping[str, Any], *, note: Callable[[str], None] = lambda _text: None
) -> dict[str, HostSpec]:
    """The spec of every runner host of the inventory, ``--limit`` or not.

    A host whose variables are wrong is left out; ``note`` gets a line about it.
    """
    prefixes = tuple(f"{section}_" for section in SECTIONS)
    specs: dict[str, HostSpec] = {}
    for host in map(plain, variables.get("groups", {}).get(GROUP, [])):
        known = variables["hostvars"][host]
        values = {plain(name): plain(known[name]) for name in known if str(name).startswith(prefixes)}
        spec, problems = host_spec(host, values)
        if spec is None:
            note(f"{host} is not counted among the fleet: {problems[0].line(host)}")
        else:
            specs[host] = spec
    return specs


def out_of_service(specs: Mapping[str, HostSpec], environment: Mapping[str, str]) -> set[str]:
    """The runners of the fleet that take no jobs: absent from GitHub, offline, or cut from routing.

    One list for each scope. Raises RunnerctlError.
    """
    able: set[str] = set()
    asked: set[str] = set()
    for spec in specs.values():
        fleet = Fleet(spec, environment)
        for scope in fleet.scopes():
            if scope.url.lower() not in asked:
                asked.add(scope.url.lower())
                records = map(record_of, fleet.registry(scope.url).runners())
                serving = (record.name for record in records if record.online and not is_cut(record))
                able |= {_key(scope.url, name) for name in serving}
    return {key for spec in specs.values() for key in _keys(spec)} - able


def judge_hosts(
    specs: Mapping[str, HostSpec], hosts: Collection[str], *, slots: Collection[str], out: Collection[str]
) -> Judgement:
    """Judge whether the slots of ``hosts``, all or those named, may go; the strictest share counts."""
    take = {host: _keys(specs[host], slots) for host in hosts if host in specs}
    percent = min((spec.runnerctl.fleet_max_held_percent for spec in specs.values()), default=100)
    fleet = [key for spec in specs.values() for key in _keys(spec)]
    return judge(fleet, out=out, take=take, percent=percent)


def _keys(spec: HostSpec, slots: Collection[str] = ()) -> list[str]:
    wanted: list[Slot] = [slot for slot in spec.github_runner.slots if not slots or slot.name in slots]
    return [_key(spec.slot_scope(slot).url, spec.runner_name(slot)) for slot in wanted]


def _key(url: str, name: str) -> str:
    return f"{url.lower()} {name.lower()}"
