"""The target's half of container_toolkit: an Engine left in peace, packages of one version."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.packages import Packages
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_devices import Devices
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_engine import (
    Due,
    DueFile,
    Engine,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_packages import (
    Holds,
    ToolkitPackages,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_work import (
    ToolkitPlan,
    ToolkitWork,
)

NAMES = ("nvidia-container-toolkit", "libnvidia-container1")


# -- the Engine ------------------------------------------------------------------------------------------


class StillEngine(Engine):
    """An Engine in memory: ``process`` runs, ``blocked`` says who would suffer from a restart."""

    def __init__(self, version: tuple[int, ...] | None = (20, 10, 24), process: str = "7:100") -> None:
        super().__init__()
        self.number, self.process, self.blocked = version, process, ""
        self.takes_runtimes, self.refuses = True, ""
        self.done: list[str] = []

    def version(self) -> tuple[int, ...] | None:
        return self.number

    def identity(self) -> str:
        return self.process

    def active(self) -> bool:
        return bool(self.process)

    def validate(self, path: str) -> None:
        assert os.path.isfile(path)
        assert os.stat(path).st_mode & 0o077 == 0, "it may hold a password"
        if self.refuses:
            raise HostError(self.refuses)

    def start(self) -> None:
        self.done.append("start")
        self.process = "9:900"

    def reload(self) -> None:
        self.done.append("reload")

    def restart(self) -> None:
        self.done.append("restart")
        self.process = "8:200"

    def knows_runtime(self, name: str) -> bool:
        return self.takes_runtimes and name == "nvidia"

    def keeps_containers(self) -> bool:
        self.done.append("waits for live-restore")
        self.blocked = ""
        return True

    def disturbed_by_restart(self) -> str:
        return self.blocked


class Archive:
    """A package system in memory: ``offers`` is name -> versions, the preferred one first."""

    name = "Debian 12"
    python_packages: tuple[str, ...] = ()

    def __init__(self, there: dict[str, str], offers: dict[str, list[str]]) -> None:
        self.there, self.offers = there, offers
        self.asked: list[list[str]] = []
        self.broken = 0
        self.victims: list[str] = []

    def installed(self, names: Sequence[str]) -> set[str]:
        return set(self.there) & set(names)

    def left(self, names: Sequence[str]) -> set[str]:
        return self.installed(names)

    def refresh_if_old(self, items: Sequence[Sequence[str]]) -> None: ...

    def available(self, names: Sequence[str]) -> set[str] | None:
        return {name for name in names if self.offers.get(name)}

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        return {name: self.there[name] for name in names if name in self.there}

    def offered(self, name: str) -> list[str]:
        return self.offers.get(name, [])

    def exactly(self, name: str, version: str) -> str:
        return f"{name}={version}"

    def brings(self, names: Sequence[str]) -> list[str]:
        return [name.split("=")[0] for name in names]

    def pushes_out(self, names: Sequence[str]) -> list[str]:
        assert names
        return self.victims

    def install(self, names: Sequence[str], *, seconds: float, replacing: bool = False) -> None:
        assert seconds > 0 and not replacing
        self.asked.append(list(names))
        if self.broken:
            self.broken -= 1
            raise HostError("404  Not Found")
        for name, _, version in (each.partition("=") for each in names):
            self.there[name] = version or self.offers[name][0]

    def removable(self, names: Sequence[str]) -> list[str]:
        return list(names)

    def remove(self, names: Sequence[str], *, seconds: float) -> None: ...

    def unfinished(self) -> bool:
        return False

    def finish(self, *, seconds: float) -> None: ...


class Memory(Holds):
    """Holds in memory."""

    def __init__(self) -> None:
        super().__init__(rpm=False)
        self.names: set[str] = set()
        self.released: list[str] = []

    def held(self) -> set[str]:
        return set(self.names)

    def hold(self, names: Sequence[str]) -> None:
        self.names |= set(names)

    def release(self, names: Sequence[str]) -> None:
        self.released += names
        self.names -= set(names)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def _plan(**changes: Any) -> ToolkitPlan:
    plan = ToolkitPlan(
        repositories=(),
        toolkit=NAMES,
        version=None,
        engine=("docker.io",),
        engine_conflicts=(),
        extras=(),
        runtime=True,
        cdi=False,
        daemon={},
        config={"accept-env": "false"},
    )
    return dataclasses.replace(plan, **changes)


class QuietDevices(Devices):
    """Devices that are looked after elsewhere."""

    def apply(self, *, cdi: bool, version: tuple[int, ...] | None) -> None:
        """Nothing."""


@dataclasses.dataclass
class Bench:
    """A host in a directory, converged again and again."""

    root: Path
    engine: StillEngine
    archive: Archive
    holds: Memory = dataclasses.field(default_factory=Memory)

    def run(self, *, check: bool = False, **changes: Any) -> dict[str, Any]:
        receipt = Receipt(self.root / "receipt.json")
        work = ToolkitWork(
            _plan(**changes),
            check=check,
            root=str(self.root),
            engine=self.engine,
            packages=Packages(self.archive, receipt, role="container_toolkit"),
            devices=QuietDevices(),
            receipt=receipt,
            holds=self.holds,
        )
        return work.run()

    @property
    def daemon(self) -> Path:
        return self.root / "etc/docker/daemon.json"

    @property
    def due(self) -> Due | None:
        return DueFile(str(self.root)).read()


@pytest.fixture
def bench(root: Path) -> Bench:
    offers = {name: ["1.19.1-1", "1.17.8-1"] for name in NAMES} | {"docker.io": ["20.10.24+dfsg1-1"]}
    return Bench(root, StillEngine(), Archive({"docker.io": "20.10.24+dfsg1-1"}, offers))


def test_a_running_engine_is_reloaded_and_then_left_alone(bench: Bench) -> None:
    """Runtimes need no restart; the note of what is due is gone; the second run does nothing."""
    predicted = bench.run(check=True)
    assert not bench.daemon.exists()
    first = bench.run()
    assert bench.engine.done == ["reload"]
    assert [action for action in first["actions"] if action not in predicted["actions"]] == [
        "docker.service reloaded"
    ]
    assert bench.due is None
    second = bench.run()
    assert second == {"changed": False, "actions": [], "pending": [], "diff": []}
    assert bench.run(check=True)["changed"] is False


def test_an_upgrade_that_is_refused_leaves_the_holds(bench: Bench) -> None:
    """They are lifted for a transaction that does not come about."""
    bench.run(version="1.17.8")
    bench.archive.victims = ["site-tool"]
    with pytest.raises(HostError, match="site-tool would be removed for "):
        bench.run(version="1.19.1")
    assert set(bench.holds.released) == set(NAMES)
    assert bench.holds.held() == set(NAMES)
    assert bench.archive.there[NAMES[0]] == "1.17.8-1"


def test_a_new_engine_starts_with_its_settings(bench: Bench) -> None:
    """The file is there before the package; CDI is switched on by the version that will be installed."""
    bench.archive.there.clear()
    bench.archive.offers["docker.io"] = ["26.1.5+dfsg1-9"]
    bench.engine.number, bench.engine.process = None, ""
    assert bench.run(check=True, cdi=True)["changed"]
    result = bench.run(cdi=True)
    assert json.loads(bench.daemon.read_text())["features"] == {"cdi": True}
    assert bench.engine.done == ["start"]
    assert "package docker.io installed" in result["actions"]


@pytest.mark.parametrize(
    ("version", "written"), [((20, 10, 24), False), ((25, 0), True), ((28, 2, 2), True), ((28, 3), False)]
)
def test_cdi_is_switched_on_only_where_it_is_off(
    bench: Bench, version: tuple[int, ...], written: bool
) -> None:
    """Before 25 there is none, from 28.3 on it is on."""
    bench.engine.number = version
    bench.run(cdi=True)
    assert ("features" in json.loads(bench.daemon.read_text())) is written


def test_a_restart_waits_and_is_not_forgotten(bench: Bench) -> None:
    """Nobody is disturbed; each run says what waits; when nothing is in the way it is done, once."""
    bench.engine.blocked = "slot a runs a job"
    wish = {"bip": "10.9.0.1/24"}
    first = bench.run(daemon=wish)
    assert "restart" not in bench.engine.done
    assert first["pending"] == [
        "restart of docker.service for /etc/docker/daemon.json: bip, runtimes waits: slot a runs a job"
    ]
    second = bench.run(daemon=wish)
    assert not second["changed"]
    assert len(second["pending"]) == 1
    bench.engine.blocked = ""
    assert bench.run(daemon=wish, check=True)["actions"] == ["docker.service restarted"]
    assert bench.run(daemon=wish)["actions"] == ["docker.service restarted"]
    assert bench.engine.done.count("restart") == 1
    assert not bench.run(daemon=wish)["changed"]


def test_a_restart_that_containers_outlive_waits_for_the_reload_to_say_so(bench: Bench) -> None:
    """The Engine takes ``live-restore`` over a moment after it was told to."""
    bench.engine.blocked = "1 containers run"
    result = bench.run(daemon={"bip": "10.9.0.1/24", "live-restore": True})
    assert bench.engine.done[-3:] == ["reload", "waits for live-restore", "restart"]
    assert result["pending"] == []


def test_an_engine_that_was_started_since_owes_nothing(bench: Bench) -> None:
    """By a reboot, or by a person."""
    bench.engine.blocked = "3 containers run"
    bench.run(daemon={"bip": "10.9.0.1/24"})
    assert bench.due is not None
    bench.engine.process = "77:12345"
    assert not bench.run(daemon={"bip": "10.9.0.1/24"})["changed"]
    assert bench.due is None


def test_a_run_that_was_killed_before_the_reload(bench: Bench) -> None:
    """The note was written first: the next run does what is due although the file is right already."""

    def killed() -> None:
        raise KeyboardInterrupt

    bench.engine.reload = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    del bench.engine.reload
    assert bench.run()["actions"] == ["docker.service reloaded"]


def test_a_reload_that_does_not_suffice_becomes_a_restart(bench: Bench) -> None:
    """Seen by asking the Engine which runtimes it has."""
    bench.engine.takes_runtimes = False
    result = bench.run()
    assert bench.engine.done[-1] == "restart"
    assert result["actions"][-1] == "docker.service restarted"


def test_settings_that_dockerd_refuses_are_not_written(bench: Bench) -> None:
    """It is asked before the file is replaced."""
    bench.daemon.parent.mkdir(parents=True)
    bench.daemon.write_text("{}\n")
    bench.engine.refuses = "dockerd refuses these settings: no such key"
    with pytest.raises(HostError, match="refuses"):
        bench.run(daemon={"nonsense": 1})
    assert bench.daemon.read_text() == "{}\n"
    assert [path.name for path in bench.daemon.parent.iterdir()] == ["daemon.json"]


def test_settings_that_are_a_link_stay_one(bench: Bench) -> None:
    """Somebody keeps them elsewhere: what is there is added to, with its mode."""
    kept = bench.daemon.parent / "kept.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"debug": true}\n')
    kept.chmod(0o600)
    bench.daemon.symlink_to("kept.json")
    bench.run()
    assert bench.daemon.is_symlink()
    assert set(json.loads(kept.read_text())) >= {"debug", "runtimes"}
    assert kept.stat().st_mode & 0o777 == 0o600
    assert bench.run()["actions"] == []


def test_an_engine_of_others_is_configured_but_not_installed(bench: Bench) -> None:
    """Without ``docker`` nothing is installed or started; without an Engine there is no file either."""
    bench.engine.process = ""
    bench.run(engine=())
    assert bench.daemon.exists()
    assert bench.engine.done == []
    bench.daemon.unlink()
    bench.engine.number = None
    bench.run(engine=())
    assert not bench.daemon.exists()


def test_docker_does_not_push_another_engine_out(bench: Bench) -> None:
    """apt would remove docker.io, and what runs in it, without a question."""
    wanted: dict[str, Any] = {"engine": ("docker-ce",), "engine_conflicts": ("docker.io",)}
    bench.archive.offers["docker-ce"] = ["5:28.3.0-1"]
    with pytest.raises(HostError, match=r"docker\.io is installed.*other container_toolkit_docker_source"):
        bench.run(**wanted)


# -- packages --------------------------------------------------------------------------------------------


def _toolkit(bench: Bench, version: str | None = None, *, refreshed: bool = False) -> ToolkitPackages:
    packages = Packages(bench.archive, Receipt(bench.root / "r.json"), role="container_toolkit")
    return ToolkitPackages(packages, bench.holds, NAMES, version, lambda: refreshed)


def test_the_newest_common_version_is_taken_and_stays(bench: Bench) -> None:
    """One package alone may be newer in a repository; what is installed is not changed unasked."""
    bench.archive.offers[NAMES[0]] = ["1.20.0-1", "1.19.1-1"]
    _toolkit(bench).apply(check=False, sources_change=False)
    assert {bench.archive.there[name] for name in NAMES} == {"1.19.1-1"}
    assert bench.holds.names == set(NAMES)
    bench.archive.offers[NAMES[1]].insert(0, "1.20.0-1")
    again = _toolkit(bench)
    again.apply(check=False, sources_change=False)
    assert again.actions == []


def test_a_half_done_upgrade_is_finished(bench: Bench) -> None:
    """With the version that one of them has already."""
    bench.archive.there[NAMES[1]] = "1.17.8-1"
    _toolkit(bench).apply(check=False, sources_change=False)
    assert {bench.archive.there[name] for name in NAMES} == {"1.17.8-1"}


def test_another_version_is_installed_and_held_again(bench: Bench) -> None:
    """Downwards too."""
    _toolkit(bench).apply(check=False, sources_change=False)
    _toolkit(bench, "1.17.8").apply(check=False, sources_change=False)
    assert {bench.archive.there[name] for name in NAMES} == {"1.17.8-1"}
    assert set(bench.holds.released) == set(NAMES)
    assert bench.holds.names == set(NAMES)


def test_lists_out_of_date_are_fetched_once_more(bench: Bench) -> None:
    """A mirror has moved on: one more attempt, and none where the lists are fresh."""
    bench.archive.broken = 1
    _toolkit(bench, refreshed=True).apply(check=False, sources_change=False)
    assert len(bench.archive.asked) == 2
    bench.archive.there.clear()
    bench.archive.broken = 1
    with pytest.raises(HostError, match="404"):
        _toolkit(bench).apply(check=False, sources_change=False)


def test_no_common_version_is_one_clear_line(bench: Bench) -> None:
    """The variable that would settle it is named."""
    bench.archive.offers[NAMES[0]] = ["1.20.0-1"]
    with pytest.raises(HostError, match=r"^container_toolkit_version: no repository"):
        _toolkit(bench).apply(check=False, sources_change=False)
    with pytest.raises(HostError, match=r"has .* 9\.9\.9-\*"):
        _toolkit(bench, "9.9.9").apply(check=False, sources_change=False)


def test_dnf_locks_are_read_from_its_file(tmp_path: Path) -> None:
    """As the plugin writes them."""
    file = tmp_path / "etc/dnf/plugins/versionlock.list"
    file.parent.mkdir(parents=True)
    file.write_text("\n# Added locks\nnvidia-container-toolkit-0:1.19.1-1.*\n!excluded-0:1-1.*\n")
    assert Holds(rpm=True, root=str(tmp_path)).held() == {"nvidia-container-toolkit"}
    assert Holds(rpm=True, root=str(tmp_path / "none")).held() == set()
