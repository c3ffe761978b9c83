"""Holds on a host's files: causes side by side, listeners stopped when idle, the hook, the notes, acting."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
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
    Holds,
    hold_reason,
    hold_text,
    parse_hold,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.lock import exclusive
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout, hook_text
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import (
    Process,
    System,
    UnitState,
)

from runnerctl.cli import act as acting
from runnerctl.cli.notes import MOST_EVENTS, Notes
from runnerctl.core.driver_readings import GpuEvent, GpuHistory
from runnerctl.core.findings import Finding
from runnerctl.core.health import Health
from runnerctl.core.snapshot import (
    Gpu,
    Host,
    NvidiaModule,
    Nvml,
    NvmlFailure,
    Snapshot,
    SpecFile,
    TimeSync,
    Unavailable,
)
from runnerctl.core.spec import GithubRunner, HostSpec, Runnerctl, Slot
from runnerctl.errors import AccessError
from runnerctl.probes.history import read_gpu_history

A, B = "GPU-aaaa", "GPU-bbbb"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
BOOT = "0f3c"
SICK = Cause(HEALTH, "GPU 0: it needs a reset", "2026-11-22T12:00:00Z", (A,))
MINE = Cause(OPERATOR, "a new power supply", "2026-11-22T11:00:00Z")


@dataclass
class Recorder(System):
    """systemd and processes as two sets."""

    running: set[str] = field(default_factory=set)
    workers: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    refuses: str = ""

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        return {unit: UnitState(active="active" if unit in self.running else "inactive") for unit in units}

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        assert seconds > 0
        if self.refuses and " ".join(words).startswith(self.refuses):
            raise HostError("refused", where="systemctl")
        self.told.append(" ".join(words))
        if words[0] == "start":
            self.running.add(words[-1])
        elif words[0] == "stop":
            self.running.discard(words[-1])

    def forget_failure(self, unit: str) -> None:
        assert unit

    def busy(self, unit: str) -> bool:
        return any(_alive(pid) for name, pid in self.workers.items() if name == unit)

    def processes_in(self, unit: str) -> list[Process]:
        pids = [pid for name, pid in self.workers.items() if name == unit and _alive(pid)]
        return [Process(pid, "Runner.Worker", 1) for pid in pids]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Place:
    """A host in a directory."""

    layout: Layout
    system: Recorder
    said: list[str] = field(default_factory=list)

    @property
    def holds(self) -> Holds:
        return Holds(self.layout, self.system, lambda unit, line: self.said.append(f"{unit} {line}"))

    def hold(self, slot: str) -> str | None:
        path = self.layout.state("hold", slot)
        return path.read_text() if path.exists() else None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Slots a, b and c, registered and running."""
    layout = Layout(tmp_path / "root")
    for slot in "abc":
        layout.slot_root(slot).mkdir(parents=True)
        (layout.slot_root(slot) / ".runner").write_text('{"agentId": 1}')
    boot = layout.path("/proc/sys/kernel/random/boot_id")
    boot.parent.mkdir(parents=True)
    boot.write_text(f"{BOOT}\n")
    return Place(layout, Recorder({f"gha-runner@{slot}.service" for slot in "abc"}))


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


# -- the notes ---------------------------------------------------------------------------------------------


def note(kind: str = "reset", *, days: float = 0, uuid: str = A) -> GpuEvent:
    """An event so many days ago."""
    return GpuEvent(NOW - timedelta(days=days), BOOT, kind, uuid)  # type: ignore[arg-type]


def test_notes_survive_and_are_bounded(place: Place) -> None:
    """Thirty days of events, and the last word on a GPU that is out, however old."""
    notes = Notes(place.layout.root, place.said.append)
    assert notes.history == GpuHistory()
    notes.add([note("taken_out", days=90, uuid=B), note("reset", days=31), note("released", days=29)])
    notes.add([note()])
    notes.count({A: 2}, now=NOW)
    again = read_gpu_history(place.layout.root)
    assert isinstance(again, GpuHistory)
    assert [event.kind for event in again.events] == ["taken_out", "released", "reset"]
    assert again.clean_probes == {A: 2}
    notes.add([note() for _ in range(MOST_EVENTS)])
    assert len(notes.history.events) == MOST_EVENTS
    assert place.said == []


