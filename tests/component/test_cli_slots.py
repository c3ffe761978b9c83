"""``register``, ``unregister`` and ``restart``: the real engine and the runner's contract, without systemd.

GitHub and the runner are the stand-ins; systemd is a recorder, and ``systemd-run`` a script that runs what it
is given with the release where the bind mount would put it.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import adoption
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.lock import exclusive
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import (
    Process,
    System,
    UnitState,
)

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.host import Slots
from runnerctl.cli.slots import tell
from runnerctl.errors import AccessError, ConfigError, TryAgainError
from tests.component.cli_support import TOKEN, call, host_json
from tests.fakes.github_api import GithubApi
from tests.fakes.runner_dist import build

SCOPE = "/orgs/acme"
VERSION = "2.336.0"
IDLE: dict[str, Any] = {"when_idle": True, "seconds": None}
RUN = """#!{python}
import os, shutil, sys
words = sys.argv[1:]
options, command = words[:words.index("--")], words[words.index("--") + 1:]
values = [option.partition("=")[2] for option in options if option.startswith("--property=")]
properties = [value.partition("=")[::2] for value in values]
for source, _, target in (value.partition(":") for name, value in properties if name == "BindReadOnlyPaths"):
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
os.chdir(dict(properties)["WorkingDirectory"])
for option in options:
    if option.startswith("--setenv="):
        name, _, value = option.removeprefix("--setenv=").partition("=")
        os.environ[name] = value
os.environ["PATH"] += os.pathsep + {path!r}
os.execvp(command[0], command)
"""


@dataclass
class Recorder(System):
    """A host whose systemd only notes what it is told; one that starts a listener tells GitHub."""

    github: GithubApi
    told: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    workers: list[int] = field(default_factory=list)

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        return {unit: UnitState(active="active" if unit in self.running else "inactive") for unit in units}

    def systemctl(self, *words: str, **_: float) -> None:
        self.told.append(" ".join(words))
        unit = words[-1]
        if words[0] in ("start", "restart"):
            self.running.add(unit)
            for runner in self.github.control.runners():
                self.github.control.change_runner(runner["id"], status="online")
        elif words[0] in ("stop", "disable"):
            self.running.discard(unit)

    def user_exists(self, name: str) -> bool:
        return name.startswith("gha-")

    def ids(self, *_: str) -> tuple[int, int]:
        return os.geteuid(), os.getegid()

    def processes_in(self, *_: str) -> list[Process]:
        left = self.workers.pop(0) if self.workers else 0
        return [Process(1000 + number, "Runner.Worker") for number in range(left)]

    def kill_all_of(self, user: str, *, seconds: float = 10.0) -> int:
        del user, seconds
        return 0


@dataclass
class Host:
    """A provisioned host below a directory."""

    root: Path
    github: GithubApi
    system: Recorder
    slept: list[float] = field(default_factory=list)

    def slots(self, *, user_id: int = 0) -> Slots:
        """The host's slots for one command."""
        context = Context(
            env={"GH_TOKEN": TOKEN, "RUNNERCTL_API_URL": f"{self.github.url}/api/v3"},
            stdout=io.StringIO(),
            stderr=io.StringIO(),
            sleep=self.slept.append,
            paths=Paths(self.root),
            user_id=lambda: user_id,
        )
        clock = iter(range(10_000))
        return Slots(context, layout=Layout(self.root), system=self.system, clock=lambda: float(next(clock)))

    def state(self, slot: str) -> dict[str, object]:
        """What the toolkit noted about a slot."""
        return dict(json.loads((self.root / f"var/lib/runnerctl/slots/{slot}.json").read_text()))


