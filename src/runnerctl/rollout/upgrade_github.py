"""GitHub's side of an upgrade: records, routing, and the circuit breaker over the whole fleet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from runnerctl.core.breaker import allowance
from runnerctl.core.plan import Record
from runnerctl.core.spec import Slot
from runnerctl.errors import AccessError, DataError, TryAgainError
from runnerctl.github.registry import Registry
from runnerctl.modes import own_by_name
from runnerctl.reconcile import Fleet, record_of
from runnerctl.rollout.ports import SlotNow
from runnerctl.rollout.routing import cut, is_cut, restore
from runnerctl.rollout.upgrade_ports import Seen

__all__ = ["FleetRoutes"]

Lock = Callable[[], contextlib.AbstractContextManager[object]]


class FleetRoutes:
    """GitHub for one host's upgrade (`runnerctl.rollout.upgrade_ports.Routes`).

    ``names``: the runner names of the whole inventory by the URL of their scope. We take none when more than
    ``percent`` of them, or one, would be out of service; with ``force`` nobody counts. ``lock`` keeps
    other processes of this controller from counting and cutting at the same time.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        names: Mapping[str, Sequence[str]],
        percent: int,
        force: bool = False,
        lock: Lock = contextlib.nullcontext,
    ) -> None:
        self.fleet = fleet
        self.names = names
        self.percent = percent
        self.force = force
        self.lock = lock
        self._slots = {slot.name: slot for slot in fleet.spec.github_runner.slots}

    def look(self, slot: SlotNow) -> Seen | None:
        """The slot's record, asked for by its id."""
        _, runner = self._record(slot)
        if runner is None:
            return None
        record, version = runner
        return Seen(record.online, record.busy, is_cut(record), version)

    def take(self, slots: Sequence[SlotNow]) -> tuple[str, ...]:
        """Cut as many as the fleet can spare now, counted on a fresh list of its runners.

        Raises TryAgainError when waiting is of no use: too many are out of service that no rollout has taken.
        """
        taken = []
        with self.lock():
            out, lost, most = self._out_of_service()
            for slot in slots:
                wanted = self._slot(slot)
                name = _key(self.fleet.spec.slot_scope(wanted).url, self.fleet.spec.runner_name(wanted))
                if not self.force and name not in out and len(out) >= most:
                    continue
                registry, runner = self._record(slot)
                if runner is not None:
                    cut(registry, runner[0], self._drain_group(registry))
                out.add(name)
                taken.append(slot.name)
        if not taken and len(lost) >= most:
            named = ", ".join(sorted(key.partition(" ")[2] for key in lost)[:3]) + (
                " ..." if len(lost) > 3 else ""
            )
            raise TryAgainError(
                f"{len(lost)} of the fleet's runners are offline or absent and {most} may be out of service "
                f"(runnerctl_fleet_max_held_percent: {self.percent}): {named}",
                where="circuit breaker",
                remedy="mend or remove those first, or force it (upgrade_force, --force)",
            )
        return tuple(taken)

    def restore(self, slots: Sequence[SlotNow]) -> None:
        """The spec's labels and group, as a converge would set them."""
        spec = self.fleet.spec
        for slot in slots:
            registry, runner = self._record(slot)
            if runner is not None:
                wanted = self._slot(slot)
                restore(registry, runner[0], spec.slot_labels(wanted), self.fleet.group_id(wanted))

    def _out_of_service(self) -> tuple[set[str], set[str], int]:
        """The fleet's runners that take no job now, those of them that were not cut, and how many may be."""
        everybody, serving, away = set(), set(), set()
        for url, names in self.names.items():
            mine = {_key(url, name) for name in names}
            records = [] if self.force else self._records(url)
            if records is None:
                continue
            everybody |= mine
            for record in records:
                key = _key(url, record.name)
                if key in mine and is_cut(record):
                    away.add(key)
                elif key in mine and record.online:
                    serving.add(key)
        out = everybody - serving
        return out, out - away, allowance(len(everybody), self.percent)

    def _records(self, url: str) -> list[Record] | None:
        """All of a scope; None for one of other hosts that the credential may not read: it does not count."""
        try:
            return [record_of(runner) for runner in self.fleet.registry(url).runners()]
        except AccessError:
            if url in {scope.url for scope in self.fleet.scopes()}:
                raise
            return None

    def _slot(self, slot: SlotNow) -> Slot:
        try:
            return self._slots[slot.name]
        except KeyError:
            raise DataError(
                f"slot {slot.name!r} is not in the inventory",
                where=self.fleet.spec.host,
                remedy="run provision",
            ) from None

    def _runner_name(self, slot: SlotNow) -> str:
        return self.fleet.spec.runner_name(self._slot(slot)).casefold()

    def _record(self, slot: SlotNow) -> tuple[Registry, tuple[Record, str | None] | None]:
        registry = self.fleet.registry(self.fleet.spec.slot_url(self._slot(slot)))
        runner = registry.runner(slot.agent_id) if slot.agent_id is not None else None
        if runner is None and slot.ephemeral:
            runner = own_by_name(registry, self._runner_name(slot))
        if runner is None or runner.name.casefold() != self._runner_name(slot):
            return registry, None  # a record of another name is not this slot's, whatever its host says
        return registry, (record_of(runner), runner.version)

    def _drain_group(self, registry: Registry) -> int | None:
        group = self.fleet.spec.github_runner.drain_group
        return registry.group_id(group) if group and registry.scope.kind != "repository" else None


def _key(url: str, name: str) -> str:
    """A runner of the fleet; two scopes may have one of the same name."""
    return f"{url.lower()} {name.casefold()}"
