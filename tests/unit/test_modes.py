"""Modes of slots: what a spec may say, what a plan does, what the pace and the verdict make of failures."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout

from runnerctl.core.checks.slot_ephemeral import SLOT_MINTING
from runnerctl.core.labels import DRAINED
from runnerctl.core.plan import LocalSlot, Record, SlotPlan, plan_slot
from runnerctl.core.snapshot import Minting, SlotReading, SlotState, Unavailable
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.errors import ConfigError
from runnerctl.minting_pace import LONGEST_SECONDS, MOST_STARTS, Pace, delay_seconds
from runnerctl.modes import app_for, with_app

URL = "https://github.com/acme"
FIXED = frozenset({"self-hosted", "linux", "x64"})


def values(mode: str = "ephemeral", **more: Any) -> dict[str, Any]:
    """Inventory with one slot."""
    return {"github_runner_url": URL, "github_runner_slots": [{"name": "a", "mode": mode}], **more}


def spec_of(mode: str = "ephemeral", **more: Any) -> HostSpec:
    """Its spec."""
    spec, problems = host_spec("h1", values(mode, **more))
    assert spec is not None, problems
    return spec


# -- rules -------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"github_runner_url": f"{URL}/widgets"}, "administration: write"),
    ({"github_runner_app_id": "no id"}, "github_runner_app_id: is 'no id'"),
    ({"github_runner_app_installation_id": "x"}, "github_runner_app_installation_id: is 'x'"),
    ({"github_runner_allow_public": ["a/b/c"]}, "github_runner_allow_public: has 'a/b/c'"),
    (
        {"github_runner_slots": [{"name": "a", "mode": "ephemeral", "runner_name": "old"}]},
        "no registration that could be adopted",
    ),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    """Each with one clear line."""
    spec, problems = host_spec("h1", {**values(), **given})
    assert spec is None
    assert said in problems[0].line("h1")


def test_a_repository_needs_a_yes_of_its_own() -> None:
    """The App's right there is wide; an organisation needs none."""
    spec_of(github_runner_url=f"{URL}/widgets", github_runner_allow_repository_app=True)
    spec_of()


# -- plans -------------------------------------------------------------------------------------------------


def record(**changes: Any) -> Record:
    """GitHub's record of the slot."""
    fields = {"id": 7, "name": "h1-a", "online": True, "busy": False, "group_id": 1, "ephemeral": True}
    return Record(**{**fields, "labels": frozenset(), "read_only": FIXED, **changes})


def local(**changes: Any) -> LocalSlot:
    """What the host says of it."""
    own = {"name": "a", "mode": "ephemeral", "agent_id": 7, "agent_name": "h1-a", "url": URL, "active": True}
    return LocalSlot(**{**own, **changes})


def planned(here: LocalSlot, named: Record | None, mode: str = "ephemeral", **more: Any) -> SlotPlan:
    """The plan."""
    spec = spec_of(mode, **more)
    own = named if named is not None and named.id == here.agent_id else None
    return plan_slot(spec, spec.github_runner.slots[0], here, named=named, own=own)


@pytest.mark.parametrize("named", [record(), record(id=8), record(online=False), None])
def test_an_ephemeral_slot_is_registered_by_its_host_alone(named: Record | None) -> None:
    """Whichever record it has at the moment."""
    plan = planned(local(), named)
    assert plan.ephemeral
    assert not plan.changes
    assert plan.error is None


def test_a_fresh_ephemeral_slot_needs_nothing_of_the_controller() -> None:
    """And a ghost of an earlier life is its host's to reap."""
    fresh = LocalSlot("a")
    assert not planned(fresh, None).changes
    assert planned(fresh, record(online=False)).error is None
    assert "belongs to another runner" in str(planned(fresh, record(online=False, ephemeral=False)).error)
    assert "belongs to another runner" in str(planned(fresh, record()).error)


def test_a_record_that_is_there_is_repaired() -> None:
    """Labels that inventory gave meanwhile; what was cut on purpose stays cut."""
    plan = planned(local(), record(), github_runner_labels=["new"])
    assert plan.labels == ("new",)
    cut = record(labels=frozenset({DRAINED}))
    assert planned(local(hold="fans", hold_by=("operator",)), cut).labels is None


@pytest.mark.parametrize(("was", "becomes"), [("persistent", "ephemeral"), ("ephemeral", "persistent")])
def test_a_slot_that_changes_its_mode_leaves_its_registration(was: str, becomes: str) -> None:
    """The old record goes first; a job that runs comes before that."""
    here = local(mode=was)
    named = record(ephemeral=was == "ephemeral")
    plan = planned(here, named, becomes)
    assert plan.leaves is not None
    assert (plan.leaves.id, plan.leaves.mode) == (7, was)
    assert (plan.registration is not None) is (becomes == "persistent")
    assert planned(local(mode=was, busy=True), named, becomes).waits_for == "idle"
    assert planned(here, record(busy=True, ephemeral=was == "ephemeral"), becomes).waits_for == "idle"


# -- the pace ----------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def pace_at(root: Path, clock: Clock) -> Pace:
    """A new process of the slot's."""
    return Pace("a", Layout(root), clock, clock.sleep)


