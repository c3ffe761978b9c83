"""The ladder: from states of GPUs to what is done about them, round by round and over days."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import pytest

from runnerctl.core.driver_readings import GpuEvent, GpuHistory
from runnerctl.core.ladder import GpuState, Plan, SlotState, decide
from runnerctl.core.sections import Runnerctl
from runnerctl.core.xid import Moment
from runnerctl.core.xid_table import Action

A, B = "GPU-a", "GPU-b"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
BOOT = "b0"
LIMITS = Runnerctl()
BOLD = Runnerctl(health_reboot=True)


def gpu(uuid: str = A, action: Action | None = None, **more: object) -> GpuState:
    """A GPU: clean without an action, sick with one."""
    state = GpuState(uuid, "sick" if action else "clean", action or "INFO", "it is ill", f"GPU {uuid[-1]}")
    return replace(state, **{"together": frozenset({uuid}), **more})  # type: ignore[arg-type]


def slot(name: str = "a", *gpus: str, **more: object) -> SlotState:
    """A running slot that nobody holds."""
    return replace(SlotState(name, gpus), **more)  # type: ignore[arg-type]


def stopped(name: str, *gpus: str, by_health: tuple[str, ...] | None = None) -> SlotState:
    """A slot on hold that has run dry."""
    return SlotState(name, gpus, running=False, held=True, by_health=by_health)


def event(kind: str, *, hours: float = 1, uuid: str = A, boot: str = "b-1") -> GpuEvent:
    """Something that was done so many hours ago, in an earlier boot unless told."""
    return GpuEvent(NOW - timedelta(hours=hours), boot, kind, uuid)  # type: ignore[arg-type]


def plan(
    gpus: Sequence[GpuState],
    slots: Sequence[SlotState],
    *events: GpuEvent,
    limits: Runnerctl = LIMITS,
    clean: dict[str, int] | None = None,
) -> Plan:
    """One round."""
    history = GpuHistory(events, clean or {})
    return decide(gpus, slots, history=history, limits=limits, moment=Moment(NOW, BOOT))


def kinds(made: Plan) -> list[str]:
    """What it does, as words."""
    done = [each for each in made.decisions if each.kind != "wait"]
    return [f"{each.kind} {each.slot or ','.join(each.gpus)}" for each in done]


# -- one round ---------------------------------------------------------------------------------------------


def test_critical_holds_the_slots_of_that_gpu_alone() -> None:
    """A neighbour and a slot without GPUs go on; who is held already is not held again."""
    slots = [slot("a", A), slot("ab", A, B), slot("b", B), slot("c")]
    assert kinds(plan([gpu(A, "WARN"), gpu(B)], slots)) == ["hold a", "hold ab"]
    slots[0] = replace(slots[0], held=True, by_health=(A,))
    assert kinds(plan([gpu(A, "WARN"), gpu(B)], slots)) == ["hold ab"]


def test_a_slot_held_by_an_operator_gets_the_verdicts_cause_as_well() -> None:
    """Else his resume would start it on a sick GPU."""
    assert kinds(plan([gpu(A, "WARN")], [stopped("a", A)])) == ["hold a"]


def test_a_second_gpu_that_falls_ill_is_added_to_the_hold() -> None:
    """The reason names both."""
    made = plan([gpu(A, "WARN"), gpu(B, "WARN")], [stopped("ab", A, B, by_health=(A,))])
    assert kinds(made) == ["hold ab"]
    assert made.decisions[0].gpus == (A, B)
    assert "GPU a" in made.decisions[0].reason
    assert "GPU b" in made.decisions[0].reason


def test_unknown_does_nothing_at_all() -> None:
    """It neither holds, nor mends, nor counts, nor releases."""
    unknown = replace(gpu(A), status="unknown")
    assert kinds(plan([unknown], [slot("a", A)])) == []
    made = plan([unknown], [stopped("a", A, by_health=(A,))], clean={A: 3})
    assert kinds(made) == []
    assert made.clean_probes == {A: 3}


RESETS: list[tuple[str, dict[str, object], SlotState, bool]] = [
    ("idle and stopped", {}, stopped("a", A, by_health=(A,)), True),
    ("a slot that runs", {}, slot("a", A, held=True, by_health=(A,)), False),
    ("a process on it", {"users": "4711 (python)"}, stopped("a", A, by_health=(A,)), False),
    ("who uses it is not known", {"users": None}, stopped("a", A, by_health=(A,)), False),
    ("stopped, but anybody may start it", {}, slot("a", A, running=False), False),
]


@pytest.mark.parametrize(
    ("state", "stands", "resets"), [case[1:] for case in RESETS], ids=[case[0] for case in RESETS]
)
def test_a_reset_needs_a_gpu_that_nobody_uses_or_can_use(
    state: dict[str, object], stands: SlotState, resets: bool
) -> None:
    """No process, and every slot of it on hold and stopped."""
    made = plan([gpu(A, "RESET", **state)], [stands])
    assert ("reset GPU-a" in kinds(made)) is resets


def test_a_reset_that_touches_neighbours_holds_and_awaits_them() -> None:
    """GPUs that NVLink joins are reset together: their slots run dry first, their processes end first."""
    both = frozenset({A, B})
    sick, well = gpu(A, "RESET", together=both), gpu(B)
    first = stopped("a", A, by_health=(A,))
    assert kinds(plan([sick, well], [first, slot("b", B), slot("c")])) == ["hold b"]
    busy = slot("b", B, held=True, by_health=())
    assert kinds(plan([sick, well], [first, busy])) == []
    dry = stopped("b", B, by_health=())
    assert kinds(plan([sick, replace(well, users="4711")], [first, dry])) == []
    assert kinds(plan([sick, well], [first, dry], clean={B: 3})) == ["reset GPU-a"]
    made = plan([gpu(A), well], [first, dry], clean={B: 3})
    assert kinds(made) == ["release b"], "it was never ill: it need not wait for its neighbour"


def test_what_a_reset_waits_for_is_said() -> None:
    """Else a held slot would be a riddle: whose process is it?"""
    made = plan([gpu(A, "RESET", users="4711 (python)")], [stopped("a", A, by_health=(A,))])
    assert [each.reason for each in made.decisions] == [
        "GPU a is to be reset, and GPU a is in use by 4711 (python)"
    ]


def test_gpus_that_can_only_be_reset_together_are() -> None:
    """NVLink before Ampere: one command for all of them."""
    both = frozenset({A, B})
    dry = [stopped("a", A, by_health=(A,)), stopped("b", B, by_health=())]
    made = plan([gpu(A, "RESET", together=both, alone=False), gpu(B)], dry)
    assert kinds(made) == ["reset GPU-a,GPU-b"]


def test_a_reboot_waits_for_every_slot_of_the_host() -> None:
    """Also for those without GPUs; then it comes once."""
    sick, first = gpu(A, "REBOOT"), stopped("a", A, by_health=(A,))
    assert kinds(plan([sick], [first, slot("c")], limits=BOLD)) == ["hold c"]
    dry = stopped("c", by_health=())
    assert kinds(plan([sick], [first, dry], limits=BOLD)) == ["reboot GPU-a"]
    told = event("reboot", hours=0.1, boot=BOOT)
    assert kinds(plan([sick], [first, dry], told, limits=BOLD)) == []
    late = event("reboot", hours=1, boot=BOOT)
    assert "take_out GPU-a" in kinds(plan([sick], [first, dry], late, limits=BOLD))


def test_after_the_reboot_a_slot_without_gpus_is_released_at_once() -> None:
    """Its hold was for the reboot; the GPU's own slot needs its clean verdicts."""
    slots = [stopped("a", A, by_health=(A,)), stopped("c", by_health=())]
    made = plan([gpu(A)], slots, event("reboot", hours=0.1), limits=BOLD)
    assert kinds(made) == ["release c"]
    assert made.clean_probes == {A: 1}