def test_counts_that_do_not_change_are_not_written(place: Place) -> None:
    """A timer must not wear out a disk."""
    notes = Notes(place.layout.root, place.said.append)
    notes.count({}, now=NOW)
    assert not notes.path.exists()
    notes.count({A: 3}, now=NOW)
    before = notes.path.stat().st_ino
    notes.count({A: 3}, now=NOW)
    assert notes.path.stat().st_ino == before


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": "runnerctl.gpus/2"}', '{"events": [{"time": 1}]}', "[]"]
)
def test_damaged_notes_are_moved_aside_and_said(place: Place, text: str) -> None:
    """They begin afresh; holds stand in files of their own."""
    place.holds.add("a", SICK)
    path = place.layout.path("/var/lib/runnerctl/gpus.json")
    path.write_text(text)
    assert isinstance(read_gpu_history(place.layout.root), Unavailable)
    notes = Notes(place.layout.root, place.said.append)
    assert notes.history == GpuHistory()
    assert path.with_suffix(".damaged").read_text() == text
    assert "moved to" in place.said[-1]
    assert place.hold("a") is not None
    assert read_gpu_history(place.layout.root) is None


# -- acting ------------------------------------------------------------------------------------------------


SPEC = HostSpec(
    host="h1",
    runnerctl=Runnerctl(health_clean_probes=2, health_reboot=True),
    github_runner=GithubRunner(
        url="https://github.com/acme", slots=(Slot("a", gpus=(A,)), Slot("b", gpus=(B,)), Slot("c"))
    ),
)


def snapshot(
    sick: int | None = None, *, spec: HostSpec | None = SPEC, users: tuple[int, ...] = ()
) -> Snapshot:
    """Two GPUs; one of them may need a reset."""
    from runnerctl.core.gpu_readings import GpuProcess

    failure = NvmlFailure("reset_required", "nvmlDeviceGetName", "GPU requires reset", 16)
    gpus = tuple(
        Gpu(
            index,
            failure if index == sick else None,
            uuid,
            minor=index,
            processes=tuple(GpuProcess(pid, "compute") for pid in users),
        )
        for index, uuid in enumerate((A, B))
    )
    return Snapshot(
        time=NOW,
        duration_seconds=0.1,
        host=Host("h1", "debian", "12", "Debian 12", "6.1.0", "x86_64"),
        spec=SpecFile("/etc/runnerctl/host.json", spec),
        nvml=Nvml(driver_version="575.57.08", count=2, gpus=gpus),
        nvidia_module=NvidiaModule("575.57.08"),
        pci_gpus=(),
        filesystems=(),
        time_sync=TimeSync(True),
        conda=Unavailable("not asked"),
        slots=(),
    )


def verdict(sick: int | None = None) -> Health:
    """What the checks say of it."""
    findings = (
        [Finding("gpu.answers", "CRITICAL", f"GPU {sick}", "the GPU needs a reset")]
        if sick is not None
        else []
    )
    return Health(status="OK", host="h1", checked_at=NOW, duration_seconds=0.1, findings=tuple(findings))


@dataclass
class Round:
    """Rounds of `health --act` on one host; ``code`` is how nvidia-smi ends."""

    place: Place
    code: int = 0
    ran: list[str] = field(default_factory=list)
    notes_at_run: list[list[str]] = field(default_factory=list)
    minutes: int = 0
    on_run: Callable[[], None] | None = None

    def events(self) -> list[str]:
        found = read_gpu_history(self.place.layout.root)
        return [event.kind for event in found.events] if isinstance(found, GpuHistory) else []

    def run(self, argv: list[str], seconds: float) -> int:
        assert seconds > 0
        self.ran.append(" ".join(argv))
        self.notes_at_run.append(self.events())
        if self.on_run:
            self.on_run()
        return self.code

    def __call__(self, sick: int | None = None, *, user: int = 0, users: tuple[int, ...] = ()) -> list[str]:
        self.minutes += 1
        return acting.act(
            snapshot(sick, users=users),
            verdict(sick),
            layout=self.place.layout,
            say=self.place.said.append,
            clock=lambda: (NOW + timedelta(minutes=self.minutes)).timestamp(),
            user_id=lambda: user,
            run=self.run,
            system=self.place.system,
            nvidia_smi="/opt/nvidia-smi",
        )


