"""Plans: what must happen to a registration, and what must not."""

from __future__ import annotations

from typing import Any

import pytest

from runnerctl.core.labels import DRAINED
from runnerctl.core.plan import LocalSlot, Record, SlotPlan, plan_slot
from runnerctl.core.spec import HostSpec, Slot, host_spec

URL = "https://github.com/acme"
FIXED = frozenset({"self-hosted", "linux", "x64"})


def _record(**changes: Any) -> Record:
    fields: dict[str, Any] = {"id": 7, "name": "h1-a", "online": True, "busy": False, "group_id": 1}
    return Record(**{**fields, "labels": frozenset({"gpu"}), "read_only": FIXED, **changes})


def _local(**changes: Any) -> LocalSlot:
    return LocalSlot(
        **{"name": "a", "agent_id": 7, "agent_name": "h1-a", "url": URL, "active": True, **changes}
    )


def _plan(local: LocalSlot, **how: Any) -> SlotPlan:
    variables = how.pop("variables", {})
    slots = [{"name": "a", "gpus": ["GPU-12345678"]}]
    spec, problems = host_spec("h1", {"github_runner_url": URL, "github_runner_slots": slots, **variables})
    assert spec is not None, problems
    slot: Slot = spec.github_runner.slots[0]
    named = how.pop("named", None)
    own = how.pop("own", named if named is not None and named.id == local.agent_id else None)
    assert isinstance(spec, HostSpec)
    return plan_slot(spec, slot, local, named=named, own=own, **how)


def test_converged_means_nothing_to_do() -> None:
    """Ours, with the right labels: no write."""
    plan = _plan(_local(), named=_record())
    assert not plan.changes
    assert plan.online


def test_label_order_and_case_are_no_difference() -> None:
    """The peers' classic false difference."""
    record = _record(labels=frozenset({"a100", "gpu"}))
    assert not _plan(_local(), named=record, variables={"github_runner_labels": ["A100"]}).changes


def test_labels_are_repaired_in_both_directions() -> None:
    """What is missing is added, what was added by hand is taken away."""
    plan = _plan(_local(), named=_record(labels=frozenset({"by-hand"})))
    assert plan.labels == ("gpu",)
    assert plan.reasons == ("labels +gpu -by-hand",)
    assert plan.registration is None


def test_a_busy_slots_labels_are_repaired_too() -> None:
    """That needs no restart."""
    plan = _plan(_local(busy=True), named=_record(busy=True, labels=frozenset()))
    assert plan.labels == ("gpu",)


def test_a_wrong_group_is_moved_not_registered_again() -> None:
    """The API moves a runner between groups."""
    plan = _plan(_local(), named=_record(group_id=1), group_id=5)
    assert plan.move_to_group == 5
    assert plan.registration is None


def test_a_new_slot_is_registered() -> None:
    """Neither here nor there."""
    plan = _plan(LocalSlot("a"))
    assert plan.registration is not None
    assert not plan.registration.replace


def test_a_record_deleted_on_github_is_made_again() -> None:
    """The local files alone are worth nothing."""
    plan = _plan(_local())
    assert plan.registration is not None
    assert "gone from GitHub" in plan.reasons[0]


@pytest.mark.parametrize("online", [True, False])
def test_a_foreign_record_is_an_error(*, online: bool) -> None:
    """Another machine has the name: nothing is touched."""
    plan = _plan(LocalSlot("a"), named=_record(online=online))
    assert plan.error is not None
    assert "belongs to another runner (id 7" in plan.error
    assert ("github_runner_replace: offline" in plan.error) is not online


def test_a_reinstalled_host_takes_its_name_back_on_request() -> None:
    """Only an offline record, only when inventory says so."""
    offline = {"github_runner_replace": "offline"}
    plan = _plan(LocalSlot("a"), named=_record(online=False), variables=offline)
    assert plan.registration is not None
    assert plan.registration.replace
    assert _plan(LocalSlot("a"), named=_record(online=True), variables=offline).error


def test_a_registration_that_was_cut_off_is_taken_up_again() -> None:
    """We noted that we began: the offline record of that name is ours."""
    plan = _plan(LocalSlot("a", registering=True), named=_record(online=False))
    assert plan.registration is not None
    assert plan.registration.replace


