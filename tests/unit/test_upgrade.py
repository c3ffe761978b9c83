"""One host's upgrade, step by step and through every accident, on a model in virtual time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.release_notes import ReleaseNotes
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import prune
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.runner_release import kept_release

from runnerctl.core.spec import host_spec
from runnerctl.github.models import Deprecation
from runnerctl.rollout.ports import Cause
from runnerctl.rollout.version_plan import expiry
from tests.unit.upgrade_model import NEW, OLD, PACE, Killed, Model, ModelSlot, dies_at, fails


def two(**more: Any) -> Model:
    """A host with two slots; the first one runs a job for ten minutes."""
    return Model(ModelSlot("a", job_ends=600.0), ModelSlot("b"), **more)


def test_the_idle_slot_goes_alone_and_first_and_the_job_of_the_other_is_waited_for() -> None:
    """Nothing is cut before the release is there; routing comes back last."""
    model = two()
    results = model.run()
    assert model.well(NEW) == []
    assert {each.result for each in results.values()} == {"upgraded"}
    assert model.log == [
        *("install 2.337.0 True", "take", "hold b", "begin", "switch b 2.337.0", "release b", "restore b"),
        *("finish", "take", "hold a", "begin", "switch a 2.337.0", "release a", "restore a", "finish"),
    ]
    assert results["a"].seconds > 500 - 75
    model.log.clear()
    assert {each.result for each in model.run().values()} == {"current"}
    assert model.log == []


def test_a_job_that_begins_as_the_quiet_period_ends_is_let_in_first() -> None:
    """A hold fails a job that has not passed the hook; with no time to wait for that the slot stays."""
    model = Model(ModelSlot("a", job_begins=74.0, job_ends=500.0))
    assert model.run()["a"].result == "upgraded"
    assert model.well(NEW) == [] and model.now > 500
    model = Model(ModelSlot("a", job_begins=74.0, job_ends=500.0))
    result = model.run(pace=msgspec.structs.replace(PACE, wait=0.0))["a"]
    assert (result.result, result.note) == ("busy", "a job was about to begin")
    assert model.well(OLD) == [] and model.slots["a"].active


@pytest.mark.parametrize("always", [False, True])
def test_a_converge_in_the_quiet_period_is_noticed_before_the_hold(always: bool) -> None:
    """It takes the cut for one of a run that was killed: cut again, and quiet again, but not for ever."""
    model = Model(ModelSlot("a", job_begins=151.0, job_ends=190.0))

    def converge(operation: str) -> None:
        if operation == "observe" and (always or 60 < model.now < 100) and not model.slots["a"].causes:
            model.slots["a"].cut = False

    model.before = converge
    result = model.run()["a"]
    assert result.result == ("failed" if always else "upgraded")
    assert ("restored again and again" in result.note) == always
    assert [each for each in model.log if each == "take"] == ["take"] * (5 if always else 2)
    assert model.well(OLD if always else NEW) == []


def test_a_job_that_outlasts_the_timeout_leaves_its_slot_as_it_was() -> None:
    """Given back: no hold, routed, on the old release; the next run takes it."""
    model = Model(ModelSlot("a", job_ends=9000.0))
    assert model.run()["a"].result == "busy"
    assert model.well(OLD) == []
    assert model.slots["a"].job_ends > model.now
    model.now = 9000.0
    assert model.run()["a"].result == "upgraded"


@pytest.mark.parametrize("how", ["exits", "refused", "silent"])
def test_a_release_that_does_not_work_goes_back_and_is_not_tried_again(how: str) -> None:
    """One slot tries it; the other is never touched; --retry tries again."""
    model = two(bad={NEW: how})
    results = model.run()
    assert (results["b"].result, results["b"].now, results["a"].result) == ("rolled back", OLD, "failed")
    assert model.well(OLD) == []
    assert [each.version for each in model.remembered.refused] == [NEW]
    assert "take" not in model.log[model.log.index("refuse") :]
    assert {each.result for each in model.run().values()} == {"refused"}
    model.bad = {}
    assert {each.result for each in model.run(retry=True).values()} == {"upgraded"}
    assert model.remembered.refused == ()
    assert model.well(NEW) == []


def test_when_the_old_release_does_not_work_either_the_slot_stays_held_and_cut() -> None:
    """And the line says what to do."""
    model = Model(ModelSlot("a"), bad={NEW: "exits", OLD: "exits"})
    model.slots["a"].began = 10**9  # it runs as long as nobody stops it
    result = model.run()["a"]
    assert (result.result, model.slots["a"].cut, bool(model.slots["a"].causes)) == ("stranded", True, True)
    assert "CRITICAL" in result.note
    assert "--retry" in result.note


def test_a_runner_that_was_offline_before_blames_no_release() -> None:
    """Its network is down: the release is neither rolled back nor refused, and others are upgraded first."""
    model = Model(ModelSlot("a"), ModelSlot("b"))
    model.dead = {"a"}
    results = model.run()
    assert (results["a"].result, results["b"].result) == ("failed", "upgraded")
    assert "was offline before" in results["a"].note
    assert model.remembered.refused == ()
    assert not model.slots["a"].causes


def test_a_silent_github_blames_no_release() -> None:
    """Nobody can judge: the slot runs the new release, and the next run proves it."""
    model = Model(ModelSlot("a"))
    model.before = lambda operation: (
        fails("look")(operation) if any(each.startswith("release") for each in model.log) else None
    )
    result = model.run()["a"]
    assert result.result == "failed"
    assert "GitHub cannot be asked" in result.note
    assert model.remembered.refused == ()
    model.before = lambda _: None
    model.log.clear()
    assert model.run()["a"].result == "upgraded"
    assert model.well(NEW) == []
    assert not any(each.startswith(("hold", "switch")) for each in model.log)


def test_a_server_that_tells_no_version_is_answered_by_the_host() -> None:
    """GitHub Enterprise Server; the result says so."""
    model = Model(ModelSlot("a"))
    model.blind = True
    assert "host's word" in model.run()["a"].note
    assert model.well(NEW) == []


def test_the_breaker_takes_the_slots_one_by_one() -> None:
    """And waits for those that others have taken."""
    model = Model(*(ModelSlot(name) for name in "abcd"), most=1)
    assert {each.result for each in model.run().values()} == {"upgraded"}
    assert model.most_cut == 1
    model = Model(ModelSlot("a"), most=0)
    assert model.run()["a"].result == "busy"
    assert model.well(OLD) == []


def test_a_slot_that_others_hold_is_switched_and_stays_stopped() -> None:
    """Its routing is theirs too; whoever resumes it is upgraded, and the next run proves it."""
    model = Model(ModelSlot("a", active=False, cut=True, causes=[Cause("operator", "fans")]), ModelSlot("b"))
    result = model.run()["a"]
    assert (result.result, result.note) == ("upgraded", "stays on hold: fans")
    slot = model.slots["a"]
    assert (slot.version, slot.active, slot.cut) == (NEW, False, True)
    model.release(["a"], by="operator")
    model.slots["a"].cut = False
    assert model.run()["a"].result == "upgraded"
    assert model.well(NEW) == []


@pytest.mark.parametrize("operation", ["hold", "begin"])
def test_an_error_before_the_switch_gives_the_slot_back(operation: str) -> None:
    """A host that cannot do it keeps its runner working."""
    model = Model(ModelSlot("a"))
    model.before = fails(operation)
    assert model.run()["a"].result == "failed"
    assert model.well(OLD) == []


@pytest.mark.parametrize(("times", "result"), [(1, "upgraded"), (2, "failed")])
def test_a_network_that_fails_at_the_start_blames_no_release(times: int, result: str) -> None:
    """The host is asked what came of it: a slot that is still held was not started, and tells nothing."""
    model = Model(ModelSlot("a"))
    model.before = fails("release", times=times)
    assert model.run()["a"].result == result
    assert model.remembered.refused == ()
    assert model.run()["a"].result in ("upgraded", "current")
    assert model.well(NEW) == []


def test_a_slot_that_is_held_before_its_release_is_proven_is_judged_later() -> None:
    """Whoever resumes it is the first to try it: then it goes back as any other would."""
    model = Model(ModelSlot("a"), bad={NEW: "silent"})

    def hold(operation: str) -> None:
        slot = model.slots["a"]
        if operation == "look" and slot.version == NEW and not slot.causes and not model.remembered.refused:
            slot.causes = [Cause("operator", "fans")]

    model.before = hold
    assert model.run()["a"].note == "on hold: fans"
    model.before = lambda _: None
    model.refuse(NEW, "it failed elsewhere on this host")
    model.release(["a"], by="operator")
    assert model.run()["a"].result == "rolled back"
    assert model.well(OLD) == []


def test_a_note_of_long_ago_is_no_release_to_go_back_to() -> None:
    """The slot ran another release since, and was online with it."""
    model = Model(ModelSlot("a"), bad={NEW: "exits"})
    model.begin({"a": "2.300.0"})
    assert model.run()["a"].now == OLD
    assert model.well(OLD) == []


@pytest.mark.parametrize("how", ["", "exits", "silent"])
def test_a_controller_that_dies_anywhere_is_carried_on(how: str) -> None:
    """Before every single operation, also while it goes back: the next run ends well, and no job is lost."""
    wanted = OLD if how else NEW
    for number in range(400):
        model = Model(ModelSlot("a", job_ends=100.0), ModelSlot("b"), bad={NEW: how} if how else {})
        model.before = dies_at(number)
        try:
            model.run()
        except Killed:
            model.before = lambda _: None
            model.run()
            model.run()
            assert model.well(wanted) == [], f"killed before operation {number}"
        else:
            assert number > 20
            return
    raise AssertionError("it never came to its end")


def test_a_refused_release_leaves_no_slot_on_hold() -> None:
    """What a killed run held or cut for it goes on working, and the plan says that it is refused."""
    held = ModelSlot("a", active=False, cut=True, causes=[Cause("upgrade", "x")])
    model = Model(held, ModelSlot("b", cut=True))
    model.refuse(NEW, "exits")
    assert {each.result for each in model.plan()} == {"refused"}
    assert {each.result for each in model.run().values()} == {"refused"}
    assert model.well(OLD) == []


def test_a_plan_writes_nothing() -> None:
    """What would go where."""
    model = two()
    assert [(row.slot, row.was, row.now, row.result, row.busy) for row in model.plan()] == [
        ("a", OLD, NEW, "would upgrade", True),
        ("b", OLD, NEW, "would upgrade", False),
    ]
    assert model.log == []


# -- notes, and which release ------------------------------------------------------------------------------


def test_a_hosts_notes_survive_damage_and_repetition(tmp_path: Path) -> None:
    """Atomic files; what is no note is none; what changes nothing writes nothing."""
    notes = ReleaseNotes(tmp_path / "state", run=tmp_path / "run", clock=lambda: 0.0)
    assert notes.read() == {"refused": [], "previous": {}}
    assert notes.begin({"a": OLD})
    assert not notes.begin({"a": NEW})
    assert notes.refuse(NEW, "exits\nat once")
    entry = {"version": NEW, "reason": "exits at once", "refused_at": "1970-01-01T00:00:00Z"}
    assert notes.read() == {"refused": [entry], "previous": {"a": OLD}}
    assert notes.finish(["a"])
    assert not notes.previous_file.exists()
    assert notes.allow(NEW)
    assert not notes.allow(NEW)
    notes.refused_file.write_text('{"releases": [{"version": "../x"}, 7]}')
    notes.previous_file.write_text("[")
    assert notes.read() == {"refused": [], "previous": {}}


def test_a_release_that_a_slot_needs_is_not_pruned(tmp_path: Path) -> None:
    """What a stopped slot's unit names, and what a slot may go back to."""
    folder, units = tmp_path / "releases", tmp_path / "units"
    for version in ("2.1.0", "2.2.0", "2.3.0", "2.4.0", "2.5.0"):
        (folder / version).mkdir(parents=True)
    drop_in = units / "gha-runner@a.service.d" / "10-slot.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(
        "[Service]\nBindReadOnlyPaths=/opt/actions-runner/2.1.0/bin:/var/lib/gha-runner/a/bin\n"
    )
    (tmp_path / "proc").mkdir()
    gone = prune(folder, wanted="2.5.0", proc=tmp_path / "proc", units=units, kept=["2.2.0"])
    assert gone == ["2.3.0"]