def test_after_the_reboot_a_gpu_that_is_still_ill_lets_the_others_go_on() -> None:
    """The day's reboot is spent: the GPU is out, the rest of the host works."""
    slots = [stopped("a", A, by_health=(A,)), stopped("c", by_health=())]
    made = plan([gpu(A, "REBOOT")], slots, event("reboot", hours=0.1), limits=BOLD)
    assert kinds(made) == ["take_out GPU-a", "release c"]


def test_what_the_spec_forbids_is_left_to_a_human_and_not_taken_out() -> None:
    """The hold says what to do; it ends by itself when that was done."""
    made = plan([gpu(A, "REBOOT")], [slot("a", A)])
    assert kinds(made) == ["hold a"]
    assert "runnerctl_health_reboot forbids a reboot; boot the host by hand" in made.decisions[
        0
    ].reason.replace(")", "")
    nothing = Runnerctl(health_reset=False)
    made = plan([gpu(A, "RESET")], [slot("a", A), slot("c")], limits=nothing)
    assert kinds(made) == ["hold a"]
    assert "runnerctl_health_reset forbids a reset" in made.decisions[0].reason


def test_where_resets_are_forbidden_and_reboots_allowed_the_host_is_booted() -> None:
    """A reboot resets the GPU as well."""
    limits = Runnerctl(health_reset=False, health_reboot=True)
    dry = stopped("a", A, by_health=(A,))
    assert kinds(plan([gpu(A, "RESET")], [dry], limits=limits)) == ["reboot GPU-a"]