def test_a_slot_that_moves_leaves_no_ghost() -> None:
    """Another URL: the old record goes first."""
    plan = _plan(_local(url="https://github.com/other"))
    assert plan.registration is not None
    assert (plan.registration.delete, plan.registration.delete_url) == (7, "https://github.com/other")


def test_a_renamed_slot_leaves_no_ghost() -> None:
    """Another name at the same URL."""
    plan = _plan(_local(agent_name="old-a"), own=_record(name="old-a"))
    assert plan.registration is not None
    assert plan.registration.delete == 7


def test_default_labels_change_only_with_a_new_registration() -> None:
    """GitHub's own labels cannot be edited."""
    plan = _plan(_local(), named=_record(), variables={"github_runner_no_default_labels": True})
    assert plan.registration is not None
    assert plan.registration.delete == 7
    assert not plan.registration.replace


def test_a_busy_slot_is_not_registered_again() -> None:
    """It waits; the job goes on."""
    plan = _plan(_local(busy=True, url="https://github.com/other"))
    assert plan.registration is None
    assert plan.waits_for == "idle"


def test_a_runner_without_credential_files_is_registered_again() -> None:
    """The record is ours by its id, and nothing on the host can use it any more."""
    plan = _plan(_local(incomplete=True, active=False), named=_record(online=False))
    assert plan.registration is not None
    assert plan.registration.delete == 7
    assert _plan(_local(incomplete=True, busy=True), named=_record(busy=True)).waits_for == "idle"


def _adopted(**changes: Any) -> LocalSlot:
    return _local(agent_name="build-box", adopted=True, **changes)


def test_an_adopted_runner_keeps_its_name_and_gets_the_labels() -> None:
    """Its record is ours by id, under the name it had: repaired, never registered again."""
    plan = _plan(_adopted(), own=_record(name="build-box", labels=frozenset({"old"})))
    assert plan.registration is None
    assert plan.labels == ("gpu",)
    assert _plan(_adopted(active=False), own=_record(name="build-box")).registration is None


def test_an_adopted_runner_that_was_sent_an_update_is_registered_again() -> None:
    """A slot's code is read-only: without that the listener would end with 3 for ever."""
    plan = _plan(_adopted(active=False, exit_status=3), own=_record(name="build-box", online=False))
    assert plan.registration is not None
    assert plan.registration.delete == 7
    named = {"slots": [{"name": "a", "gpus": ["GPU-12345678"], "runner_name": "build-box"}]}
    variables = {f"github_runner_{key}": value for key, value in named.items()}
    record = _record(name="build-box")
    plan = _plan(_adopted(exit_status=3), named=record, own=record, variables=variables)
    assert plan.registration is not None
    assert (plan.runner_name, plan.registration.delete) == ("build-box", 7)


def test_an_adopted_runner_that_is_drained_stays_so() -> None:
    """Its labels were taken away on purpose."""
    cut = _record(name="build-box", labels=frozenset({"runnerctl-drained"}))
    assert not _plan(_adopted(hold="a new disk", hold_by=("operator",)), own=cut).changes


def test_only_an_adopted_slot_may_bear_another_name() -> None:
    """A renamed record is registered again; one that an adopted runner only claims is nobody's to delete."""
    assert _plan(_local(agent_name="build-box"), own=_record(name="build-box")).registration is not None
    forged = _plan(_adopted(), own=_record(name="somebody"))
    assert not forged.changes
    assert "slot a adopted build-box, and record 7 is somebody" in (forged.error or "")


@pytest.mark.parametrize(
    ("held_by", "stays"),
    [(("operator",), True), (("health", "upgrade"), True), (("health",), False), ((), False)],
)
def test_a_slot_that_was_cut_from_routing_stays_so_while_it_is_drained(
    held_by: tuple[str, ...], stays: bool
) -> None:
    """Labels and group are no drift then; the mark alone is left of a drain that was killed."""
    cut = _record(labels=frozenset({DRAINED}), group_id=9, online=False)
    plan = _plan(_local(active=False, hold_by=held_by), named=cut, group_id=5)
    assert plan.changes is not stays
    assert plan.labels == (None if stays else ("gpu",))
    assert plan.move_to_group == (None if stays else 5)
