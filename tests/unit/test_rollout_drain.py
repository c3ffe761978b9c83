"""Drain and resume over a host and a GitHub that are dictionaries, on a clock that only sleeping moves."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from runnerctl.core.labels import DRAINED
from runnerctl.core.plan import Record
from runnerctl.errors import ConfigError, DataError, RunnerctlError, TryAgainError, UnavailableError
from runnerctl.rollout.drain import BEGINNING_SECONDS, LAG_SECONDS, Drain
from runnerctl.rollout.ports import Cause, SlotNow, slots_now
from runnerctl.rollout.resume import Resume
from runnerctl.rollout.verdict import refuse

URL = "https://github.com/acme"
HEALTH = Cause("health", "GPU 0: it needs a reset")
FIXED = frozenset({"self-hosted", "linux", "x64"})


class Killed(BaseException):
    """The controller loses its power."""


@dataclass
class World:
    """One host with slots, GitHub's records of them, the time, and what happened in which order."""

    slots: dict[str, SlotNow] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    seconds: float = 0.0
    events: list[str] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    at: dict[float, Callable[[], None]] = field(default_factory=dict)
    killed_after: int | None = None
    comes_online: bool = True
    began: dict[str, float] = field(default_factory=dict)  # when a worker began
    forgets: bool = False  # to stop a slot on hold when its job has ended
    silent: tuple[float, float] = (9e9, 9e9)  # the host does not answer from then until then

    host = "gpu-1"

    def clock(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds
        for due in sorted(moment for moment in self.at if moment <= self.seconds):
            self.at.pop(due)()

    def event(self, text: str) -> None:
        if self.killed_after is not None and len(self.events) >= self.killed_after:
            raise Killed
        self.events.append(text)
        self.moments.append(self.seconds)

    def change(self, name: str, **fields: Any) -> None:
        """A slot is otherwise; one on hold whose job has ended is stopped, as its host does."""
        now = msgspec.structs.replace(self.slots[name], **fields)
        if now.held and not now.busy and now.active and not self.forgets:
            now = msgspec.structs.replace(now, active=False)
        if now.busy:
            assert not any(cause.by == "operator" for cause in now.causes) or self.slots[name].busy, "killed"
        self.slots[name] = now
        record = self.records[name]
        self.records[name] = msgspec.structs.replace(record, online=now.active, busy=now.busy)

    # -- the host

    def observe(self) -> tuple[SlotNow, ...]:
        if self.silent[0] <= self.seconds < self.silent[1]:
            raise UnavailableError("no answer", where=self.host)
        return tuple(self.slots.values())

    def hold(self, slots: Sequence[str], cause: Cause) -> None:
        for name in slots:
            self.event(f"hold {name}")
            others = tuple(each for each in self.slots[name].causes if each.by != cause.by)
            again = cause in self.slots[name].causes
            self.change(name, causes=(*others, cause))
            self.forgets = self.forgets and not again
            self.change(name)

    def release(self, slots: Sequence[str], *, by: str) -> None:
        for name in slots:
            self.event(f"release {name}")
            left = tuple(each for each in self.slots[name].causes if each.by != by)
            self.change(name, causes=left, active=not left)
            if not self.comes_online:
                self.records[name] = msgspec.structs.replace(self.records[name], online=False)

    # -- GitHub, as `Lanes` gives it

    def record(self, now: SlotNow) -> Record | None:
        return self.records.get(now.name)

    def prepare(self, now: SlotNow) -> None:
        assert now

    def cut(self, now: SlotNow, record: Record) -> bool:
        if record.labels == {DRAINED}:
            return False
        self.event(f"cut {now.name}")
        self.records[now.name] = msgspec.structs.replace(self.records[now.name], labels=frozenset({DRAINED}))
        return True

    def restore(self, now: SlotNow, record: Record) -> bool:
        if DRAINED not in record.labels:
            return False
        self.event(f"restore {now.name}")
        self.records[now.name] = msgspec.structs.replace(self.records[now.name], labels=frozenset({"gpu"}))
        return True

    def needs_restore(self, now: SlotNow, record: Record) -> bool:
        assert now
        return DRAINED in record.labels

    def slot(self, name: str) -> str:
        return name


def world(*names: str, **fields: Any) -> World:
    """Slots that run, idle and online."""
    made = World(**fields)
    for number, name in enumerate(names, 1):
        made.slots[name] = SlotNow(name, active=True, busy=False, agent_id=number, url=URL)
        made.records[name] = Record(
            number, f"gpu-1-{name}", online=True, busy=False, labels=frozenset({"gpu"}), read_only=FIXED
        )
    return made


def drain(
    made: World, *, routing: bool = True, quiet: float = 75.0, reason: str | None = "new fans"
) -> Drain:
    lanes: Any = made if routing else None
    return Drain(made, lanes, quiet, reason=reason, clock=made.clock, sleep=made.sleep)


def resume(made: World, *, routing: bool = True) -> Resume:
    lanes: Any = made if routing else None
    return Resume(made, lanes, clock=made.clock, sleep=made.sleep)


def test_an_idle_slot_is_cut_then_quiet_then_held() -> None:
    """In that order, and it is stopped; the second drain changes nothing and takes no time."""
    made = world("a", "b")
    first = drain(made)
    states = first.run(wait=True, seconds=3600)
    assert [(each.slot, each.state, each.routed) for each in states] == [
        ("a", "drained", False),
        ("b", "drained", False),
    ]
    assert made.events == ["cut a", "cut b", "hold a", "hold b"]
    assert 75 <= made.seconds < 90
    assert [action.partition(": ")[2] for action in first.actions].count("stopped") == 2
    again, before = drain(made, reason=None), made.seconds
    assert {each.state for each in again.run(wait=True, seconds=3600)} == {"drained"}
    assert (again.actions, made.seconds) == ([], before)
    assert states[0].reason == "new fans"


def test_a_job_that_arrives_in_the_quiet_period_runs_to_its_end() -> None:
    """It was sent before the cut; the hold waits until it is past its beginning, the stop until its end."""
    made = world("a")
    made.at = {74.0: lambda: made.change("a", busy=True), 500.0: lambda: made.change("a", busy=False)}
    (state,) = drain(made).run(wait=True, seconds=3600)
    assert state.state == "drained"
    assert made.moments[-1] >= 74 + BEGINNING_SECONDS
    assert made.seconds >= 500


def test_what_github_calls_busy_is_waited_for_though_no_worker_is_there() -> None:
    """The listener has just taken a job; a record that says so for minutes is stale."""
    made = world("a")
    made.records["a"] = msgspec.structs.replace(made.records["a"], busy=True)
    made.at = {
        100.0: lambda: made.change("a", busy=True),
        400.0: lambda: made.change("a", busy=False),
    }
    (state,) = drain(made).run(wait=True, seconds=3600)
    assert state.state == "drained"
    assert made.seconds >= 400
    stale = world("a")
    stale.records["a"] = msgspec.structs.replace(stale.records["a"], busy=True)
    assert drain(stale).run(wait=True, seconds=0)[0].state == "drained"
    assert 75 + LAG_SECONDS <= stale.seconds < 75 + LAG_SECONDS + 10


def test_a_job_that_outlives_the_timeout_is_left_alone() -> None:
    """The slot is cut and on hold; its host stops it when the job has ended."""
    made = world("a")
    made.change("a", busy=True)
    states = drain(made).run(wait=True, seconds=60)
    assert states[0].state == "busy"
    assert made.slots["a"].busy
    with pytest.raises(RunnerctlError) as caught:
        refuse("gpu-1", states, seconds=60)
    assert caught.value.exit_code == 75
    assert str(caught.value) == (
        "gpu-1: slot a: still runs a job after 60 s; it is cut from routing and on hold; "
        "it stops when its job has ended"
    )
    refuse("gpu-1", states, seconds=None)


def test_a_host_that_forgets_to_stop_an_idle_slot_is_told_again() -> None:
    """Whatever became of its own unit that waits for the job's end."""
    made = world("a", forgets=True)
    made.change("a", busy=True)
    made.at = {200.0: lambda: made.change("a", busy=False)}
    assert drain(made).run(wait=True, seconds=3600)[0].state == "drained"
    assert made.events == ["cut a", "hold a", "hold a"]


def test_without_routing_only_the_hold_is_set() -> None:
    """Nothing is asked of GitHub, and there is nothing to be quiet for."""
    made = world("a")
    (state,) = drain(made, routing=False).run(wait=True, seconds=60)
    assert (state.state, state.routed, made.events, made.seconds) == ("drained", None, ["hold a"], 0.0)


def test_check_mode_says_it_and_writes_nothing() -> None:
    """The same words as when it is done."""
    made = world("a")
    asked = drain(made)
    asked.predict()
    assert asked.actions == ["slot a: cut from routing", "slot a: put on hold", "slot a: stopped"]
    done = drain(made)
    assert made.events == []
    done.run(wait=True, seconds=60)
    assert done.actions == asked.actions
    back = resume(made)
    back.predict()
    assert len(made.events) == 2
    assert back.actions == [
        "slot a: released",
        "slot a: started",
        "slot a: labels and group restored",
    ]


@pytest.mark.parametrize("step", range(5))
def test_a_drain_that_was_killed_is_taken_up_or_healed(step: int) -> None:
    """After each event in turn: a second drain ends it, and a resume brings everything back."""
    for mend in ("drain", "resume"):
        made = world("a", "b", killed_after=step)
        with contextlib.suppress(Killed):
            drain(made).run(wait=True, seconds=60)
        made.killed_after = None
        if mend == "drain":
            states: Any = drain(made).run(wait=True, seconds=60)
            assert {each.state for each in states} == {"drained"}
            assert all(record.labels == {DRAINED} for record in made.records.values())
        else:
            states = resume(made).run(seconds=60)
            assert {each.state for each in states} == {"running"}
            assert all(record.labels == {"gpu"} and record.online for record in made.records.values())


def test_a_resume_lifts_starts_waits_and_only_then_routes() -> None:
    """The second one changes nothing."""
    made = world("a")
    drain(made).run(wait=True, seconds=60)
    made.events.clear()
    first = resume(made)
    assert [each.state for each in first.run(seconds=60)] == ["running"]
    assert made.events == ["release a", "restore a"]
    again = resume(made)
    assert [each.state for each in again.run(seconds=60)] == ["running"]
    assert again.actions == []


def test_what_the_verdict_holds_gets_no_jobs() -> None:
    """The operator's hold goes, the other one stays, and so does the cut."""
    made = world("a")
    made.slots["a"] = msgspec.structs.replace(made.slots["a"], causes=(HEALTH,), active=False)
    drain(made).run(wait=True, seconds=60)
    states = resume(made).run(seconds=60)
    assert [each.state for each in states] == ["held"]
    assert made.records["a"].labels == {DRAINED}
    with pytest.raises(RunnerctlError, match="is held by health: GPU 0") as caught:
        refuse("gpu-1", states)
    assert caught.value.exit_code == 75


def test_what_does_not_come_online_stays_cut() -> None:
    """Its host says it runs; GitHub does not see it."""
    made = world("a", comes_online=False)
    drain(made).run(wait=True, seconds=60)
    states = resume(made).run(seconds=30)
    assert [each.state for each in states] == ["offline"]
    assert made.records["a"].labels == {DRAINED}
    with pytest.raises(UnavailableError, match="gpu-1: slot a: is not back"):
        refuse("gpu-1", states)


def test_one_that_was_resumed_meanwhile_is_said_so() -> None:
    """Somebody else's word counts; nothing is done again."""
    made = world("a")
    made.change("a", busy=True)
    made.at = {120.0: lambda: made.change("a", causes=())}
    states = drain(made).run(wait=True, seconds=600)
    assert [each.state for each in states] == ["resumed"]
    with pytest.raises(RunnerctlError, match="was resumed meanwhile"):
        refuse("gpu-1", states, seconds=600)


def test_a_converge_in_the_quiet_period_is_noticed_before_the_hold() -> None:
    """It takes the cut for one of a drain that was killed, and repairs it: cut again, and quiet again."""
    made = world("a")
    labels = frozenset({"gpu"})
    made.at = {30.0: lambda: made.records.update(a=msgspec.structs.replace(made.records["a"], labels=labels))}
    (state,) = drain(made).run(wait=True, seconds=60)
    assert state.state == "drained"
    assert made.events == ["cut a", "cut a", "hold a"]
    assert made.seconds >= 150


def test_labels_that_are_restored_again_and_again_end_the_drain() -> None:
    """Nothing is held behind the back of whoever does that."""
    made = world("a")
    restored = msgspec.structs.replace(made.records["a"])
    made.at = {each * 10.0: lambda: made.records.update(a=restored) for each in range(1, 90)}
    with pytest.raises(TryAgainError, match="gpu-1: slot a: its labels are restored again and again"):
        drain(made).run(wait=True, seconds=60)
    assert not made.slots["a"].held


def test_a_network_that_hiccups_ends_no_long_wait() -> None:
    """One that stays away does; the slot is on hold all the same."""
    made = world("a", silent=(200.0, 230.0))
    made.change("a", busy=True)
    made.at = {400.0: lambda: made.change("a", busy=False)}
    assert drain(made).run(wait=True, seconds=3600)[0].state == "drained"
    gone = world("a", silent=(200.0, 9e9))
    gone.change("a", busy=True)
    with pytest.raises(UnavailableError):
        drain(gone).run(wait=True, seconds=3600)
    assert gone.slots["a"].held


def test_a_drain_that_fails_before_the_hold_tells_what_it_has_cut() -> None:
    """Nothing on the host says so, and no job comes to it any more."""
    made, told = world("a", silent=(5.0, 9e9)), list[str]()
    engine = drain(made)
    engine.tell = told.append
    made.at = {5.0: lambda: None}
    with pytest.raises(UnavailableError):
        engine.run(wait=True, seconds=60)
    assert told[-1] == "slot a: cut from routing, perhaps not on hold: drain again, or resume"


def test_a_slot_that_inventory_lost_meanwhile_is_said_to_stay_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, and gets no jobs: the next converge removes it."""
    made = world("a")
    drain(made).run(wait=True, seconds=60)
    monkeypatch.setattr(World, "slot", lambda *_: None)
    monkeypatch.setattr(World, "restore", lambda *_: False)
    (state,) = resume(made).run(seconds=60)
    assert (state.state, state.routed) == ("running", False)
    assert "inventory does not have the slot" in (state.reason or "")


def test_an_unknown_slot_and_a_report_of_another_form_are_refused() -> None:
    """With the slots that are there; a host may report anything."""
    with pytest.raises(ConfigError, match="gpu-1: no such slot: c; slots there: a, b"):
        drain(world("a", "b")).run(["c"], wait=True, seconds=1)
    with pytest.raises(DataError, match="gpu-1: the report of the host cannot be understood"):
        slots_now([{"name": "a", "active": "so so", "busy": False, "causes": []}], where="gpu-1")
    with pytest.raises(DataError):
        slots_now([{"name": "a"}], where="gpu-1")


class Busy(World):
    """A host on which jobs arrive: GitHub says busy first, the worker comes later, and the hook after that.

    Whatever would lose a job is an error here: a listener stopped between taking it and its worker, a worker
    stopped, and a hold that the hook of a beginning job would meet.
    """

    def job(self, name: str, *, taken: float, worker: float, ends: float) -> None:
        """At these moments, in seconds."""
        self.at[taken] = lambda: self._take(name)
        self.at[worker] = lambda: self._work(name, worker)
        self.at[ends] = lambda: self.change(name, busy=False)

    def _take(self, name: str) -> None:
        assert self.slots[name].active, "sent to a runner that was stopped too early"
        self.records[name] = msgspec.structs.replace(self.records[name], busy=True)

    def _work(self, name: str, moment: float) -> None:
        self.began[name] = moment
        self.change(name, busy=True)

    def hold(self, slots: Sequence[str], cause: Cause) -> None:
        for name in slots:
            now = self.slots[name]
            if now.active and not now.held and now.busy:
                assert self.seconds - self.began[name] > 5, "the hook of a job that begins meets the hold"
            assert now.busy or not (now.active and self.records[name].busy), "a job that was taken is lost"
        super().hold(slots, cause)


def test_no_job_is_lost_whenever_it_comes_and_whenever_the_controller_dies() -> None:
    """Jobs sent up to a minute before the cut; a drain that is killed is taken up, and a resume heals."""
    for seed in range(100):
        drain_at_random(random.Random(seed))  # noqa: S311 (repeatable)


def drain_at_random(chance: random.Random) -> None:
    """One life of a host: jobs, a drain, a death, another drain, a resume."""
    made = Busy(began={})
    made.slots, made.records = (each := world("a", "b", "c")).slots, each.records
    for name in made.slots:
        if chance.random() < 0.7:
            taken = chance.uniform(0.0, 60.0)
            worker = taken + chance.uniform(0.1, 5.0)
            made.job(name, taken=taken, worker=worker, ends=worker + chance.choice([2.0, 40.0, 900.0]))
    made.killed_after = chance.choice([None, *range(7)])
    with contextlib.suppress(Killed):
        drain(made).run(wait=True, seconds=5000)
    made.killed_after = None
    drained: Any = drain(made).run(wait=True, seconds=5000)
    assert {each.state for each in drained} == {"drained"}
    made.sleep(61.0)  # whatever was on its way has come by now
    assert {record.labels for record in made.records.values()} == {frozenset({DRAINED})}
    resumed: Any = resume(made).run(seconds=60)
    assert {each.state for each in resumed} == {"running"}
    assert {record.labels for record in made.records.values()} == {frozenset({"gpu"})}
