"""Adopting what ``svc.sh`` installed, whose directory belongs to somebody who runs jobs: no trust, no loss.

The host is a directory; systemd is a set of units. A kill is an exception that nothing catches.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import adoption
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.adoption import Claim
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.registrations import read_registrations
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import (
    Process,
    System,
    UnitState,
)

from runnerctl.cli.adopt import Desk
from runnerctl.cli.context import Context, Paths
from runnerctl.cli.host import Slots
from runnerctl.core.spec import host_spec
from runnerctl.errors import ConfigError, TryAgainError

UNIT = "actions.runner.acme.box-a.service"
FOLDER = "/home/ci/box-a"
ME = pwd.getpwuid(os.geteuid()).pw_name
SETTINGS = {
    "agentId": 7,
    "agentName": "box-a",
    "gitHubUrl": "https://github.com/acme",
    "serverUrl": "https://pipelines.actions.githubusercontent.com/x",
    "workFolder": "/data/work",
}


class Killed(BaseException):
    """The power goes."""


@dataclass
class Host(System):
    """A host in a directory with one stock installation; its ``steps`` are what systemd was told."""

    layout: Layout
    running: set[str] = field(default_factory=lambda: {UNIT})
    workers: set[str] = field(default_factory=set)
    steps: list[str] = field(default_factory=list)

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        """By the set."""
        return {unit: UnitState("active" if unit in self.running else "inactive") for unit in units}

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        """Start and stop."""
        assert seconds > 0
        self.steps.append(" ".join(words))
        if words[0] == "start":
            self.running.add(words[-1])
        elif words[0] == "stop":
            self.running.discard(words[-1])

    def forget_failure(self, unit: str) -> None:
        """Nothing to forget."""

    def processes_in(self, unit: str) -> list[Process]:
        """A worker where a test says so."""
        return [Process(9, "Runner.Worker")] if unit in self.workers else []

    def write(self, name: str, text: str) -> Path:
        """One of the installation's files."""
        path = self.layout.path(FOLDER) / name
        path.write_text(text)
        return path

    def settings(self, name: str = ".runner", **changes: Any) -> None:
        """What a job may have written there."""
        self.write(name, "\ufeff" + json.dumps({**SETTINGS, **changes}))

    def problem(self) -> str | None:
        """What the list says of the installation."""
        (stock,) = adoption.stock_runners(self.layout, self)
        return stock.problem

    def slot(self, name: str = ".runner") -> Path:
        """A file of the slot."""
        return self.layout.slot_root("a") / name


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """The installation, and a slot with nothing in it."""
    layout = Layout(tmp_path)
    for folder in (layout.units, layout.path(FOLDER), layout.slot_root("a")):
        folder.mkdir(parents=True)
    (layout.units / UNIT).write_text(f"[Service]\nUser={ME}\nWorkingDirectory={FOLDER}\n")
    made = Host(layout)
    made.settings()
    for name in (".credentials", ".credentials_rsaparams"):
        made.write(name, "{}")
    return made


def claim_of(host: Host) -> Claim:
    """The claim of it, written down."""
    claim = Claim("a", UNIT, FOLDER, ME, 7, "box-a", "https://github.com/acme")
    adoption.write_claim(host.layout, claim)
    return claim


# -- what a job may have left in the directory ---------------------------------------------------------------


def _fifo(host: Host) -> None:
    host.layout.path(f"{FOLDER}/.credentials").unlink()
    os.mkfifo(host.layout.path(f"{FOLDER}/.credentials"))


def _link(host: Host) -> None:
    host.write("elsewhere", "{}").rename(host.layout.path("/secret"))
    host.layout.path(f"{FOLDER}/.credentials").unlink()
    host.layout.path(f"{FOLDER}/.credentials").symlink_to(host.layout.path("/secret"))


def _hard_link(host: Host) -> None:
    host.layout.path("/secret").hardlink_to(host.layout.path(f"{FOLDER}/.credentials"))


