"""What must happen so that a slot's registration is what its spec says.

Three readings are compared: the spec, what the host reports (its ``.runner`` and our own state file) and
GitHub's record. Nothing here touches any of them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from runnerctl.core.labels import DRAINED, normalise
from runnerctl.core.spec import HostSpec, Slot

__all__ = ["Leaving", "LocalSlot", "Record", "Registration", "SlotPlan", "plan_slot"]

ROUTED_HOLDS = frozenset({"operator", "upgrade"})  # who cuts a slot from routing before the hold

# The listener ends so when GitHub sent it an update (actions/runner, Constants.Runner.ReturnCode). A slot's
# code is read-only: what registers it turns updates off, a stock installation does not.
WANTS_UPDATE = (3, 4)


class LocalSlot(msgspec.Struct, frozen=True):
    """What the host reports of a slot.

    ``registering`` is true when a registration was begun and its end was never noted: the process was
    killed in between, so a record of that name is ours. ``hold`` is the reason of the slot's hold,
    ``hold_by`` who gave it: ``operator``, ``health``, ``driver``, ``upgrade``. ``mode`` is what it is now:
    an ephemeral slot's ``agent_id`` is that of its last registration.
    """

    name: str
    mode: Literal["persistent", "ephemeral"] = "persistent"
    agent_id: int | None = None
    agent_name: str | None = None
    url: str | None = None
    registering: bool = False
    busy: bool = False
    active: bool = False
    hold: str | None = None
    hold_by: tuple[str, ...] = ()
    pending_restart: bool = False
    exit_status: int = 0
    incomplete: bool = False
    adopted: bool = False
    changes: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True):
    """GitHub's record of a runner. ``labels`` are lower-cased; ``read_only`` those that GitHub added.

    ``ephemeral``: None where the server does not say.
    """

    id: int
    name: str
    online: bool
    busy: bool
    labels: frozenset[str]
    read_only: frozenset[str]
    group_id: int | None = None
    ephemeral: bool | None = None


class Registration(msgspec.Struct, frozen=True):
    """A registration to make. ``replace`` takes the record's place; ``delete`` removes an older one first.

    ``seen`` is the id on the host that the plan was made for: it must still be that when the host acts.
    """

    seen: int | None = None
    replace: bool = False
    delete: int | None = None
    delete_url: str | None = None


class Leaving(msgspec.Struct, frozen=True):
    """The registration of a mode that a slot leaves: its ``id`` and where it is; None: none is known."""

    id: int | None = None
    url: str | None = None
    mode: Literal["persistent", "ephemeral"] = "persistent"


class SlotPlan(msgspec.Struct, frozen=True):
    """Everything to do for one slot on GitHub, and why.

    ``record`` is the id of the record that stays, which ``labels`` and ``move_to_group`` are for: GitHub's
    own answer, not the host's word. ``error`` stops the run before anything changes; ``waits_for`` says why a
    needed change is not made now; ``leaves``: the slot changes its mode, and the registration that it had,
    if any, goes first; ``ephemeral``: no registration of it is made here;
    ``online`` is what GitHub said when it was asked.
    """

    name: str
    runner_name: str
    registration: Registration | None = None
    record: int | None = None
    labels: tuple[str, ...] | None = None
    move_to_group: int | None = None
    reasons: tuple[str, ...] = ()
    error: str | None = None
    waits_for: Literal["idle"] | None = None
    online: bool = False
    ephemeral: bool = False
    leaves: Leaving | None = None

    @property
    def changes(self) -> bool:
        """Whether GitHub will differ afterwards."""
        repaired = self.labels is not None or self.move_to_group is not None
        return repaired or self.registration is not None or self.leaves is not None


def plan_slot(
    spec: HostSpec,
    slot: Slot,
    local: LocalSlot,
    *,
    named: Record | None,
    own: Record | None,
    group_id: int | None = None,
) -> SlotPlan:
    """Decide for one slot.

    ``named`` is the record with the slot's runner name in its scope, ``own`` the one whose id stands in the
    local ``.runner`` (the same one, as a rule). ``group_id`` is the wanted group's id, when one is wanted.
    """
    if slot.mode == "ephemeral" or local.mode == "ephemeral":
        return plan_modes(spec, slot, local, named=named, group_id=group_id)
    runner_name = spec.runner_name(slot)
    here = local.agent_id is not None and _same_url(local.url, spec.slot_scope(slot).url)
    if here and own is not None and (own.name.lower() == runner_name.lower() or _adopted(local, own)):
        if _stays_cut(local, own):
            return SlotPlan(slot.name, runner_name, record=own.id, online=own.online)
        if reason := _renewal_reason(local) or _fixed_labels_reason(spec, own):
            return _register(spec, slot, local, named, f"{reason}: registering again", delete=own.id)
        return _repair(spec, slot, own, group_id)
    if here and own is not None and local.adopted:
        return SlotPlan(slot.name, runner_name, error=_not_adopted(slot, local, own))
    if here and own is not None:
        reason = f"is registered as {own.name}"
        return _register(spec, slot, local, named, reason, delete=own.id)
    if here:
        return _register(spec, slot, local, named, f"record {local.agent_id} is gone from GitHub")
    if local.agent_id is not None:
        reason = f"moves from {local.url}"
        return _register(spec, slot, local, named, reason, delete=local.agent_id, delete_url=local.url)
    return _register(spec, slot, local, named, "is not registered")


def _stays_cut(local: LocalSlot, own: Record) -> bool:
    """Whether routing was cut on purpose: the mark without such a hold is left of a drain that was killed."""
    return DRAINED in own.labels and not ROUTED_HOLDS.isdisjoint(local.hold_by)


def _adopted(local: LocalSlot, own: Record) -> bool:
    return local.adopted and own.name.lower() == (local.agent_name or "").lower()


def _not_adopted(slot: Slot, local: LocalSlot, own: Record) -> str:
    """A job may have written the id into the installation: that record is not ours to delete."""
    return (
        f"slot {slot.name} adopted {local.agent_name}, and record {local.agent_id} is {own.name}: one of the "
        f"two was changed; on the host take the claim back (runnerctl adopt --forget {slot.name}), or remove "
        "the slot's .runner"
    )


def _renewal_reason(local: LocalSlot) -> str | None:
    if local.incomplete:
        return "has lost its credential files"
    wanted = local.adopted and local.exit_status in WANTS_UPDATE
    return "was adopted, and GitHub wants it to update itself" if wanted else None


def _same_url(one: str | None, other: str) -> bool:
    return (one or "").rstrip("/").lower() == other.rstrip("/").lower()


def _register(
    spec: HostSpec,
    slot: Slot,
    local: LocalSlot,
    named: Record | None,
    reason: str,
    *,
    delete: int | None = None,
    delete_url: str | None = None,
) -> SlotPlan:
    runner_name = spec.runner_name(slot)
    ours = local.registering or spec.github_runner.replace == "offline"
    if named is not None and named.id != delete and (named.online or not ours):
        return SlotPlan(slot.name, runner_name, error=_foreign(spec, slot, named))
    if local.busy or (named is not None and named.busy):
        return SlotPlan(slot.name, runner_name, reasons=(reason,), waits_for="idle", online=True)
    replace = named is not None and named.id != delete
    registration = Registration(seen=local.agent_id, replace=replace, delete=delete, delete_url=delete_url)
    return SlotPlan(slot.name, runner_name, registration=registration, reasons=(reason,))


def _foreign(spec: HostSpec, slot: Slot, named: Record) -> str:
    state = "online" if named.online else "offline"
    remedy = (
        "rename the slot or remove that runner"
        if named.online
        else "remove that runner, or set github_runner_replace: offline if this host was reinstalled"
    )
    where = spec.slot_scope(slot).name
    return f"the name {named.name} at {where} belongs to another runner (id {named.id}, {state}); {remedy}"


def _fixed_labels_reason(spec: HostSpec, own: Record) -> str | None:
    """GitHub sets its fixed labels at registration only, and never lets the API change them."""
    if spec.github_runner.no_default_labels and own.read_only:
        return "has GitHub's default labels"
    if not spec.github_runner.no_default_labels and "self-hosted" not in own.read_only | own.labels:
        return "lacks GitHub's default labels"
    return None


def _repair(spec: HostSpec, slot: Slot, own: Record, group_id: int | None) -> SlotPlan:
    wanted = normalise(spec.slot_labels(slot))
    have = own.labels
    reasons = []
    labels = None
    if have != wanted:
        labels = tuple(sorted(wanted))
        changes = [f"+{name}" for name in sorted(wanted - have)] + [
            f"-{name}" for name in sorted(have - wanted)
        ]
        reasons.append(f"labels {' '.join(changes)}")
    move = None
    if group_id is not None and own.group_id is not None and own.group_id != group_id:
        move = group_id
        reasons.append(f"group {own.group_id} -> {group_id}")
    return SlotPlan(
        slot.name,
        spec.runner_name(slot),
        record=own.id,
        labels=labels,
        move_to_group=move,
        reasons=tuple(reasons),
        online=own.online,
    )


# -- slots that register anew for each job, and those that no longer do ------------------------------------


def plan_modes(
    spec: HostSpec, slot: Slot, local: LocalSlot, *, named: Record | None, group_id: int | None
) -> SlotPlan:
    """Decide for a slot that is ephemeral, or was.

    Its host registers it, under the same name each time: the record may be another one than a moment ago.
    """
    name, ephemeral = spec.runner_name(slot), slot.mode == "ephemeral"
    changes = local.mode != slot.mode and (local.agent_id is not None or local.registering or local.active)
    foreign = named is not None and named.id != local.agent_id and not _own_ephemeral(spec, local, named)
    if named is not None and foreign:
        return SlotPlan(slot.name, name, error=_foreign(spec, slot, named), ephemeral=ephemeral)
    reasons = (f"becomes {slot.mode}",)
    if changes and (local.busy or (named is not None and named.busy)):
        return SlotPlan(slot.name, name, reasons=reasons, waits_for="idle", online=True, ephemeral=ephemeral)
    leaves = Leaving(local.agent_id, local.url, local.mode) if changes else None
    if not ephemeral:
        return SlotPlan(slot.name, name, registration=Registration(seen=0), reasons=reasons, leaves=leaves)
    if leaves is not None or named is None:
        return SlotPlan(slot.name, name, reasons=reasons if leaves else (), leaves=leaves, ephemeral=True)
    if _stays_cut(local, named):
        return SlotPlan(slot.name, name, record=named.id, online=named.online, ephemeral=True)
    plan = _repair(spec, slot, named, group_id)
    return msgspec.structs.replace(plan, ephemeral=True)


def _own_ephemeral(spec: HostSpec, local: LocalSlot, named: Record) -> bool:
    """Whether a record under the slot's name is one of its own: whoever is registered for good is another."""
    if local.mode == "ephemeral" and named.ephemeral is not False:
        return True
    ours = local.registering or spec.github_runner.replace == "offline" or bool(named.ephemeral)
    return ours and not named.online
