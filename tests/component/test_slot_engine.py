"""The host's half of a converge, in a directory that stands for a host's root.

systemd, users and processes are a recorder; ``systemd-run`` is a script that notes what it was given and
leaves the files that a registration leaves.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.health_units import (
    SERVICE,
    TIMER,
    service_text,
    timer_text,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.lock import exclusive
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import SCHEMA, Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.removal import Removal
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot import (
    Converger,
    Outcome,
    known_slots,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_app import App
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import (
    Layout,
    SlotSpec,
    env_text,
    read_runner_file,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_pass import Changes
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_register import (
    CREDENTIAL_FILES,
    Enrolment,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System, UnitState
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_units import (
    slot_unit_text,
    templates,
    unit_text,
)

TOKEN = "AREGISTRATIONTOKENOF29LETTERS"
UNIT = "gha-runner@a.service"
GPU = "GPU-6f1a0c3e-2d4b-4c5a-9e8f-0a1b2c3d4e5f"
# Notes its words, what it reads and the slot's state at that moment; refuses when a file says so.
SYSTEMD_RUN = """#!/bin/sh
printf '%s\\n' "$@" >{notes}/words
cat >{notes}/stdin
cp {root}/var/lib/runnerctl/slots/a.json {notes}/state
ls -A {root}/var/lib/gha-runner/a >{notes}/files
if [ -e {notes}/refuse ]; then cat {notes}/refuse; exit 1; fi
for name in .runner .credentials svc.sh; do
  printf '\\357\\273\\277{{"agentId": 7, "agentName": "h1-a", "gitHubUrl": "https://github.com/acme"}}' \\
    >{root}/var/lib/gha-runner/a/$name
done
"""


@dataclass
class Recorder(System):
    """A host whose users and units are two sets; a call named in ``fails`` is where the power goes."""

    layout: Layout
    users: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)
    masked: set[str] = field(default_factory=set)
    stale: bool = False
    told: list[str] = field(default_factory=list)
    fails: str = ""

    def _note(self, *words: str) -> None:
        if self.fails and " ".join(words).startswith(self.fails):
            raise HostError("the power went")
        self.told.append(" ".join(words))

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        """What the sets say."""
        return {
            unit: UnitState(
                active="active" if unit in self.running else "inactive",
                load="masked" if unit in self.masked else "loaded",
                needs_reload=self.stale,
            )
            for unit in units
        }

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        """Note it, and do to the sets and to the link of `enable` what systemd would."""
        assert seconds > 0
        self._note(*words)
        verb, unit = words[0], words[-1]
        link = self.layout.units / "multi-user.target.wants" / unit
        if verb in ("start", "restart"):
            self.running.add(unit)
        elif verb in ("stop", "disable"):
            self.running.discard(unit)
        elif verb == "unmask":
            self.masked.discard(unit)
        elif verb == "daemon-reload":
            self.stale = False
        if verb == "enable":
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.layout.units / "gha-runner@.service")
        elif verb == "disable":
            link.unlink(missing_ok=True)

    def forget_failure(self, unit: str) -> None:
        """Note it."""
        self._note("reset-failed", unit)

    def user_exists(self, name: str) -> bool:
        """Whether it was added."""
        return name in self.users

    group_exists = user_exists

    def add_user(self, name: str, home: str, *, comment: str = "") -> None:
        """Add it."""
        del comment
        self._note("useradd", name, home)
        self.users.add(name)

    def remove_user(self, name: str) -> None:
        """Remove it."""
        self._note("userdel", name)
        self.users.discard(name)

    def ids(self, name: str) -> tuple[int, int]:
        """Ours: nobody but root can give files away."""
        assert name in self.users
        return os.geteuid(), os.getegid()

    def busy(self, unit: str) -> bool:
        """Whether a test says so."""
        return unit in self.workers

    def kill_all_of(self, user: str, *, seconds: float = 10.0) -> int:
        """Note it."""
        assert seconds > 0
        self._note("kill", user)
        return 0


@dataclass
class Place:
    """A host in a directory, and what was noted there."""

    layout: Layout
    system: Recorder
    notes: Path

    def converge(
        self, *slots: SlotSpec, check: bool = False, enrol: bool = False, remove: tuple[str, ...] = ()
    ) -> Outcome:
        """One pass, with a registration when ``enrol`` is set."""
        enrolments = {slot.name: Enrolment(TOKEN) for slot in slots} if enrol else {}
        converger = Converger(self.layout, self.system, check=check)
        return converger.run(list(slots), enrolments=enrolments, remove=list(remove))

    def path(self, name: str) -> Path:
        """A file of the host."""
        return self.layout.path(name)

    def slot(self, name: str = "") -> Path:
        """A file of slot a."""
        return self.layout.slot_root("a") / name

    def state(self) -> dict[str, Any]:
        """The state file of slot a."""
        data: dict[str, Any] = json.loads(self.layout.state("slots", "a").read_text())
        return data

    def everything(self) -> dict[str, tuple[int, str]]:
        """Every path under the root with its mode and content."""
        return {
            str(path): (path.lstat().st_mode, path.read_text() if path.is_file() else "")
            for path in sorted(self.layout.root.rglob("*"))
            if path.name not in ("slots.lock", "receipt.json.lock")
        }


def slot_of(**changes: Any) -> SlotSpec:
    """Slot a of host h1."""
    given = {"name": "a", "runner_name": "h1-a", "url": "https://github.com/acme", "version": "2.336.0"}
    return SlotSpec.from_dict({**given, "gpus": [GPU], "env": {"X": "1"}, **changes})


SLOT = slot_of()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A bare host."""
    root, notes, programs = (tmp_path / name for name in ("root", "notes", "programs"))
    for folder in (root / "var/lib", root / "etc/systemd/system", notes, programs):
        folder.mkdir(parents=True)
    program = programs / "systemd-run"
    program.write_text(SYSTEMD_RUN.format(notes=notes, root=root))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    layout = Layout(root)
    return Place(layout, Recorder(layout), notes)