CLIMBS: list[tuple[str, Action, list[GpuEvent], Runnerctl, str]] = [
    ("nothing yet", "RESET", [], LIMITS, "reset"),
    ("one reset did not help", "RESET", [event("reset")], LIMITS, "reset"),
    ("the day's resets are spent", "RESET", [event("reset", hours=2), event("reset")], BOLD, "reboot"),
    ("spent, and no reboot allowed", "RESET", [event("reset", hours=2), event("reset")], LIMITS, "take_out"),
    ("spent, but days ago", "RESET", [event("reset", hours=25), event("reset", hours=26)], LIMITS, "reset"),
    ("another GPU's", "RESET", [event("reset", uuid=B), event("reset", uuid=B)], LIMITS, "reset"),
    ("the reset failed", "RESET", [event("reset"), event("reset_failed")], BOLD, "reboot"),
    ("ill again after a reset", "RESET", [event("reset", hours=3), event("released")], BOLD, "reboot"),
    (
        "ill again, days later",
        "RESET",
        [event("reset", hours=50), event("released", hours=49)],
        BOLD,
        "reset",
    ),
    ("released by a human, not treated", "RESET", [event("released")], BOLD, "reset"),
    ("the day's reboot is spent", "REBOOT", [event("reboot")], BOLD, "take_out"),
    ("of another GPU, but the same host", "REBOOT", [event("reboot", uuid=B)], BOLD, "take_out"),
    ("booted in vain long ago", "REBOOT", [event("reboot", hours=30)], BOLD, "reboot"),
    ("ill again after a reboot", "RESET", [event("reboot", hours=3), event("released")], BOLD, "take_out"),
    ("power", "POWER", [], BOLD, "take_out"),
    ("replace", "RMA", [], BOLD, "take_out"),
    ("ill again where no reboot is allowed", "REBOOT", [event("released")], LIMITS, "take_out"),
    ("out already", "RMA", [event("taken_out")], BOLD, ""),
    ("out, resumed, ill again", "RMA", [event("taken_out", hours=3), event("released")], BOLD, "take_out"),
]


@pytest.mark.parametrize(
    ("action", "events", "limits", "expected"),
    [case[1:] for case in CLIMBS],
    ids=[case[0] for case in CLIMBS],
)
def test_the_next_rung(action: Action, events: list[GpuEvent], limits: Runnerctl, expected: str) -> None:
    """By what the GPU needs, what was tried in the last 24 hours, and what is allowed."""
    slots = [stopped("a", A, by_health=(A,)), stopped("b", B, by_health=())]
    made = plan([gpu(A, action), replace(gpu(B), status="unknown")], slots, *events, limits=limits)
    treatments = [each.kind for each in made.decisions if each.kind not in ("hold", "release")]
    assert treatments == ([expected] if expected else [])


def test_release_after_clean_verdicts_in_a_row() -> None:
    """Counted no further than needed; a relapse starts again; an operator's hold is not looked at."""
    held = stopped("a", A, by_health=(A,))
    made = plan([gpu(A)], [held], clean={A: 1})
    assert (kinds(made), made.clean_probes) == ([], {A: 2})
    made = plan([gpu(A)], [held], clean={A: 2})
    assert (kinds(made), made.clean_probes) == (["release a"], {A: 3})
    assert plan([gpu(A)], [held], clean={A: 3}).clean_probes == {A: 3}
    assert plan([gpu(A, "WARN")], [held], clean={A: 3}).clean_probes == {A: 0}
    assert kinds(plan([gpu(A)], [stopped("a", A)], clean={A: 3})) == []


def test_a_gpu_that_left_the_host_is_forgotten_and_holds_nothing() -> None:
    """Replaced in inventory by another: the slot is judged by the one it has now."""
    made = plan([gpu(B)], [stopped("a", B, by_health=(A,))], clean={A: 0, B: 2})
    assert kinds(made) == ["release a"]
    assert made.clean_probes == {B: 3}


# -- over days ---------------------------------------------------------------------------------------------