def test_provision_keeps_what_is_installed_instead_of_a_refused_release() -> None:
    """A pin is obeyed, and a host that has nothing else takes it."""
    url = {"github_runner_url": "https://github.com/acme"}
    spec = host_spec("h1", url)[0]
    pinned = host_spec("h1", {**url, "github_runner_version": NEW})[0]
    assert spec is not None
    assert pinned is not None
    report = {"releases": ["2.9.0", OLD, NEW], "refused": [{"version": NEW, "reason": "exits"}]}
    kept = kept_release(spec, NEW, report)
    assert kept is not None
    assert kept[0] == OLD
    assert "rolled back here (exits)" in kept[1]
    assert kept_release(spec, OLD, report) is None
    assert kept_release(pinned, NEW, report) is None
    assert kept_release(spec, NEW, {**report, "releases": [NEW]}) is None


def test_when_a_version_expires() -> None:
    """GitHub's day; no end where it names none; 30 days behind the next release when it does not answer."""
    now = datetime(2026, 11, 22, tzinfo=timezone.utc)
    told = expiry(OLD, Deprecation(OLD, runtime_deprecates_at=now + timedelta(days=9, hours=1)), {})
    assert (told.days_left(now), told.text(now)) == (9, "9")
    assert expiry(NEW, Deprecation(NEW), {}).text(now) == "no end"
    releases = {OLD: now - timedelta(days=60), NEW: now - timedelta(days=20)}
    assert expiry(OLD, None, releases, note="why").text(now) == "about 10"
    assert expiry(NEW, None, releases).text(now) == "no end"
    assert expiry("2.1.0", None, {}).text(now) == "unknown"