@pytest.fixture
def converged(place: Place) -> Place:
    """A host with slot a, registered and running."""
    place.converge(SLOT, enrol=True)
    place.system.told.clear()
    return place


# -- converge ----------------------------------------------------------------------------------------------


def test_check_mode_predicts_a_bare_host_to_the_letter_and_writes_nothing(place: Place) -> None:
    """The same actions in the same order as the real run, which afterwards has nothing to do."""
    before = place.everything()
    predicted = place.converge(SLOT, enrol=True, check=True)
    assert place.everything() == before
    assert place.system.told == []
    real = place.converge(SLOT, enrol=True)
    assert predicted.actions == real.actions
    assert [diff["after_header"] for diff in predicted.diff] == [diff["after_header"] for diff in real.diff]
    assert place.converge(SLOT).actions == []
    assert place.converge(SLOT, check=True).actions == []


def test_a_new_slot_is_registered_started_and_noted(converged: Place) -> None:
    """User, structure, registration files of root's, state and receipt."""
    modes = {name: stat.S_IMODE(converged.slot(name).stat().st_mode) for name in ("", "bin", "home", "_work")}
    assert modes == {"": 0o750, "bin": 0o755, "home": 0o700, "_work": 0o700}
    assert stat.S_IMODE(converged.slot(".runner").stat().st_mode) == 0o640
    assert not converged.slot("svc.sh").exists(), "it would install a second unit"
    assert converged.slot(".env").read_text() == "X=1\n"
    assert converged.state() == {
        "name": "a",
        "url": SLOT.url,
        "runner_name": "h1-a",
        "agent_id": 7,
        "version": "2.336.0",
        "registering": False,
    }
    assert converged.system.running == {UNIT}
    noted = {entry.kind for entry in Receipt(converged.path("/var/lib/runnerctl/receipt.json")).entries()}
    assert noted == {"unit", "user", "path"}


def _drop_in(place: Place) -> None:
    place.layout.drop_in("a").write_text("[Service]\n")


def _no_drop_in(place: Place) -> None:
    shutil.rmtree(place.layout.drop_in("a").parent)


def _unit(place: Place) -> None:
    (place.layout.units / "gha-runner@.service").write_text("[Unit]\n")


def _hook_mode(place: Place) -> None:
    place.path("/opt/runnerctl/hooks/job-started.sh").chmod(0o777)


def _hook(place: Place) -> None:
    place.path("/opt/runnerctl/hooks/job-started.sh").write_text("exit 0\n")


def _unit_mode(place: Place) -> None:
    (place.layout.units / "gha-restart@.service").chmod(0o666)


def _env(place: Place) -> None:
    place.slot(".env").write_text("X=2\n")


def _root_mode(place: Place) -> None:
    place.slot().chmod(0o777)


