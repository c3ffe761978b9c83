"""`health --act` on a host's files: what it notes, does and says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import (
    Hold,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.lock import exclusive
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import Result
from msgspec.structs import replace

from runnerctl.cli import act as acting
from runnerctl.cli.notes import MOST_EVENTS, Notes
from runnerctl.core.driver_readings import GpuEvent, GpuHistory
from runnerctl.core.findings import Finding
from runnerctl.core.health import Health
from runnerctl.core.sections import MigLayout, NvidiaDriver
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
from runnerctl.errors import AccessError, TryAgainError
from runnerctl.probes.history import read_gpu_history
from tests.component.hold_place import BOOT, MINE, NOW, SICK, A, B, Place, make_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A host in a directory."""
    return make_place(tmp_path)


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
    said: str = ""
    mig: tuple[MigLayout, ...] = ()
    ran: list[str] = field(default_factory=list)
    notes_at_run: list[list[str]] = field(default_factory=list)
    minutes: int = 0
    on_run: Callable[[], None] | None = None

    def events(self) -> list[str]:
        found = read_gpu_history(self.place.layout.root)
        return [event.kind for event in found.events] if isinstance(found, GpuHistory) else []

    def run(self, argv: list[str], seconds: float) -> Result:
        assert seconds > 0
        self.ran.append(" ".join(argv))
        self.notes_at_run.append(self.events())
        if self.on_run:
            self.on_run()
        return Result(self.code, self.said, "")

    def __call__(self, sick: int | None = None, *, user: int = 0, users: tuple[int, ...] = ()) -> list[str]:
        self.minutes += 1
        return acting.act(
            snapshot(sick, users=users, spec=replace(SPEC, nvidia_driver=NvidiaDriver(mig=self.mig))),
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


def test_a_reset_that_was_refused_because_of_a_user_was_not_tried(act: Round) -> None:
    """Somebody came between: it is no reason to boot the host."""
    act(0)
    act.code, act.said = 3, "Unable to reset GPU: it is currently being used by one or more processes.\n"
    for _ in range(3):
        assert "currently being used" in act(0)[0]
    assert act.events() == []
    act.code = 0
    assert act(0) == ["GPU 0 was reset"]


def test_a_reset_that_takes_mig_devices_away_has_them_made_again(act: Round) -> None:
    """Those of that GPU, by the spec's layout, as the boot makes them."""
    act.mig = (MigLayout(("1g.10gb", "1g.10gb"), (A,)), MigLayout(("2g.20gb",), (B,)))
    act(0)
    assert act(0) == ["GPU 0 was reset"]
    assert act.ran[1:] == [
        f"/opt/nvidia-smi -i {A} -mig 1",
        f"/opt/nvidia-smi mig -i {A} -cgi 1g.10gb,1g.10gb -C",
    ]


def test_no_reboot_while_packages_change(act: Round, place: Place) -> None:
    """A host that is booted in the middle of dpkg may not come back."""
    lock = place.layout.path("/var/lib/dpkg/lock-frontend")
    lock.parent.mkdir(parents=True)
    lock.touch()
    act(0)
    act.code = 255
    act(0)
    act(0)
    code = "import fcntl, sys; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
    code += "print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert act(0) == []
        assert "the reboot waits until packages are installed" in place.said[-1]
        other.communicate()
    act.code = 0
    assert act(0) == ["the host was told to reboot"]


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


def test_two_gpus_taken_out_at_once_both_stand_in_the_hold(act: Round, place: Place) -> None:
    """What somebody brings back by force is all of them."""
    spec = replace(SPEC, github_runner=replace(SPEC.github_runner, slots=(Slot("a", gpus=(A, B)),)))
    findings = tuple(Finding("gpu.row_remap", "CRITICAL", f"GPU {n}", "no spare row is left") for n in (0, 1))
    acting.act(
        snapshot(spec=spec),
        replace(verdict(), findings=findings),
        layout=place.layout,
        say=place.said.append,
        clock=NOW.timestamp,
        user_id=lambda: 0,
        run=act.run,
        system=place.system,
    )
    assert act.events() == ["taken_out", "taken_out"]
    hold = place.holds.get("a")
    assert hold is not None
    assert hold.causes[0].gpus == (A, B)
    assert "GPU 0: no spare row" in hold.reason and "GPU 1: no spare row" in hold.reason


@pytest.mark.parametrize("text", ["{", '{"schema": "runnerctl.gpus/2"}'])
def test_lost_notes_bring_no_gpu_back(act: Round, place: Place, text: str) -> None:
    """They may have said that it is out: it stays on hold until somebody forgives it."""
    act(0)
    place.layout.path("/var/lib/runnerctl/gpus.json").write_text(text)
    assert act() == []
    assert act.events() == ["taken_out"]
    for _ in range(4):
        assert act() == []
    assert place.hold("a") is not None
    acting.forgive(place.layout, [A], clock=lambda: NOW.timestamp() + 7200, say=place.said.append)
    assert "released" in act.events()


def test_notes_that_cannot_be_read_are_left_alone(act: Round, place: Place) -> None:
    """A failing disk says nothing of the notes: nobody acts on what is not known, and it is said."""
    act(0)
    notes = place.layout.path("/var/lib/runnerctl/gpus.json")
    notes.unlink(missing_ok=True)
    notes.mkdir()
    with pytest.raises(TryAgainError, match="mend that first"):
        act(0)
    assert notes.is_dir()