def test_failures_wait_ever_longer_and_never_for_good(tmp_path: Path) -> None:
    """5, 10, 20 ... 300 seconds, over any number of processes; then it works again, at once."""
    clock, waits = Clock(), []
    for _ in range(9):
        pace = pace_at(tmp_path, clock)
        waits.append(pace.wait())
        pace.failed("GitHub is away")
    assert waits == [0, 5, 10, 20, 40, 80, 160, 300, 300]
    last = pace_at(tmp_path, clock)
    last.wait()
    last.succeeded()
    assert not last.path.exists()
    assert pace_at(tmp_path, clock).wait() == 0
    assert max(delay_seconds(count) for count in range(2000)) == LONGEST_SECONDS


def test_a_listener_that_keeps_on_ending_waits_too(tmp_path: Path) -> None:
    """Once is no reason to wait; an end with 0 is a job's, and all is forgotten."""
    clock, waits = Clock(), []
    end = tmp_path / "run/runnerctl/mint/a.end"
    for words in ("exited 7", "exited 7", "killed KILL", "exited 0", "exited 7", ""):
        end.parent.mkdir(parents=True, exist_ok=True)
        end.write_text(words)
        pace = pace_at(tmp_path, clock)
        waits.append(pace.wait())
        pace.succeeded()
        if words == "killed KILL":
            told = json.loads(pace.path.read_text())
            assert told["reason"] == "the listener ended with signal KILL, 3 times in a row"
    assert waits == [0, 5, 10, 0, 0, 0]


def test_no_circle_is_faster_than_this(tmp_path: Path) -> None:
    """However its listeners end: after so many starts in a minute it waits."""
    clock = Clock()
    for _ in range(MOST_STARTS):
        assert pace_at(tmp_path, clock).wait() == 0
    assert pace_at(tmp_path, clock).wait() > 0


def test_a_clock_that_was_set_back_costs_no_more_than_one_wait(tmp_path: Path) -> None:
    """And notes that are damaged cost nothing."""
    clock = Clock()
    pace_at(tmp_path, clock).failed("x")
    clock.now -= 86400
    assert pace_at(tmp_path, clock).wait() <= LONGEST_SECONDS
    pace_at(tmp_path, clock).path.write_text("[1")
    assert pace_at(tmp_path, clock).wait() == 0


# -- the verdict -------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
GONE = Unavailable("not asked")
PACES: list[tuple[Minting | None, str, str]] = [
    (None, "OK", "gets its registrations"),
    (Minting(reason="the listener ended with status 1", ends=1), "OK", "gets its registrations"),
    (Minting(reason="503", failures=1, since=NOW.timestamp()), "WARNING", "takes no job: 503 (1 time)"),
    (Minting(reason="503", failures=4, since=NOW.timestamp()), "CRITICAL", "(4 times in a row)"),
    (Minting(reason="503", failures=2, since=NOW.timestamp() - 900), "CRITICAL", "503"),
]


@pytest.mark.parametrize(("minting", "status", "summary"), PACES)
def test_what_keeps_a_slot_from_its_registration_is_a_finding(
    minting: Minting | None, status: str, summary: str
) -> None:
    """With the reason; nothing is said of a slot on hold, or of one that is registered for good."""
    slot = SlotReading("a", GONE, GONE, GONE, GONE, state=SlotState("a", mode="ephemeral"))
    found = list(SLOT_MINTING.judge(slot, minting, None, NOW, spec=None))
    assert [each.status for each in found] == [status]
    assert summary in found[0].summary
    assert not list(SLOT_MINTING.judge(slot, minting, "fans", NOW, spec=None))


# -- the App -----------------------------------------------------------------------------------------------


def test_an_ephemeral_slot_needs_an_app_and_its_key(tmp_path: Path) -> None:
    """Of inventory, or of the controller's environment; said before anything is changed."""
    assert app_for(spec_of("persistent"), {}) is None
    with pytest.raises(
        ConfigError, match=r"h1: .*github_runner_app_id is not set; set it, or RUNNERCTL_APP_ID"
    ):
        app_for(spec_of(), {})
    with pytest.raises(ConfigError, match="github_runner_app_key_file is not set"):
        app_for(spec_of(github_runner_app_id="4711"), {})
    key = tmp_path / "key.pem"
    env = {"RUNNERCTL_APP_ID": "4711", "RUNNERCTL_APP_KEY_FILE": str(key)}
    with pytest.raises(ConfigError, match="cannot read the file"):
        app_for(spec_of(), env)
    key.write_text("no key")
    with pytest.raises(ConfigError, match="open to every user"):
        key.chmod(0o644)
        app_for(spec_of(), env)
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="no RSA private key"):
        app_for(spec_of(), env)


def test_the_inventorys_app_is_a_credential_too() -> None:
    """Where the controller has no App of its own."""
    given = {"github_runner_app_id": "4711", "github_runner_app_key_file": "/k"}
    made = with_app({"X": "1"}, spec_of(**given))
    assert made == {"X": "1", "RUNNERCTL_APP_ID": "4711", "RUNNERCTL_APP_KEY_FILE": "/k"}
    own = {"RUNNERCTL_APP_ID": "1"}
    assert with_app(own, spec_of(**given)) == own