def _no_work(place: Place) -> None:
    place.slot("_work").rmdir()


def _no_state(place: Place) -> None:
    place.layout.state("slots", "a").unlink()


def _credentials(place: Place) -> None:
    place.slot(".credentials").chmod(0o666)


def _no_user(place: Place) -> None:
    place.system.users.clear()


def _stopped(place: Place) -> None:
    place.system.running.clear()


def _disabled(place: Place) -> None:
    place.layout.wanted("a").unlink()


def _masked(place: Place) -> None:
    place.system.masked.add(UNIT)
    place.system.running.clear()


def _stale(place: Place) -> None:
    place.system.stale = True


DRIFTS: list[tuple[Callable[[Place], None], list[str]]] = [
    (_drop_in, ["unit of slot a", "systemd reads its units again", f"restart {UNIT}"]),
    (_no_drop_in, ["unit of slot a", "systemd reads its units again", f"restart {UNIT}"]),
    (_unit, ["unit gha-runner@.service", "systemd reads its units again", f"restart {UNIT}"]),
    (_unit_mode, ["unit gha-restart@.service", "systemd reads its units again"]),
    (_hook_mode, ["job-started hook"]),
    (_hook, ["job-started hook"]),
    (_env, ["environment of slot a", f"restart {UNIT}"]),
    (_root_mode, ["directories of slot a"]),
    (_no_work, ["directories of slot a"]),
    (_no_state, ["directories of slot a"]),
    (_credentials, ["owner of .credentials of slot a"]),
    (_stopped, [f"start {UNIT}"]),
    (_disabled, [f"enable {UNIT}"]),
    (_masked, [f"unmask {UNIT}", f"start {UNIT}"]),
    (_stale, ["systemd reads its units again"]),
]


@pytest.mark.parametrize(("drift", "actions"), DRIFTS, ids=[drift.__name__.strip("_") for drift, _ in DRIFTS])
def test_a_drift_is_predicted_repaired_once_and_then_gone(
    converged: Place, drift: Callable[[Place], None], actions: list[str]
) -> None:
    """Check mode tells what the real run then does; the state afterwards is the one before."""
    converged.layout.state("pending", "a").parent.mkdir()
    before = converged.everything()
    drift(converged)
    drifted = converged.everything()
    assert converged.converge(SLOT, check=True).actions == actions
    assert converged.everything() == drifted
    assert converged.converge(SLOT).actions == actions
    assert converged.everything() == before
    assert converged.converge(SLOT).actions == []


def test_a_user_that_was_removed_comes_back(converged: Place) -> None:
    """The slot's directories follow it."""
    _no_user(converged)
    predicted = converged.converge(SLOT, check=True).actions
    assert predicted[0] == "user gha-a"
    assert converged.converge(SLOT).actions[0] == "user gha-a"
    assert converged.converge(SLOT).actions == []


def test_what_a_busy_slot_needs_waits_and_is_done_when_it_is_idle(converged: Place) -> None:
    """No restart while a job runs; the unit that waits on the host is started where the CLI is installed."""
    converged.system.workers.add(UNIT)
    _drop_in(converged)
    outcome = converged.converge(SLOT)
    assert outcome.reports[0].busy
    assert outcome.reports[0].pending_restart
    assert converged.layout.state("pending", "a").exists()
    assert not [words for words in converged.system.told if words.startswith(("restart", "stop", "start"))]
    command = converged.path("/opt/runnerctl/bin/runnerctl")
    command.parent.mkdir(parents=True)
    command.touch()
    assert converged.converge(SLOT).actions == []
    assert converged.system.told[-1] == "start --no-block gha-restart@a.service"
    converged.system.workers.clear()
    assert converged.converge(SLOT, check=True).actions == [f"restart {UNIT}"]
    assert converged.converge(SLOT).actions == [f"restart {UNIT}"]
    assert not converged.layout.state("pending", "a").exists()


def test_a_held_slot_is_neither_started_nor_restarted(converged: Place) -> None:
    """Its files are kept right; the reason is reported."""
    hold = converged.layout.state("hold", "a")
    hold.parent.mkdir()
    hold.write_text("sick GPU\n")
    converged.system.running.clear()
    _env(converged)
    outcome = converged.converge(SLOT)
    assert outcome.reports[0].hold == "sick GPU"
    assert outcome.actions == ["environment of slot a"]
    assert converged.system.running == set()


