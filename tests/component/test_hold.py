"""Holds on a host's files: causes side by side, listeners stopped when idle, the hook, the timer, by hand."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import keepalive
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.health_units import (
    SERVICE,
    TIMER,
    HealthTimer,
    service_text,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import (
    HEALTH,
    LONGEST_REASON,
    OPERATOR,
    Cause,
    Hold,
    hold_reason,
    hold_text,
    parse_hold,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_hooks import hook_text

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.drain_here import Desk
from runnerctl.core.driver_readings import GpuHistory
from runnerctl.errors import TryAgainError
from runnerctl.probes.history import read_gpu_history
from tests.component.cli_support import call
from tests.component.hold_place import BOOT, MINE, NOW, SICK, A, Place, make_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A host in a directory."""
    return make_place(tmp_path)


# -- the file ----------------------------------------------------------------------------------------------


def test_the_files_first_line_is_the_reason_and_all_causes_are_below() -> None:
    """What is written is what is read; old readers show the first line."""
    hold = Hold((MINE, SICK))
    text = hold_text(hold)
    assert text.splitlines()[0] == "a new power supply; GPU 0: it needs a reset"
    assert parse_hold(text) == hold
    assert "by: health\nsince: 2026-11-22T12:00:00Z\nreason: GPU 0: it needs a reset\ngpus: GPU-aaaa" in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sick GPU\n", "sick GPU"),
        ("", "no reason given"),
        ("\n\n\n", "no reason given"),
        ("first\nsecond\n", "first"),
        ("first\n\nby: health\n", "first"),  # cut off before its reason
        ("\x1b[31mred\x07\n", "[31mred"),
        ("x" * 10000, "x" * (LONGEST_REASON - 3) + "..."),
    ],
)
def test_a_file_by_hand_or_damaged_is_an_operators_hold(text: str, reason: str) -> None:
    """It holds the unit, so somebody has to lift it; nothing of it can upset a terminal."""
    assert parse_hold(text).causes == (Cause(OPERATOR, reason),)