@pytest.fixture(scope="module")
def github() -> Iterator[GithubApi]:
    """One GitHub for this file."""
    with GithubApi() as server:
        yield server


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runner release."""
    return build(VERSION, "x64", tmp_path_factory.mktemp("release"))


@pytest.fixture
def host(tmp_path: Path, github: GithubApi, tarball: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with host.json and one release, and nothing registered."""
    if os.geteuid() != 0:
        pytest.skip("the engine gives files to root: run it as root")
    github.control.reset()
    github.control.add_token(TOKEN, scopes=["admin:org"])
    github.control.release(VERSION)
    host_json(tmp_path, url=f"{github.url}/acme", slots=[{"name": "one", "labels": ["big"]}, {"name": "two"}])
    release = tmp_path / "opt/actions-runner" / VERSION
    release.mkdir(parents=True)
    subprocess.run(["tar", "-xzf", str(tarball), "-C", str(release)], check=True, timeout=120)
    (release / "externals").mkdir(exist_ok=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "systemd-run"
    script.write_text(RUN.format(python=sys.executable, path=str(Path(sys.executable).parent)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return Host(tmp_path, github, Recorder(github))


def test_register_brings_every_slot_online_once(host: Host) -> None:
    """Both slots are registered with their labels and started; asked again, nothing is done or written."""
    done = host.slots().register(None)
    assert [(slot["slot"], slot["status"]) for slot in done.slots] == [("one", "online"), ("two", "online")]
    record = host.github.control.runner(SCOPE, "gpu-1-one")
    assert record is not None
    assert {label["name"] for label in record["labels"]} >= {"self-hosted", "big"}
    assert host.state("one")["agent_id"] == record["id"]
    assert "start gha-runner@one.service" in host.system.told
    host.github.control.clear_requests()
    again = host.slots().register(None)
    assert not [action for action in again.actions if "registration" in action or "start" in action]
    assert host.github.control.counts()[1] == 0


def test_register_leaves_no_token_behind(host: Host) -> None:
    """Neither the API token nor the registration token is in any file of the host."""
    host.slots().register("one")
    secrets = [TOKEN, *host.github.control.secrets("registration")]
    assert len(secrets) > 1
    for path in host.root.rglob("*"):
        if path.is_file() and "externals" not in path.parts:
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path


def test_register_does_nothing_to_a_claimed_runner_that_works(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs still come by the labels it has; that the adoption waits is told, and is exit code 75."""
    record = host.github.control.add_runner(SCOPE, "box-a", labels=["old"], status="online")
    unit, url = "actions.runner.acme.box-a.service", f"{host.github.url}/acme"
    adoption.write_claim(
        Layout(host.root), adoption.Claim("one", unit, "/x", "ci", record["id"], "box-a", url)
    )
    monkeypatch.setattr(
        host.system, "processes_in", lambda name: [Process(9, "Runner.Worker")] * (name == unit)
    )
    slots = host.slots()
    done = slots.register("one")
    assert [line.partition(" runs")[0] for line in done.waiting] == [f"one: {unit}"]
    assert tell(slots.context, done, None) == 75
    assert (host.github.control.runner(SCOPE, "box-a") or {})["labels"] == record["labels"]
    assert host.github.control.counts()[1] == 0


def test_register_refuses_a_foreign_record(host: Host) -> None:
    """A name that another machine's runner holds is not taken."""
    host.github.control.add_runner(SCOPE, "gpu-1-one", status="online")
    with pytest.raises(ConfigError, match="belongs to another runner"):
        host.slots().register("one")
    assert not host.system.told


def test_register_repairs_labels(host: Host) -> None:
    """Labels changed by hand on GitHub come back, without a new registration."""
    host.slots().register("one")
    record = host.github.control.runner(SCOPE, "gpu-1-one")
    assert record is not None
    host.github.control.change_runner(record["id"], labels=["wrong"])
    done = host.slots().register("one")
    assert [action for action in done.actions if action.startswith("gpu-1-one on GitHub")]
    after = host.github.control.runner(SCOPE, "gpu-1-one")
    assert after is not None and after["id"] == record["id"]
    assert "big" in {label["name"] for label in after["labels"]}


def test_register_names_the_slots_there_are(host: Host) -> None:
    """A wrong name, a host without a spec, a user who is not root."""
    with pytest.raises(ConfigError, match="slots there: one, two"):
        host.slots().register("three")
    with pytest.raises(AccessError, match="only root"):
        host.slots(user_id=1000)
    (host.root / "etc/runnerctl/host.json").unlink()
    with pytest.raises(ConfigError, match="never provisioned"):
        host.slots().register(None)


def test_register_needs_an_installed_release(host: Host) -> None:
    """The role installs the runner; the command says so. What is still being unpacked is no release."""
    release = host.root / "opt/actions-runner" / VERSION
    release.rename(release.with_name(f".{VERSION}.x1.partial"))
    with pytest.raises(ConfigError, match="no runner release is installed"):
        host.slots().register("one")


@pytest.mark.exhaustive
def test_unregister_and_register_again(host: Host) -> None:
    """Record gone, unit stopped and disabled, credentials deleted, directories kept; twice is once."""
    host.slots().register(None)
    done = host.slots().unregister("one", seconds=0)
    assert host.github.control.runner(SCOPE, "gpu-1-one") is None
    assert host.github.control.runner(SCOPE, "gpu-1-two") is not None
    assert "disable --now --quiet gha-runner@one.service" in host.system.told
    root = host.root / "var/lib/gha-runner/one"
    assert not (root / ".runner").exists() and not (root / ".credentials").exists()
    assert (root / "_work").is_dir() and host.state("one")["agent_id"] is None
    assert done.actions
    assert host.slots().unregister("one", seconds=0).actions == []
    host.slots().register("one")
    assert host.github.control.runner(SCOPE, "gpu-1-one") is not None


def test_unregister_finishes_a_registration_that_was_cut_off(host: Host) -> None:
    """The host never learnt the id; the record is found by its name, and nobody claims it afterwards."""
    host.slots().register("one")
    path = host.root / "var/lib/runnerctl/slots/one.json"
    path.write_text(json.dumps({**host.state("one"), "agent_id": None, "registering": True}))
    (host.root / "var/lib/gha-runner/one/.runner").unlink()
    record = host.github.control.runner(SCOPE, "gpu-1-one")
    assert record is not None
    host.github.control.change_runner(record["id"], status="offline")
    host.slots().unregister("one", seconds=0)
    assert host.github.control.runner(SCOPE, "gpu-1-one") is None
    assert host.state("one")["registering"] is False
    assert host.slots().unregister("one", seconds=0).actions == []


def test_unregister_waits_for_a_job(host: Host) -> None:
    """GitHub keeps a busy runner: the slot goes on working, and the command says to try again."""
    host.slots().register("one")
    record = host.github.control.runner(SCOPE, "gpu-1-one")
    assert record is not None
    host.github.control.change_runner(record["id"], busy=True)
    host.system.told.clear()
    with pytest.raises(TryAgainError):
        host.slots().unregister("one", seconds=0)
    assert not host.system.told
    assert (host.root / "var/lib/gha-runner/one/.runner").exists()


def test_unregister_lets_idle_slots_go_at_once(host: Host) -> None:
    """A busy slot keeps no other waiting, and what was done before the error is told."""
    host.slots().register(None)
    record = host.github.control.runner(SCOPE, "gpu-1-one")
    assert record is not None
    host.github.control.change_runner(record["id"], busy=True)
    slots = host.slots()
    with pytest.raises(TryAgainError, match="slot one"):
        slots.unregister(None, seconds=0)
    assert [runner["name"] for runner in host.github.control.runners(SCOPE)] == ["gpu-1-one"]
    assert isinstance(slots.context.stderr, io.StringIO)
    assert "of slot two removed from GitHub" in slots.context.stderr.getvalue()


def test_restart_when_idle(host: Host) -> None:
    """It polls until no worker is left, restarts once and takes the marker away."""
    host.slots().register("one")
    marker = host.root / "var/lib/runnerctl/pending/one"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    host.system.told.clear()
    host.system.workers = [1, 2, 1]
    host.slots().restart("one", when_idle=True, seconds=None)
    assert host.system.told == ["restart gha-runner@one.service"]
    assert not marker.exists()
    assert len(host.slept) == 3


def test_restart_never_kills_a_job(host: Host) -> None:
    """Without --when-idle a busy slot is refused at once; with it, when time is over. The marker stays."""
    host.slots().register("one")
    marker = host.root / "var/lib/runnerctl/pending/one"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    host.system.told.clear()
    for when_idle, seconds in ((False, None), (True, 3.0)):
        host.system.workers = [1] * 10
        with pytest.raises(TryAgainError, match="runs a job"):
            host.slots().restart("one", when_idle=when_idle, seconds=seconds)
    assert not host.system.told and marker.exists()


@pytest.mark.exhaustive
def test_restart_waits_for_a_converge(host: Host) -> None:
    """Else it would take away the marker of a change that the restarted runner did not see."""
    host.slots().register("one")
    host.system.told.clear()
    restart = threading.Thread(target=host.slots().restart, args=("one",), kwargs=IDLE)
    with exclusive(str(host.root / "var/lib/runnerctl/slots.lock"), seconds=1):
        restart.start()
        restart.join(0.3)
        assert host.system.told == []
    restart.join(10)
    assert host.system.told == ["restart gha-runner@one.service"]


def test_restart_of_an_unknown_slot(host: Host) -> None:
    """One line with the slots there are."""
    host.slots().register("one")
    with pytest.raises(ConfigError, match="slots here: one"):
        host.slots().restart("three", when_idle=False, seconds=None)


def test_only_root_may_act(tmp_path: Path) -> None:
    """On any host, for all three: 77 and one line."""
    for command in (["register"], ["unregister"], ["restart", "one"]):
        ran = call(*command, root=tmp_path, user_id=1000)
        assert ran.code == 77 and "only root may change the slots" in ran.err