# -- kills -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", ["drop-in", "unit", "environment"])
def test_a_restart_is_noted_before_what_makes_it_due(converged: Place, guarded: str) -> None:
    """The run ends where the file is written: the next one still knows that a restart is due."""
    paths = {
        "drop-in": converged.layout.drop_in("a"),
        "unit": converged.layout.units / "gha-runner@.service",
        "environment": converged.slot(".env"),
    }
    paths[guarded].unlink()
    paths[guarded].mkdir()  # it cannot be replaced by a file
    with pytest.raises(HostError, match="is in the way"):
        converged.converge(SLOT)
    assert converged.layout.state("pending", "a").exists()
    paths[guarded].rmdir()
    assert converged.converge(SLOT).actions[-1] == f"restart {UNIT}"
    assert converged.converge(SLOT).actions == []


def test_a_registration_is_noted_before_it_begins_and_after_it_ended(place: Place) -> None:
    """A kill in between leaves `registering`: the record of that name is ours then."""
    place.converge(SLOT, enrol=True)
    during = json.loads((place.notes / "state").read_text())
    assert (during["registering"], during["agent_id"], during["runner_name"]) == (True, None, "h1-a")
    assert (place.state()["registering"], place.state()["agent_id"]) == (False, 7)


def test_a_refused_registration_tells_the_runners_reason_and_not_the_token(converged: Place) -> None:
    """The old registration is forgotten by then, the note stays, and the next run finishes."""
    (converged.notes / "refuse").write_text(f"----\nHttp response code: NotFound, {TOKEN}\n  \n")
    with pytest.raises(HostError) as caught:
        converged.converge(SLOT, enrol=True)
    reason = "could not be registered: Http response code: NotFound, <token>"
    assert str(caught.value).startswith(f"slot a: the runner {reason}; ")
    assert TOKEN not in str(caught.value)
    assert converged.state()["registering"] is True
    assert not converged.slot(".runner").exists()
    report = converged.converge(SLOT, check=True).reports[0]
    assert (report.agent_id, report.registering, report.agent_name) == (None, True, "h1-a")
    (converged.notes / "refuse").unlink()
    converged.converge(SLOT, enrol=True)
    assert converged.state()["registering"] is False


def test_leftovers_are_killed_before_the_token_comes_near(converged: Place) -> None:
    """Stop, kill, then register; when they cannot be killed nothing is forgotten and no token is used."""
    (converged.notes / "words").unlink()
    converged.system.fails = "kill gha-a"
    with pytest.raises(HostError, match="the power went"):
        converged.converge(SLOT, enrol=True)
    assert converged.system.told == [f"stop {UNIT}"]
    assert not (converged.notes / "words").exists()
    assert converged.slot(".runner").exists()
    assert converged.state()["registering"] is False


def test_a_registration_that_was_finished_but_not_noted_is_noted(converged: Place) -> None:
    """The power went between the runner's last file and our state file."""
    state = converged.layout.state("slots", "a")
    state.write_text(json.dumps({**converged.state(), "agent_id": None, "registering": True}))
    assert converged.converge(SLOT).actions == []
    assert (converged.state()["registering"], converged.state()["agent_id"]) == (False, 7)


def test_a_user_is_in_the_receipt_before_it_exists(place: Place) -> None:
    """A thing without an entry would stay for ever."""
    place.system.fails = "useradd"
    with pytest.raises(HostError):
        place.converge(SLOT)
    names = [entry.name for entry in Receipt(place.path("/var/lib/runnerctl/receipt.json")).entries("user")]
    assert names == ["gha-a"]


@pytest.mark.parametrize("step", ["disable", "kill", "daemon-reload", "userdel"])
def test_a_removal_that_was_cut_off_is_finished(converged: Place, step: str) -> None:
    """The state file goes last: until then the slot is known."""
    converged.system.fails = step
    with pytest.raises(HostError, match="the power went"):
        converged.converge(remove=("a",))
    assert known_slots(converged.layout) == ["a"]
    converged.system.fails = ""
    assert converged.converge(remove=("a",)).actions == ["removal of slot a"]
    assert known_slots(converged.layout) == []
    assert not converged.slot().exists()
    assert converged.system.users == set()
    assert converged.converge(remove=("a",)).actions == []


def test_a_slot_is_removed_only_when_asked(converged: Place) -> None:
    """Absent from inventory is not enough: GitHub must have let it go first. Check mode only predicts."""
    assert [report.name for report in converged.converge().absent] == ["a"]
    before = converged.everything()
    assert converged.converge(remove=("a",), check=True).actions == ["removal of slot a"]
    assert converged.everything() == before


