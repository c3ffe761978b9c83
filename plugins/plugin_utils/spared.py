"""Whether a fleet can spare the hosts of a play: every host's spec, GitHub's records, the circuit breaker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain

from runnerctl.core.breaker import Judgement, judge
from runnerctl.core.scope import Scope
from runnerctl.core.slot_layout_foreseen import foreseen
from runnerctl.core.spec import SECTIONS, HostSpec, Slot, host_spec
from runnerctl.errors import AccessError
from runnerctl.reconcile import Fleet, record_of
from runnerctl.rollout.routing import is_cut

__all__ = ["Standing", "fleet_specs"]

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
            specs[host] = foreseen(spec)
    return specs


class Standing:
    """The runners of a fleet, as far as the credential lets them be counted."""

    def __init__(self, specs: Mapping[str, HostSpec]) -> None:
        self.specs = specs
        self.runners = {key for spec in specs.values() for key in _keys(spec)}
        self.out: set[str] = set()

    def ask(
        self,
        environment: Mapping[str, str],
        *,
        hosts: Collection[str],
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Learn from GitHub who takes no jobs: absent, offline, or cut from routing. One list for each scope.

        A scope that the credential may not read, and that none of ``hosts`` is in, is left out of the count.
        Raises RunnerctlError.
        """
        able: set[str] = set()
        mine = {scope.url for host in hosts if host in self.specs for scope in _scopes(self.specs[host])}
        asked = {scope: spec for spec in self.specs.values() for scope in _scopes(spec)}
        for scope, spec in asked.items():
            try:
                able |= _able(spec, scope, environment)
            except AccessError as error:
                if scope.url in mine:
                    raise
                note(f"the runners of {scope.name} are not counted: {error}")
                self.runners -= {key for key in self.runners if key.startswith(_key(scope.url, ""))}
        self.out = self.runners - able

    def judge(self, hosts: Collection[str], *, slots: Collection[str]) -> Judgement:
        """Judge whether the slots of ``hosts``, all or those named, may go; the strictest share counts."""
        take = {host: _keys(self.specs[host], slots) for host in hosts if host in self.specs}
        shares = [spec.runnerctl.fleet_max_held_percent for spec in self.specs.values()]
        return judge(self.runners, out=self.out, take=take, percent=min(shares, default=100))


def _able(spec: HostSpec, scope: Scope, environment: Mapping[str, str]) -> set[str]:
    """The runners of a scope that take jobs."""
    records = map(record_of, Fleet(spec, environment).registry(scope.url).runners())
    return {_key(scope.url, each.name) for each in records if each.online and not is_cut(each)}


def _scopes(spec: HostSpec) -> list[Scope]:
    return list(dict.fromkeys(spec.slot_scope(slot) for slot in spec.github_runner.slots))


def _keys(spec: HostSpec, slots: Collection[str] = ()) -> list[str]:
    wanted: list[Slot] = [slot for slot in spec.github_runner.slots if not slots or slot.name in slots]
    return [_key(spec.slot_scope(slot).url, spec.runner_name(slot)) for slot in wanted]


def _key(url: str, name: str) -> str:
    return f"{url.lower()} {name.lower()}"