@dataclass
class Host:
    """A host that does what is decided, a verdict a minute; ``ill`` says what GPU a needs at each moment."""

    ill: Callable[[Host], Action | None]
    limits: Runnerctl = BOLD
    job_ends: datetime = NOW
    now: datetime = NOW
    boot: int = 0
    events: list[GpuEvent] = field(default_factory=list)
    clean: dict[str, int] = field(default_factory=dict)
    holds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def last(self, kind: str) -> datetime | None:
        """When it was done last."""
        return next((each.time for each in reversed(self.events) if each.kind == kind), None)

    def count(self, kind: str) -> int:
        """How often it was done."""
        return sum(each.kind == kind for each in self.events)

    def _slot(self, name: str, *gpus: str) -> SlotState:
        held = name in self.holds
        running = not held or (name == "a" and self.now < self.job_ends)
        return SlotState(name, gpus, running, held, self.holds.get(name))

    def minute(self) -> None:
        """One verdict and what follows."""
        states = [gpu(A, self.ill(self)), gpu(B)]
        slots = [self._slot("a", A), self._slot("b", B), self._slot("c")]
        history = GpuHistory(tuple(self.events), self.clean)
        moment = Moment(self.now, f"b{self.boot}")
        made = decide(states, slots, history=history, limits=self.limits, moment=moment)
        for each in made.decisions:
            self._do(each.kind, each.slot, each.gpus)
        self.clean = made.clean_probes
        self.now += timedelta(minutes=1)

    def _do(self, kind: str, name: str, gpus: tuple[str, ...]) -> None:
        self.log.append(f"{kind} {name or gpus[0]}")
        if kind == "hold":
            self.holds[name] = gpus
            return
        noted = {"release": "released", "take_out": "taken_out"}.get(kind, kind)
        assert noted != "reset" or self.now >= self.job_ends, "reset under a job"
        moment = self.now, f"b{self.boot}"
        self.events += [GpuEvent(*moment, noted, uuid) for uuid in gpus]  # type: ignore[arg-type]
        if kind == "release":
            del self.holds[name]
        if kind == "reboot":
            assert set(self.holds) == {"a", "b", "c"}
            self.boot += 1

    def run(self, **duration: float) -> None:
        """Let time pass."""
        end = self.now + timedelta(**duration)
        while self.now < end:
            self.minute()


def test_an_ecc_error_once_is_one_reset_and_four_minutes_of_quarantine() -> None:
    """And nothing more in three days; no other slot notices."""
    host = Host(lambda host: None if host.count("reset") else "RESET")
    host.run(days=3)
    assert host.log == ["hold a", "reset GPU-a", "release a"]
    assert host.last("released") == NOW + timedelta(minutes=4)


def test_a_long_job_is_left_alone() -> None:
    """Eight hours on a sick GPU: it ends by itself, and only then is the GPU reset."""
    host = Host(lambda host: None if host.count("reset") else "RESET", job_ends=NOW + timedelta(hours=8))
    host.run(hours=9)
    assert host.log == ["hold a", "reset GPU-a", "release a"]
    assert host.last("reset") == host.job_ends


@pytest.mark.exhaustive
def test_a_gpu_that_falls_ill_every_few_hours_climbs_to_the_end_and_stays_there() -> None:
    """Reset, then reboot, then out: bounded over a week, whatever the GPU does."""

    def ill(host: Host) -> Action | None:
        treated = [time for time in (host.last("reset"), host.last("reboot")) if time]
        return None if treated and host.now - max(treated) < timedelta(hours=4) else "RESET"

    host = Host(ill)
    host.run(days=7)
    treatments = [line for line in host.log if line.split()[0] in ("reset", "reboot", "take_out")]
    assert treatments == ["reset GPU-a", "reboot GPU-a", "take_out GPU-a"]
    assert set(host.holds) == {"a"}, "the rest of the host works"


def test_a_dead_gpu_costs_two_resets_and_one_reboot_and_no_more() -> None:
    """It never gets well: a month later it is still out, and nothing was tried again."""
    host = Host(lambda _: "RESET")
    host.run(days=3)
    assert (host.count("reset"), host.count("reboot"), host.count("taken_out")) == (2, 1, 1)
    assert set(host.holds) == {"a"}
    assert host.boot == 1


@pytest.mark.exhaustive
def test_a_fault_of_once_a_week_is_cured_each_time() -> None:
    """No step up after 24 hours without one."""
    host = Host(lambda host: "RESET" if host.now.weekday() == 0 and not _today(host) else None)
    host.run(days=22)
    assert host.count("reset") == 4  # Mondays in 22 days from a Sunday
    assert host.count("reboot") == 0
    assert host.holds == {}


def _today(host: Host) -> bool:
    last = host.last("reset")
    return last is not None and last.date() == host.now.date()