def test_a_user_that_was_there_before_stays(place: Place) -> None:
    """It is not in the receipt, so it is not ours to remove."""
    place.system.users.add("gha-a")
    place.converge(SLOT, enrol=True)
    place.converge(remove=("a",))
    assert place.system.users == {"gha-a"}
    assert not place.slot().exists()


# -- registration ------------------------------------------------------------------------------------------


def test_the_token_goes_in_by_standard_input_only(converged: Place) -> None:
    """Not in a word of the command; the unit has no capability and sees no directory of the job's."""
    words = (converged.notes / "words").read_text()
    assert TOKEN not in words
    assert (converged.notes / "stdin").read_text() == f"{TOKEN}\n"
    assert TOKEN not in repr(Enrolment(TOKEN))
    root = converged.layout.slot_root("a")
    assert {
        "--property=CapabilityBoundingSet=",
        "--property=NoNewPrivileges=yes",
        f"--property=TemporaryFileSystem={root}/_diag {root}/_work {root}/home",
        f"--property=BindReadOnlyPaths={converged.layout.release('2.336.0')}/bin:{root}/bin",
        "--disableupdate",
        "--unattended",
    } <= set(words.splitlines())
    assert not any(TOKEN in text for _, text in converged.everything().values())


def test_the_apps_key_is_asked_for_before_the_first_slot_is_ephemeral(converged: Place) -> None:
    """Slot a is persistent and has a record: it cannot change yet, and the key must come when it does."""
    slot = replace(slot_of(), mode="ephemeral")
    app = Changes(app=App("4711", "0" * 64))
    converger = Converger(converged.layout, converged.system, check=True)
    seen = converger.run([slot], enrolments={}, remove=[], changes=app)
    assert seen.needs_key
    assert [report.mode for report in seen.reports] == ["persistent"]


def test_a_registration_says_what_the_spec_says(place: Place) -> None:
    """Labels, group, default labels; an empty value is no option."""
    slot = slot_of(labels=["big", "gpu"], group="GPU pool", no_default_labels=True)
    Converger(place.layout, place.system).run(
        [slot], enrolments={"a": Enrolment(TOKEN, replace=True)}, remove=[]
    )
    words = (place.notes / "words").read_text().splitlines()
    for option, value in (("--labels", "big,gpu"), ("--runnergroup", "GPU pool"), ("--name", "h1-a")):
        assert words[words.index(option) + 1] == value
    assert {"--no-default-labels", "--replace"} <= set(words)


def test_a_plain_registration_has_no_empty_options(converged: Place) -> None:
    """The runner would ask for what it does not get."""
    words = set((converged.notes / "words").read_text().splitlines())
    assert not {"--labels", "--runnergroup", "--no-default-labels", "--replace"} & words


def test_an_older_registration_is_forgotten_first(converged: Place) -> None:
    """The runner refuses to configure over one."""
    for name in CREDENTIAL_FILES:
        converged.slot(name).write_text("old")
    converged.converge(SLOT, enrol=True)
    assert not set(CREDENTIAL_FILES) & set((converged.notes / "files").read_text().split())


# -- texts -------------------------------------------------------------------------------------------------


def test_the_unit_runs_the_listener_as_the_slots_user_and_never_kills_a_job_on_restart() -> None:
    """What the design promises of it, line by line."""
    lines = unit_text().splitlines()
    for expected in (
        "User=gha-%i",
        "ConditionPathExists=!/var/lib/runnerctl/hold/%i",
        "ExecStart=/var/lib/gha-runner/%i/bin/Runner.Listener run --startuptype service",
        "KillMode=mixed",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "WantedBy=multi-user.target",
    ):
        assert expected in lines
    writable = next(line for line in lines if line.startswith("ReadWritePaths=")).partition("=")[2].split()
    assert {Path(path).name for path in writable} == {"_work", "_diag", "home"}