def test_a_hold_is_world_readable_and_a_directory_in_its_place_holds_too(place: Place) -> None:
    """The hook reads it as the job's user, whatever root's umask is."""
    before = os.umask(0o077)
    try:
        place.holds.add("a", MINE)
    finally:
        os.umask(before)
    path = place.layout.state("hold", "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert hold_reason(path) == "a new power supply"
    assert hold_reason(path.parent) == "no reason given"
    assert hold_reason(path.parent / "b") is None


def test_causes_come_and_go_one_by_one(place: Place) -> None:
    """Health never lifts an operator's, and the file goes with the last; the unit's own journal is told."""
    holds = place.holds
    assert holds.add("a", MINE)
    assert holds.add("a", SICK)
    assert not holds.add("a", SICK), "nothing new: not written again"
    later = Cause(HEALTH, "GPU 0: taken out", "2026-11-22T13:00:00Z", (A,))
    assert holds.add("a", later)
    hold = holds.get("a")
    assert hold is not None
    assert hold.cause(HEALTH) == Cause(HEALTH, "GPU 0: taken out", SICK.since, (A,)), "since when it is held"
    left = holds.drop("a", HEALTH)
    assert left == Hold((MINE,))
    assert holds.drop("a", HEALTH) == Hold((MINE,))
    assert holds.drop("a", OPERATOR) is None
    assert place.hold("a") is None
    assert place.said[0] == "gha-runner@a.service on hold by operator: a new power supply"
    assert place.said[-1] == "gha-runner@a.service the hold by operator is lifted"


# -- making it effective -----------------------------------------------------------------------------------


def test_an_idle_listener_is_stopped_at_once_and_a_busy_one_left_alone(place: Place) -> None:
    """Behind a job a unit waits; without a hold nothing is touched."""
    assert place.holds.settle("a") is None
    place.holds.add("a", MINE)
    assert place.holds.settle("a") == "stopped"
    assert place.holds.settle("a") is None
    place.system.workers["gha-runner@b.service"] = os.getpid()
    place.holds.add("b", SICK)
    assert place.holds.settle("b") == "waits"
    assert place.system.told == ["stop gha-runner@a.service", "start --no-block gha-hold@b.service"]


@pytest.mark.exhaustive
def test_the_listener_is_stopped_as_soon_as_the_job_has_ended(place: Place) -> None:
    """Within a fraction of the poll: no next job comes between."""
    with subprocess.Popen(["sleep", "1"]) as worker:
        place.system.workers["gha-runner@a.service"] = worker.pid
        reaper = threading.Thread(target=worker.wait)
        reaper.start()
        place.holds.add("a", SICK)
        assert place.holds.finish("a", seconds=0.1) is False
        started = time.monotonic()
        assert place.holds.finish("a") is True
        assert time.monotonic() - started < 2.5
        reaper.join()
    assert place.system.told == ["stop gha-runner@a.service"]


@pytest.mark.exhaustive
def test_the_end_of_what_a_job_left_behind_is_not_the_jobs(place: Place) -> None:
    """It may bear the worker's name; the job that runs is not harmed."""
    place.system.workers["gha-runner@a.service"] = os.getpid()
    place.holds.add("a", SICK)
    with subprocess.Popen(["sleep", "0.2"]) as leftover:
        place.system.leftovers.append(leftover.pid)
        assert place.holds.finish("a", seconds=0.8) is False
    assert place.system.told == []


def test_who_waits_for_a_hold_that_is_lifted_stops_nothing(place: Place) -> None:
    """A resume in the meantime wins."""
    place.system.workers["gha-runner@a.service"] = os.getpid()
    assert place.holds.finish("a") is True
    assert place.system.told == []


def test_a_slot_is_started_when_its_last_cause_has_gone_and_it_is_registered(place: Place) -> None:
    """A restart that was due follows; a slot that was unregistered meanwhile stays down."""
    place.holds.add("a", MINE)
    assert place.holds.start("a") is False
    place.holds.drop("a", OPERATOR)
    pending = place.layout.state("pending", "a")
    pending.parent.mkdir(parents=True)
    pending.touch()
    assert place.holds.start("a") is True
    assert place.system.told == [
        "stop gha-hold@a.service",
        "start gha-runner@a.service",
        "start --no-block gha-restart@a.service",
    ]
    (place.layout.slot_root("b") / ".runner").unlink()
    assert place.holds.start("b") is False


# -- the hook ----------------------------------------------------------------------------------------------


def hook(tmp_path: Path, group: str, *, reason: str | None, env: dict[str, str]) -> tuple[int, str]:
    """Run the hook as the runner does, with a control group and a hold directory of the test's."""
    (tmp_path / "cgroup").write_text(f"13:misc:/\n1:name=systemd:/x\n0::{group}\n")
    holds = tmp_path / "hold"
    holds.mkdir(exist_ok=True)
    if reason is not None:
        (holds / "big-a").write_text(reason)
    text = hook_text().replace("/proc/self/cgroup", str(tmp_path / "cgroup"))
    script = tmp_path / "job-started.sh"
    script.write_text(text.replace("/var/lib/runnerctl/hold", str(holds)))
    done = subprocess.run(
        ["/bin/bash", "-e", str(script)], env=env, capture_output=True, text=True, timeout=10, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


GROUP = "/system.slice/system-gha\\x2drunner.slice/gha-runner@big-a.service"


def test_the_hook_turns_jobs_away_from_a_held_slot_only(tmp_path: Path) -> None:
    """By the control group, which a job cannot leave; the reason is an annotation of the job."""
    assert hook(tmp_path, GROUP, reason=None, env={}) == (0, "")
    code, said = hook(tmp_path, GROUP, reason="GPU 0: 93 % broken\nby: health\n", env={})
    assert code == 1
    assert said.startswith(
        "::error title=Runner slot on hold::slot big-a takes no jobs: GPU 0: 93 % broken; "
    )
    assert said.count("\n") == 1
    assert hook(tmp_path, GROUP.replace("big-a", "other"), reason=None, env={}) == (0, "")
    assert hook(tmp_path, "/user.slice", reason=None, env={}) == (0, "")
    below = f"{GROUP}/container/gha-runner@other.service"
    assert hook(tmp_path, below, reason=None, env={})[0] == 1


@pytest.mark.parametrize("reason", ["", "no line break", "\n"])
def test_a_hold_without_a_reason_holds_too(tmp_path: Path, reason: str) -> None:
    """Whatever stands in the file."""
    code, said = hook(tmp_path, GROUP, reason=reason, env={})
    assert code == 1
    assert (reason.strip() or "no reason given") in said


def test_a_jobs_environment_does_not_switch_the_hook_off(tmp_path: Path) -> None:
    """No program is looked for, no variable of the job's is read."""
    env = {"PATH": "/nowhere", "IFS": "/.", "slot": "other", "hold": "/x", "GITHUB_ENV": "/x", "CDPATH": "/"}
    assert hook(tmp_path, GROUP, reason="sick", env=env)[0] == 1


def test_the_hook_costs_a_job_next_to_nothing(tmp_path: Path) -> None:
    """It starts no process: 20 ms, the best of several on a busy machine."""
    times = []
    for _ in range(7):
        started = time.perf_counter()
        hook(tmp_path, GROUP, reason=None, env={})
        times.append(time.perf_counter() - started)
    assert min(times) < 0.02


# -- by hand -----------------------------------------------------------------------------------------------


def desk(place: Place, **env: str) -> Desk:
    """`runnerctl drain a` and `resume a`, as root."""
    context = Context(
        env=env,
        stdout=io.StringIO(),
        stderr=io.StringIO(),
        clock=NOW.timestamp,
        paths=Paths(place.layout.root),
    )
    return Desk(context, "a", place.holds)


def test_a_drain_without_a_reason_names_who_did_it_and_keeps_an_older_reason(place: Place) -> None:
    """The reason is for those who find the slot on hold."""
    done = desk(place, SUDO_USER="ada").drain(None, seconds=None, wait=False)
    assert done.actions == ["slot a is on hold", "slot a is stopped"]
    assert done.slots == [{"slot": "a", "hold_reason": "drained by ada"}]
    assert desk(place).drain(None, seconds=None, wait=True).actions == []
    done = desk(place).drain("new disk", seconds=None, wait=False)
    assert done.slots == [{"slot": "a", "hold_reason": "new disk"}]


def test_a_resume_lifts_ones_own_hold_only_and_says_what_is_left(place: Place) -> None:
    """The verdict's ends by itself; with force it ends now, and a GPU that was out comes back."""
    assert desk(place).resume(force=False).actions == []
    place.holds.add("a", MINE)
    place.holds.add("a", SICK)
    with pytest.raises(TryAgainError, match=r"slot a: is held by health: GPU 0: it needs a reset; .*--force"):
        desk(place).resume(force=False)
    assert place.holds.get("a") == Hold((SICK,))
    assert place.system.told == []
    done = desk(place).resume(force=True)
    assert done.actions == ["the hold by health is lifted: GPU 0: it needs a reset", "slot a is started"]
    found = read_gpu_history(place.layout.root)
    assert isinstance(found, GpuHistory)
    assert [(event.kind, event.uuid, event.boot_id) for event in found.events] == [("released", A, BOOT)]


def test_drain_and_resume_are_roots_and_need_a_slot_that_exists(place: Place) -> None:
    """One line each, no traceback."""
    for command in ("drain", "resume"):
        refused = call(command, "a", root=place.layout.root, user_id=1000)
        assert (refused.code, "run it with sudo" in refused.err) == (77, True)
        unknown = call(command, "nowhere", root=place.layout.root)
        assert unknown.code == 78
        assert "slots here: a, b, c" in unknown.err


# -- the timer ---------------------------------------------------------------------------------------------


def timer(place: Place, actions: list[str], *, check: bool = False, **settings: object) -> None:
    """Converge it where no systemd runs."""
    spec = {"runnerctl": {"health_timer": True, "health_interval_seconds": 60, **settings}}
    receipt = Receipt(place.layout.path("/var/lib/runnerctl/receipt.json"))
    HealthTimer(
        str(place.layout.root), receipt, place.system, check, lambda action, _: actions.append(action)
    ).converge(json.dumps(spec))


def test_the_timer_is_written_changed_and_taken_away(place: Place) -> None:
    """Predicted by check mode, once, and without a trace afterwards; an image that is built gets it too."""
    predicted: list[str] = []
    real: list[str] = []
    timer(place, predicted, check=True)
    assert not (place.layout.units / TIMER).exists()
    timer(place, real)
    assert predicted == real
    assert (place.layout.units / "timers.target.wants" / TIMER).resolve() == place.layout.units / TIMER
    again: list[str] = []
    timer(place, again)
    assert again == []
    timer(place, again, health_interval_seconds=300)
    assert len(again) == 1
    assert "OnUnitActiveSec=300" in (place.layout.units / TIMER).read_text()
    timer(place, again, health_timer=False)
    timer(place, again, health_timer=False)
    assert len(again) == 2
    assert not list(place.layout.units.rglob("runnerctl-health*"))
    assert Receipt(place.layout.path("/var/lib/runnerctl/receipt.json")).entries("unit") == []


def test_a_path_for_metrics_reaches_the_command_whole() -> None:
    """systemd expands percent signs and dollars, and splits at spaces (systemd.service(5))."""
    text = service_text('/var/a "b"/100%$HOME\\x.prom')
    assert 'health --act --prometheus "/var/a \\"b\\"/100%%$$HOME\\\\x.prom"\n' in text
    assert "--prometheus" not in service_text(None)
    assert SERVICE.endswith(".service")


# -- parked slots ------------------------------------------------------------------------------------------


def test_what_nothing_holds_is_not_stopped_by_a_touch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody resumed it, or a converge started it, while it was online for a moment."""
    monkeypatch.setattr(keepalive, "run", lambda *_, **__: None)
    touches = keepalive.Touches(place.layout, place.system, place.holds)
    place.holds.add("a", MINE)
    assert touches.stop("a") == "stopped" and "gha-runner@a.service" not in place.system.running
    place.holds.drop("a", MINE.by)
    assert touches.start("a")
    assert touches.stop("a") == "running" and "gha-runner@a.service" in place.system.running
