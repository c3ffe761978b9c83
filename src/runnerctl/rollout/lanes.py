"""GitHub's side of one host's slots, as a rollout needs it: their record, its labels, its group."""

from __future__ import annotations

from collections.abc import Callable

from runnerctl.core.plan import Record
from runnerctl.core.spec import HostSpec, Slot
from runnerctl.github.registry import Registry
from runnerctl.modes import own_by_name
from runnerctl.reconcile import Fleet, record_of
from runnerctl.rollout.ports import SlotNow
from runnerctl.rollout.routing import cut, is_cut, restore

__all__ = ["Lanes"]


class Lanes:
    """The records of a host's slots. Each call is a fresh request; nothing is remembered of a record.

    Methods raise RunnerctlError: AccessError without a credential, or for a server that inventory does not
    name. ``note`` gets a line about a record that is not the slot's.
    """

    def __init__(self, fleet: Fleet, *, note: Callable[[str], None] = lambda _text: None) -> None:
        self.fleet = fleet
        self.note = note
        self._drain_groups: dict[str, int] = {}

    @property
    def spec(self) -> HostSpec:
        """The host's spec."""
        return self.fleet.spec

    def record(self, now: SlotNow) -> Record | None:
        """GitHub's record of a slot, by the id that its host holds; None without one, or when it is gone.

        A record of another name is not this slot's, whatever its host says.
        """
        registry = self._registry(now)
        if registry is None or not now.registered:
            return None
        runner = registry.runner(now.agent_id) if now.agent_id is not None else None
        if runner is None and now.ephemeral:
            runner = own_by_name(registry, self.runner_name(now.name))
        if runner is None:
            return None
        if runner.name.casefold() != self.runner_name(now.name).casefold():
            adopted = f"was it adopted, say `runner_name: {runner.name}` for the slot in the inventory"
            self.note(f"slot {now.name} holds the registration of {runner.name}, left alone; {adopted}")
            return None
        return record_of(runner)

    def prepare(self, now: SlotNow) -> None:
        """Refuse what would fail after the first write: ConfigError for a drain group that is not there."""
        registry = self._registry(now)
        if registry is not None:
            self._drain_group(registry)

    def cut(self, now: SlotNow, record: Record) -> bool:
        """Cut the slot's runner from routing; True when something changed."""
        registry = self._registry(now)
        return registry is not None and cut(registry, record, self._drain_group(registry))

    def restore(self, now: SlotNow, record: Record) -> bool:
        """Give the record the spec's labels and group back; True when something changed.

        A record that bears no mark and stands in no drain group was not cut, and is left as it is; so is one
        of a slot that inventory does not have.
        """
        registry, slot = self._registry(now), self.slot(now.name)
        if registry is None or slot is None or not self.needs_restore(now, record):
            return False
        return restore(registry, record, self.spec.slot_labels(slot), self._group(slot, registry))

    def needs_restore(self, now: SlotNow, record: Record) -> bool:
        """Whether the record was cut from routing."""
        registry = self._registry(now)
        group = self._drain_group(registry) if registry is not None else None
        return is_cut(record) or (group is not None and record.group_id == group)

    def slot(self, name: str) -> Slot | None:
        """The slot as inventory has it, or None."""
        return next((slot for slot in self.spec.github_runner.slots if slot.name == name), None)

    def runner_name(self, name: str) -> str:
        """The runner name of a slot, also of one that inventory does not have any more."""
        slot = self.slot(name)
        return self.spec.runner_name(slot) if slot else f"{self.spec.host}-{name}"

    def _registry(self, now: SlotNow) -> Registry | None:
        return self.fleet.registry(now.url) if now.url else None

    def _drain_group(self, registry: Registry) -> int | None:
        name, scope = self.spec.github_runner.drain_group, registry.scope
        if not name or scope.kind == "repository":
            return None
        if scope.url not in self._drain_groups:
            self._drain_groups[scope.url] = registry.group_id(name)
        return self._drain_groups[scope.url]

    def _group(self, slot: Slot, registry: Registry) -> int | None:
        """The wanted group's id; none where the slot still stands in another scope than it should."""
        same = self.spec.slot_scope(slot).url.lower() == registry.scope.url.lower()
        return self.fleet.group_id(slot) if same else None