def test_a_drop_in_binds_the_verified_copy_read_only_and_names_the_slots_gpus() -> None:
    """A slot without GPUs is told that there are none."""
    text = slot_unit_text(SLOT)
    assert "BindReadOnlyPaths=/opt/actions-runner/2.336.0/bin:/var/lib/gha-runner/a/bin" in text
    assert f"Environment=CUDA_VISIBLE_DEVICES={GPU}" in text
    assert "CUDA_VISIBLE_DEVICES=-1" in slot_unit_text(slot_of(gpus=[]))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_every_line_of_the_units(tmp_path: Path) -> None:
    """No unknown key, no value that cannot be read."""
    for name, text in templates().items():
        (tmp_path / name).write_text(text)
    (tmp_path / TIMER).write_text(timer_text(60))
    (tmp_path / SERVICE).write_text(service_text("/var/x.prom"))
    drop_in = tmp_path / "gha-runner@a.service.d/10-slot.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(slot_unit_text(SLOT))
    names = [name.replace("@", "@a") for name in templates()]
    for name in names:  # it reads instances by their own name
        (tmp_path / name).write_text((tmp_path / name.replace("@a", "@")).read_text())
    names += [TIMER, SERVICE]
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        check=False,
    )
    marks = ("gha-", "10-slot", "runnerctl-health")
    ours = [line for line in done.stderr.splitlines() if any(mark in line for mark in marks)]
    wrong = [line for line in ours if "is not executable" not in line]  # there is no runner on this machine
    assert wrong == []


def test_the_environment_file_is_sorted_lines_without_quotes() -> None:
    """The runner reads no other form."""
    assert env_text(slot_of(env={"B": "two words", "A": "1"})) == "A=1\nB=two words\n"
    assert env_text(slot_of(env={})) == ""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'\xef\xbb\xbf{"agentId": 7}', {"agentid": 7}),
        (b'{"AgentId": 7, "gitHubUrl": "u"}', {"agentid": 7, "githuburl": "u"}),
        (b"", None),
        (b'{"agentId": 7', None),
        (b"[1]", None),
        (b"\xff\xfe\x00garbage", None),
    ],
)
def test_the_runners_own_file_is_read_with_a_byte_order_mark_and_refused_when_it_is_garbage(
    tmp_path: Path, data: bytes, expected: dict[str, Any] | None
) -> None:
    """Garbage means that the slot is not registered."""
    path = tmp_path / ".runner"
    assert read_runner_file(path) is None
    path.write_bytes(data)
    assert read_runner_file(path) == expected


@pytest.mark.parametrize("text", ["", "{", "[]", '{"registering": "yes"'])
def test_a_damaged_state_file_is_no_obstacle(converged: Place, text: str) -> None:
    """What it said is read from the runner's own file, and written anew."""
    converged.layout.state("slots", "a").write_text(text)
    converged.converge(SLOT)
    assert converged.state()["agent_id"] == 7


def test_a_file_that_is_no_text_is_written_again(converged: Place) -> None:
    """Whatever somebody put there is replaced, not a reason to end with a traceback."""
    converged.slot(".env").write_bytes(b"LANG=\xff\xfe\n")
    hold = converged.layout.state("hold", "a")
    hold.parent.mkdir(parents=True, exist_ok=True)
    hold.write_bytes(b"k\xfchler kaputt\n")
    outcome = converged.converge(SLOT)
    assert "environment of slot a" in outcome.actions
    assert outcome.reports[0].hold == "k\ufffdhler kaputt"


# -- removal -----------------------------------------------------------------------------------------------


def write_receipt(place: Place, *entries: tuple[str, str]) -> Path:
    """A receipt with these kinds and names."""
    path = place.path("/var/lib/runnerctl/receipt.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [
        {"kind": kind, "name": name, "role": "r", "at": "2026-01-01T00:00:00Z"} for kind, name in entries
    ]
    path.write_text(json.dumps({"schema": SCHEMA, "entries": listed}))
    return path


OURS = (
    ("path", "/opt/actions-runner"),
    ("path", "/usr/local/bin/runnerctl"),
    ("unit", "/etc/systemd/system/gha-runner@.service"),
    ("user", "gha-a"),
)