def _huge(host: Host) -> None:
    with host.write(".credentials", "").open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_fifo, "is no plain file"),
        (_link, "cannot be read"),
        (_hard_link, "is no plain file"),
        (_huge, "is no plain file"),
        (lambda host: host.settings(agentName="deploy"), "and its unit another"),
        (lambda host: host.settings(agentName="acme.box-a"), "and its unit another"),
        (lambda host: host.settings(gitHubUrl="https://github.com/acme/box-a"), "and its unit another"),
        (lambda host: host.settings(serverUrlV2="https://evil.example/"), "is no server of github.com"),
        (lambda host: host.settings(serverUrl="https://[evil"), "is no server of github.com"),
        (lambda host: host.settings(serverUrl="https://xgithubusercontent.com"), "is no server"),
        (lambda host: host.settings(".runner_migrated", agentId=8), "name different runners"),
        (lambda host: host.write(".runner_migrated", "[1]"), "name different runners"),
        (lambda host: host.settings(ephemeral=True), "it is ephemeral"),
    ],
)
def test_what_a_job_left_is_not_believed(host: Host, spoil: Callable[[Host], object], says: str) -> None:
    """It is said in the list, and a take-over that was claimed before leaves the stock service running."""
    claim = claim_of(host)
    assert host.problem() is None
    spoil(host)
    assert says in (host.problem() or "")
    with pytest.raises(HostError):
        adoption.take_over(host.layout, host, claim, version="2.336.0")
    assert host.running == {UNIT} and not host.slot().exists()