@pytest.fixture
def act(place: Place) -> Round:
    """Act on that host."""
    return Round(place)


def test_a_round_holds_mends_and_releases(act: Round, place: Place) -> None:
    """Hold and stop, reset once nobody can use it, release after clean verdicts; said as it was done."""
    assert act(0) == [
        "slot a is put on hold: GPU 0: the GPU needs a reset",
        "slot a is stopped: it is on hold and idle",
    ]
    assert act(0, users=(4711,)) == []
    assert act.ran == []
    assert act(0) == ["GPU 0 was reset"]
    assert act.ran == [f"/opt/nvidia-smi --gpu-reset -i {A}"]
    assert act.notes_at_run == [["reset"]], "noted before it is done"
    assert act() == []
    assert act() == ["slot a is released: 2 clean verdicts in a row"]
    assert place.system.running >= {"gha-runner@a.service", "gha-runner@b.service", "gha-runner@c.service"}
    assert act.events() == ["reset", "released"]
    assert act() == []


def test_a_reset_that_fails_and_one_that_hangs_lead_on(act: Round, place: Place) -> None:
    """The next rung: the host runs dry, slots without GPUs as well, and is booted once."""
    act(0)
    act.code = 255
    assert act(0) == ["GPU 0 could not be reset: nvidia-smi ended with 255"]
    held = act(0)
    assert [line for line in held if "put on hold: the host is to be booted" in line]
    assert place.system.running == set()
    act.code = 0
    assert act(0) == ["the host was told to reboot"]
    assert act.ran[-1] == "systemctl reboot"
    assert act.notes_at_run[-1] == ["reset", "reset_failed", "reboot"]
    assert act(0) == []


def test_a_kill_in_the_middle_of_a_reset_is_remembered(act: Round) -> None:
    """The event is there: the next attempt counts as the second."""

    def die() -> None:
        raise KeyboardInterrupt

    act(0)
    act.on_run = die
    with pytest.raises(KeyboardInterrupt):
        act(0)
    assert act.events() == ["reset"]


def test_one_failure_does_not_keep_the_rest_from_being_done(act: Round, place: Place) -> None:
    """systemd refuses to stop one listener: the hold stands, and the next round tries again."""
    place.system.refuses = "stop gha-runner@a.service"
    assert act(0) == ["slot a is put on hold: GPU 0: the GPU needs a reset"]
    assert place.said[-1].startswith("systemctl: refused")
    place.system.refuses = ""
    assert act(0) == ["slot a is stopped: it is on hold and idle"]


def test_only_root_acts_one_at_a_time_and_only_where_there_is_a_spec(act: Round, place: Place) -> None:
    """A second run has nothing to add."""
    with pytest.raises(AccessError, match="only root may act"):
        act(0, user=1000)
    with (
        exclusive(str(place.layout.path(acting.LOCK)), seconds=1),
        pytest.raises(Exception, match="held by another run"),
    ):
        act(0)
    said: list[str] = []
    unknown = snapshot(0, spec=None)
    done = acting.act(
        unknown,
        verdict(0),
        layout=place.layout,
        say=said.append,
        clock=NOW.timestamp,
        user_id=lambda: 0,
        run=act.run,
        system=place.system,
    )
    assert done == []
    assert place.hold("a") is None


def test_an_operators_hold_stays_when_the_verdicts_is_lifted(act: Round, place: Place) -> None:
    """And nothing starts the slot."""
    place.holds.add("a", MINE)
    for sick in (0, 0, None):
        act(sick)
    assert act() == [
        "slot a is released by the verdict (2 clean verdicts in a row); still: a new power supply"
    ]
    assert "gha-runner@a.service" not in place.system.running
    assert place.holds.get("a") == Hold((MINE,))


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