def test_a_removal_takes_what_the_receipt_names_and_nothing_else(place: Place) -> None:
    """Check mode names the same; afterwards there is no receipt and nothing to do."""
    files = [name for kind, name in OURS if kind != "user"]
    for name in [f"{files[0]}/2.336.0/bin/x", *files[1:], "/opt/theirs/file", "/etc/runnerctl/host.json"]:
        place.path(name).parent.mkdir(parents=True, exist_ok=True)
        place.path(name).write_text("x")
    place.system.users = {"gha-a", "gha-keeper"}
    write_receipt(place, *OURS)
    before = place.everything()
    predicted = Removal(place.layout, place.system, check=True)
    predicted.run()
    assert place.everything() == before
    real = Removal(place.layout, place.system)
    real.run()
    assert real.removed == predicted.removed
    assert set(real.removed) == {*files, "user gha-a", "/var/lib/runnerctl", "/etc/runnerctl"}
    left = [name for name, (mode, _) in place.everything().items() if stat.S_ISREG(mode)]
    assert left == [str(place.path("/opt/theirs/file"))]
    assert place.system.users == {"gha-keeper"}
    assert "kill gha-a" in place.system.told
    again = Removal(place.layout, place.system)
    again.run()
    assert again.removed == []


def test_a_removal_waits_for_one_that_is_under_way(place: Place) -> None:
    """A run whose controller was killed goes on on the host; two at once would trip over each other."""
    place.path("/opt/actions-runner").mkdir(parents=True)
    write_receipt(place, ("path", "/opt/actions-runner"))
    second = threading.Thread(target=Removal(place.layout, place.system).run)
    with exclusive(str(place.path("/var/lib/runnerctl/slots.lock")), seconds=1):
        second.start()
        second.join(0.3)
        assert place.path("/opt/actions-runner").is_dir()
    second.join(10)
    assert not place.path("/opt/actions-runner").exists()
    assert not place.path("/var/lib/runnerctl").exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("path", "/"),
        ("path", "/etc"),
        ("path", "/usr/bin"),
        ("path", "/opt/theirs"),
        ("path", "/home/alice"),
        ("path", "opt/actions-runner"),
        ("path", "/opt/actions-runner/../../etc"),
        ("path", "/var/lib/gha-runner/.."),
        ("path", ""),
        ("unit", "/etc/systemd/system/ssh.service"),
        ("user", "root"),
        ("group", "sudo"),
    ],
)
def test_a_receipt_that_names_what_is_never_ours_is_refused(place: Place, kind: str, name: str) -> None:
    """Before anything at all is removed, and in check mode too."""
    ours = place.path("/opt/actions-runner/x")
    ours.parent.mkdir(parents=True)
    ours.write_text("x")
    receipt = write_receipt(place, *OURS, (kind, name))
    for check in (True, False):
        with pytest.raises(HostError, match="is never ours; correct the receipt by hand"):
            Removal(place.layout, place.system, check=check).run()
    assert ours.exists()
    assert receipt.exists()
    assert place.system.told == []


def test_a_removal_refuses_while_slots_are_there(converged: Place) -> None:
    """They are unregistered first, or GitHub keeps ghosts."""
    with pytest.raises(HostError, match="slots are still there: a; remove the slots first"):
        Removal(converged.layout, converged.system).run()
    assert converged.slot(".runner").exists()


@pytest.mark.parametrize("theirs", ["", "/etc/conda/.condarc", "/etc/conda/condarc.d/20-theirs.yml"])
def test_a_directory_that_others_use_too_stays_for_them(place: Place, theirs: str) -> None:
    """Ours goes when it is empty; one that was there before is not in the receipt and stays anyway."""
    names = ["/etc/conda", "/etc/conda/condarc.d", "/etc/conda/condarc.d/10-runnerctl.yml"]
    for name in filter(None, [names[2], theirs]):
        place.path(name).parent.mkdir(parents=True, exist_ok=True)
        place.path(name).touch()
    write_receipt(place, *(("path", name) for name in names))
    Removal(place.layout, place.system).run()
    assert not place.path(names[2]).exists()
    assert place.path("/etc/conda").exists() == bool(theirs)
    assert not theirs or place.path(theirs).exists()
    place.path("/etc/conda/condarc.d").mkdir(parents=True, exist_ok=True)
    Removal(place.layout, place.system).run()
    assert place.path("/etc/conda/condarc.d").is_dir()


def test_a_link_is_removed_and_not_what_it_leads_to(place: Place) -> None:
    """An administrator may have put the runners' directory on another disk."""
    elsewhere = place.path("/srv/disk")
    elsewhere.mkdir(parents=True)
    (elsewhere / "file").write_text("x")
    place.path("/opt").mkdir()
    place.path("/opt/actions-runner").symlink_to(elsewhere)
    write_receipt(place, ("path", "/opt/actions-runner"))
    Removal(place.layout, place.system).run()
    assert not place.path("/opt/actions-runner").is_symlink()
    assert (elsewhere / "file").exists()