@pytest.mark.parametrize(
    ("unit", "name", "url"),
    [
        ("actions.runner.acme-widgets.Box_1.service", "box 1", "https://github.com/acme/widgets/"),
        ("actions.runner.enterprises-big.box.service", "box", "https://ghe.example:8443/enterprises/big"),
        (f"actions.runner.acme-{'w' * 65}.{'n' * 40}-4711.service", "n" * 64, f"https://x/acme/{'w' * 90}"),
    ],
)
def test_a_units_name_is_what_svc_sh_makes_of_the_runners(unit: str, name: str, url: str) -> None:
    """Spaces, owners and names that are too long."""
    assert adoption._is_of_unit(unit, name, url)
    assert not adoption._is_of_unit(unit, f"other-{name}", url)


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "huge", "directory"])
def test_what_a_host_holds_is_read_without_waiting_and_without_end(host: Host, kind: str) -> None:
    """Before records are pruned every installation is read: what says nothing is a doubt, and keeps them."""
    assert [found.agent_id for found in read_registrations(host.layout).found] == [7]
    path = host.layout.path(f"{FOLDER}/.runner")
    path.unlink()
    if kind == "huge":
        _huge(host)
        host.layout.path(f"{FOLDER}/.credentials").rename(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("/dev/zero" if kind == "device" else path.with_name("pipe"))
    read = read_registrations(host.layout)
    assert read.found == [] and "cannot be read" in read.problems[-1]


# -- the take-over ------------------------------------------------------------------------------------------


def test_the_slot_works_in_its_own_directory(host: Host) -> None:
    """Its unit lets it write nowhere else, wherever the stock runner worked; nothing else is changed."""
    adoption.take_over(host.layout, host, claim_of(host), version="2.336.0")
    assert json.loads(host.slot().read_text()) == {**SETTINGS, "workFolder": "_work"}
    assert adoption.claims(host.layout) == [] and host.running == set()


def test_a_take_over_that_fails_leaves_the_runner_running(host: Host) -> None:
    """A full disk, say, after the stock service was stopped."""
    claim = claim_of(host)
    host.slot(".credentials").mkdir()  # it cannot be replaced by a file
    with pytest.raises(HostError, match="is in the way"):
        adoption.take_over(host.layout, host, claim, version="2.336.0")
    assert host.running == {UNIT}
    host.slot(".credentials").rmdir()
    adoption.take_over(host.layout, host, claim, version="2.336.0")
    assert host.slot().exists() and host.running == set()


def _dying(patch: pytest.MonkeyPatch, host: Host, step: int) -> list[str]:
    """The power goes after so many steps; every change of a file and every word to systemd is one."""
    done: list[str] = []

    def dies(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if len(done) == step:
                raise Killed
            done.append(name)
            return real(*args, **named)

        return call

    for module, name in ((os, "rename"), (os, "unlink"), (os, "fsync"), (host, "systemctl")):
        patch.setattr(module, name, dies(name, getattr(module, name)))
    return done


def test_a_take_over_is_finished_after_a_kill_at_any_step(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One registration all the time, in one place that is complete, and at the end in the slot alone."""
    saved = {path: path.read_bytes() for path in sorted(host.layout.root.rglob("*")) if path.is_file()}
    for step in range(100):
        claim = claim_of(host)
        with monkeypatch.context() as patch:
            done = _dying(patch, host, step)
            with contextlib.suppress(Killed):
                adoption.take_over(host.layout, host, claim, version="2.336.0")
        names = (".runner", ".credentials", ".credentials_rsaparams")
        old = [host.layout.path(f"{FOLDER}/{name}").exists() for name in names]
        assert all(old) or all(host.slot(name).exists() for name in names), f"lost at step {step}"
        finished = len(done) < step
        if adoption.claims(host.layout):
            host.running |= {UNIT} if (host.layout.units / UNIT).exists() else set()  # it was a power cut
            adoption.take_over(host.layout, host, claim, version="2.336.0")
        assert host.running == set() and not (host.layout.units / UNIT).exists()
        assert sorted(path.name for path in host.layout.path(FOLDER).iterdir()) == []
        assert json.loads(host.slot().read_text())["agentId"] == 7
        if finished:
            assert step > 10
            return
        for path in [*host.slot("").iterdir(), *saved]:
            path.unlink(missing_ok=True)
        for path, data in saved.items():
            path.write_bytes(data)
        host.running.add(UNIT)
    raise AssertionError("it never ends")


# -- claims -------------------------------------------------------------------------------------------------


def test_a_claim_is_forgotten_by_the_name_of_a_slot_only(host: Host) -> None:
    """No other file can be named so; what a kill left half done is known."""
    state = host.layout.state("slots", "a")
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    assert not adoption.forget_claim(host.layout, "../slots/a") and state.exists()
    claim = claim_of(host)
    assert not adoption.is_begun(host.layout, claim)
    host.slot().write_text(json.dumps(SETTINGS))
    assert adoption.is_begun(host.layout, claim)
    assert adoption.forget_claim(host.layout, "a") and not adoption.forget_claim(host.layout, "a")


@pytest.fixture
def desk(host: Host) -> Desk:
    """The command on this host: two slots that it may become."""
    slots = [{"name": "a"}, {"name": "b"}]
    variables = {"github_runner_url": SETTINGS["gitHubUrl"], "github_runner_slots": slots}
    spec, problems = host_spec("gpu-1", variables)
    assert spec is not None, problems
    root = host.layout.root
    (root / "etc/runnerctl").mkdir()
    (root / "etc/runnerctl/host.json").write_bytes(msgspec.json.encode(spec))
    context = Context({}, io.StringIO(), io.StringIO(), paths=Paths(root), user_id=lambda: 0)
    return Desk(Slots(context, layout=host.layout, system=host))


def test_one_installation_becomes_one_slot(host: Host, desk: Desk) -> None:
    """Claimed for two slots it would be asked for twice, and the second could never be carried out."""
    host.layout.path("/opt").mkdir()
    assert desk.adopt("box-a", "a", seconds=0.0, output=None) == 0
    assert desk.adopt("box-a", "a", seconds=0.0, output=None) == 0
    with pytest.raises(ConfigError, match=r"slot a claims it; .*--forget a"):
        desk.adopt("box-a", "b", seconds=0.0, output=None)
    assert [each.slot for each in adoption.claims(host.layout)] == ["a"]
    host.slot().write_text(json.dumps(SETTINGS))
    with pytest.raises(ConfigError, match="has the registration already"):
        desk.forget("a", None)


def test_a_job_that_begins_at_the_last_moment_is_told(
    host: Host, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim stays, and the exit code says that it is not done."""
    host.layout.path("/opt/actions-runner/2.336.0").mkdir(parents=True)

    def converge(self: Slots, slot: object) -> object:
        assert self and slot
        return None

    monkeypatch.setattr(Slots, "converge", converge)
    with pytest.raises(TryAgainError, match="runs a job"):
        desk.adopt("box-a", "a", seconds=0.0, output=None)
