"""Packages: what is missing is installed once, predicted truthfully, and noted before it is there."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.packages import Packages, package_system
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.packages_apt import (
    Apt,
    apt_error,
    parse_added,
    parse_candidates,
    parse_installed,
    parse_refused,
    parse_removed,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.packages_rpm import (
    dnf_error,
    parse_missing,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import Result
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt


class Distribution:
    """A package system in memory. ``lists`` None: never fetched."""

    name = "Debian 12"
    python_packages: tuple[str, ...] = ()

    def __init__(self, *, there: set[str], lists: set[str] | None, needed: set[str] | None = None) -> None:
        self.there, self.lists, self.needed = there, lists, needed or set()
        self.repository = {"git", "libicu72", "libssl3", "tar"}
        self.fail: str | None = None
        self.receipt: Receipt | None = None
        self.noted_in_time = True
        self.asked: list[object] = []
        self.finished = 0
        self.version = "1.0-1"
        self.specs: list[str] = []
        self.victims: list[str] = []

    def installed(self, names: Sequence[str]) -> set[str]:
        return self.there & set(names)

    def left(self, names: Sequence[str]) -> set[str]:
        return self.there & set(names)

    def refresh_if_old(self, items: Sequence[Sequence[str]]) -> None:
        self.asked.append(items)
        self.lists = self.repository

    def available(self, names: Sequence[str]) -> set[str] | None:
        return None if self.lists is None else self.lists & set(names)

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        return {name: self.version for name in names if name in self.there}

    def offered(self, name: str) -> list[str]:
        return ["2.0-2", "2.0-1", "1.0-1"] if name in self.repository else []

    def exactly(self, name: str, version: str) -> str:
        return f"{name}={version}"

    def unfinished(self) -> bool:
        return False

    def brings(self, names: Sequence[str]) -> list[str]:
        names = [name.partition("=")[0] for name in names]
        return [*names, *(f"{name}-data" for name in names if name == "git")]

    def pushes_out(self, names: Sequence[str]) -> list[str]:
        assert names
        return [victim for victim in self.victims if victim in self.there]

    def install(self, names: Sequence[str], *, seconds: float, replacing: bool = False) -> None:
        assert replacing == bool(self.pushes_out(names))
        self.there -= set(self.victims)
        self.asked.append(seconds)
        self.specs = list(names)
        self.version = next((name.partition("=")[2] for name in names if "=" in name), self.version)
        names = [name.partition("=")[0] for name in names]
        if self.receipt is not None:
            noted = {entry.name for entry in self.receipt.entries("package")}
            self.noted_in_time = set(names) <= noted
        if self.fail:
            raise HostError(self.fail)
        self.there |= set(names)

    def removable(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self.needed]

    def remove(self, names: Sequence[str], *, seconds: float) -> None:
        self.asked.append(seconds)
        self.there -= set(names)

    def finish(self, *, seconds: float) -> None:
        assert seconds > 0
        self.finished += 1


def _packages(system: Distribution, tmp_path: Path) -> Packages:
    receipt = Receipt(tmp_path / "receipt.json")
    system.receipt = receipt
    return Packages(system, receipt, role="github_runner", variable="github_runner_packages")


def _noted(tmp_path: Path) -> list[str]:
    return [entry.name for entry in Receipt(tmp_path / "receipt.json").entries("package")]


def test_missing_ones_are_installed_once_and_noted_before(tmp_path: Path) -> None:
    system = Distribution(there={"tar"}, lists=None)
    packages = _packages(system, tmp_path)
    items = ["git", "tar", "libicu80|libicu72|libicu71"]
    outcome = packages.present(items)
    assert outcome.installed == ("git", "libicu72")
    assert system.noted_in_time
    assert _noted(tmp_path) == ["git", "libicu72", "git-data"], "with dependencies; tar was there before"
    asked = len(system.asked)
    assert not packages.present(items).changed
    assert len(system.asked) == asked, "a right host is only looked at"


def test_any_installed_alternative_is_enough(tmp_path: Path) -> None:
    system = Distribution(there={"libicu71"}, lists={"libicu72"})
    assert not _packages(system, tmp_path).present(["libicu72|libicu71"]).changed


def test_a_package_has_the_version_it_must_have(tmp_path: Path) -> None:
    """Another version is replaced by the preferred one that fits; the right one is left alone."""
    system = Distribution(there={"git"}, lists=None)
    packages = _packages(system, tmp_path)
    versions = {"git": "2.0-*"}
    assert packages.present(["git"], versions=versions, check=True).installed == ("git",)
    assert packages.present(["git"], versions=versions).installed == ("git",)
    assert system.specs == ["git=2.0-2"]
    assert not packages.present(["git"], versions=versions).changed
    with pytest.raises(HostError, match=r"has git 3\.\*; there is 2\.0-2, 2\.0-1, 1\.0-1; name a version"):
        packages.present(["git"], versions={"git": "3.*"})


def test_check_mode_says_what_comes_from_repositories_that_come_too(tmp_path: Path) -> None:
    """The real run adds them first; without that, a name that no repository has is refused."""
    system = Distribution(there=set(), lists={"git"})
    packages = _packages(system, tmp_path)
    predicted = packages.present(["git", "new|newer"], sources_change=True, check=True)
    assert predicted.installed == ("git", "new")
    with pytest.raises(HostError, match="has package new or newer"):
        packages.present(["git", "new|newer"], check=True)


def test_check_mode_predicts_and_writes_nothing(tmp_path: Path) -> None:
    system = Distribution(there=set(), lists=None)
    packages = _packages(system, tmp_path)
    assert packages.present(["libicu80|libicu72", "git"], check=True).installed == ("libicu80", "git")
    system.lists = system.repository
    assert packages.present(["libicu80|libicu72", "git"], check=True).installed == ("libicu72", "git")
    assert packages.present(["git"], check=True).changed
    assert os.listdir(tmp_path) == []


def test_a_killed_installation_leaves_no_package_without_a_note(tmp_path: Path) -> None:
    system = Distribution(there=set(), lists=None)
    system.fail = "killed"
    with pytest.raises(HostError):
        _packages(system, tmp_path).present(["git"])
    assert _noted(tmp_path) == ["git", "git-data"]


@pytest.mark.parametrize("check", [True, False])
def test_nobody_elses_package_goes_for_it(tmp_path: Path, check: bool) -> None:
    """apt would remove it without a question; check mode says so as well."""
    system = Distribution(there={"vim", "tar"}, lists={"git"})
    system.victims = ["vim"]
    with pytest.raises(HostError) as error:
        _packages(system, tmp_path).present(["git"], check=check)
    assert str(error.value) == (
        "github_runner_packages: vim would be removed for git; "
        "remove it yourself if nothing on the host needs it"
    )
    assert system.there == {"vim", "tar"}
    assert _noted(tmp_path) == []


def test_what_the_role_itself_brought_may_be_replaced(tmp_path: Path) -> None:
    """A driver of another branch takes the place of the one before; another role's package stays."""
    system = Distribution(there={"old-driver", "tar"}, lists=None)
    system.victims = ["old-driver"]
    packages = _packages(system, tmp_path)
    receipt = Receipt(tmp_path / "receipt.json")
    receipt.record("package", "old-driver", role="another")
    with pytest.raises(HostError, match="old-driver would be removed for git"):
        packages.present(["git"])
    receipt.forget("package", "old-driver")
    receipt.record("package", "old-driver", role="github_runner")
    assert packages.present(["git"]).installed == ("git",)
    assert system.there == {"tar", "git"}


def test_apt_is_asked_first_what_would_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real output of ``apt-get -s``; nothing is removed, and nothing installed."""
    commands = Commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{commands.directory}:{os.environ['PATH']}")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/x_Packages").touch()
    commands.add("dpkg-query", 'printf "podman-docker\\tamd64\\tinstalled\\t\\n"')
    commands.add("apt-cache", 'echo "docker-ce:"; echo "  Candidate: 5:29.1"')
    foretold = "Remv podman-docker [4.3.1+ds1-8]\nInst docker-ce (5:29.1 Docker [amd64])"
    commands.add("apt-get", f"printf '{foretold}\\n'")
    system = Apt("Debian", lists=str(tmp_path / "lists"), status=str(tmp_path), sources=str(tmp_path / "no"))
    packages = Packages(system, Receipt(tmp_path / "receipt.json"), role="x")
    with pytest.raises(HostError, match=r"^podman-docker would be removed for docker-ce; "):
        packages.present(["docker-ce"])
    asked = [call for call in commands.calls() if call.startswith("apt-get")]
    assert len(asked) == 1
    assert asked[0].startswith("apt-get -s ")


@pytest.mark.parametrize("check", [True, False])
def test_an_unknown_package_names_itself_and_the_variable(tmp_path: Path, check: bool) -> None:
    system = Distribution(there=set(), lists={"git"})
    with pytest.raises(HostError) as error:
        _packages(system, tmp_path).present(["git", "nonsense", "a|b"], check=check)
    line = str(error.value)
    assert line.startswith("github_runner_packages: no repository of this host (Debian 12) has package")
    assert "nonsense, a or b" in line
    assert "git" not in system.there


@pytest.mark.parametrize("name", ["", "--yes", "a b", "a||b", "git=1.0"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError, match="is no package name"):
        _packages(Distribution(there=set(), lists=None), tmp_path).present([name])


def test_absent_removes_the_named_and_keeps_what_others_need(tmp_path: Path) -> None:
    system = Distribution(there={"git", "libssl3", "tar"}, lists=None, needed={"libssl3"})
    packages = _packages(system, tmp_path)
    Receipt(tmp_path / "receipt.json").record("package", ["git", "libssl3"], role="github_runner")
    predicted = packages.absent(["git", "libssl3", "gone"], check=True)
    assert predicted.removed == ("git",)
    assert packages.absent(["git", "libssl3", "gone"]) == predicted
    assert predicted.kept == ("libssl3",)
    assert system.there == {"libssl3", "tar"}
    assert _noted(tmp_path) == []
    assert not packages.absent(["git", "gone"]).changed


def test_what_a_killed_removal_left_of_other_packages_is_finished(tmp_path: Path) -> None:
    """Its own packages may be gone, and the triggers of another still be pending; check mode does nothing."""
    system = Distribution(there={"tar"}, lists=None)
    packages = _packages(system, tmp_path)
    packages.absent(["git"], check=True)
    assert system.finished == 0
    packages.absent(["git"])
    assert system.finished == 1
    packages.absent([])
    assert system.finished == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', "Apt"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "Apt"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "Rpm"),
    ],
)
def test_the_distribution_is_found(tmp_path: Path, text: str, kind: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(text)
    assert type(package_system(str(path))).__name__ == kind


def test_another_distribution_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text('ID=alpine\nPRETTY_NAME="Alpine Linux v3.22"\n')
    with pytest.raises(HostError, match=r"Alpine Linux v3\.22 is not supported; use a Debian"):
        package_system(str(path))


def test_reading_dpkg() -> None:
    out = (
        "git\tamd64\tinstalled\t\n"
        "libssl3t64\tamd64\tinstalled\tlibssl3 (= 3.5.1-1), other\n"
        "vim\tamd64\tconfig-files\t\n"
        "half\tamd64\tunpacked\t\n"
        "gone\tamd64\tnot-installed\t\n"
    )
    database = parse_installed(out)
    assert database.packages == {"git", "git:amd64", "libssl3t64", "libssl3t64:amd64"}
    assert database.provided == {"libssl3", "other"}
    assert {name for name in database.left if ":" not in name} == {"git", "libssl3t64", "vim", "half"}
    assert database.unfinished
    assert not parse_installed("git\tamd64\tinstalled\t\n").unfinished


def test_reading_apt() -> None:
    out = "git:\n  Installed: (none)\n  Candidate: 1:2.39\nawk:\n  Installed: (none)\n  Candidate: (none)\n"
    assert parse_candidates(out) == {"git": True, "awk": False}
    assert parse_added("Inst git (1:2.39 Debian [amd64])\nInst tar [1.34] (1.35 Debian)\n") == ["git"]
    swap = "Remv vim [2:9.0 ]\nInst nano (7.2 Debian)\nPurg ed:i386 [1.19]\nConf nano (7.2 Debian)\n"
    assert parse_removed(swap) == ["vim", "ed:i386"]
    refused = "dpkg: error processing package libssl3:amd64 (--purge):\n dependency problems\n"
    assert parse_refused(refused) == {"libssl3"}
    locked = Result(100, "", "E: Could not get lock /var/lib/dpkg/lock. It is held by process 7\nE: other\n")
    assert apt_error(locked).startswith("Could not get lock")
    full = Result(
        100, "", "dpkg: error processing x\n write failed (No space left on device)\nE: Sub-process\n"
    )
    assert apt_error(full) == "no space left on the host"
    assert apt_error(Result(7, "", "")) == "exit status 7"


def test_reading_rpm() -> None:
    assert parse_missing("git\nno package provides lttng-ust\nzlib-ng-compat\n") == {"lttng-ust"}
    assert dnf_error(Result(1, "", "Error: Unable to find a match: nonsense\n")) == (
        "Unable to find a match: nonsense"
    )


class Commands:
    """Programs of our own first on PATH, which log how they were called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        directory.mkdir()

    def add(self, name: str, script: str) -> None:
        path = self.directory / name
        log = f"echo \"{name} $*\" | tr '\\n' ' ' >>{self.log}; echo >>{self.log}"
        path.write_text(f"#!/bin/sh\n{log}\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.strip() for line in lines]


def test_apt_fetches_lists_only_when_needed_and_finishes_what_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{commands.directory}:{os.environ['PATH']}")
    state, lists, status = tmp_path / "git-installed", tmp_path / "lists", tmp_path / "dpkg"
    (status / "updates").mkdir(parents=True)
    (status / "updates/0001").touch()
    lists.mkdir()
    commands.add("dpkg", f"rm -f {status}/updates/0001")
    commands.add("dpkg-query", f'[ -e {state} ] && printf "git\\tamd64\\tinstalled\\t\\n"; exit 0')
    commands.add("apt-cache", 'echo "git:"; echo "  Candidate: 1"')
    commands.add(
        "apt-get",
        f'case " $*" in *" update") touch {lists}/x_Packages;; *" -s "*) ;; *) touch {state};; esac',
    )
    system = Apt("Debian", lists=str(lists), status=str(status))
    packages = Packages(system, Receipt(tmp_path / "receipt.json"), role="x")
    assert packages.present(["git"], check=True).installed == ("git",)
    assert [call.split()[0] for call in commands.calls()] == ["dpkg-query"], "no lists: nothing more to ask"
    assert packages.present(["git"]).installed == ("git",)
    verbs = [call for call in commands.calls() if not call.startswith(("dpkg-query", "apt-cache"))]
    assert [call.split()[:2] for call in verbs] == [
        ["apt-get", "-q"],
        ["dpkg", "--force-confdef"],
        ["apt-get", "-s"],
        ["apt-get", "-s"],
        ["apt-get", "-o"],
    ]
    assert "APT::Update::Error-Mode=any update" in verbs[0]
    assert verbs[1].endswith("--configure -a")
    assert "--no-install-recommends --no-remove install -- git" in verbs[4]
    commands.log.unlink()
    assert not packages.present(["git"]).changed
    assert [call.split()[0] for call in commands.calls()] == ["dpkg-query"], "a right host costs one query"


def test_a_purge_leaves_the_data_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's Engine deletes images and volumes when it is purged, by a program its removal puts there."""
    commands = Commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{commands.directory}:{os.environ['PATH']}")
    data, shredder = tmp_path / "volume", tmp_path / "shredder"
    data.touch()
    purge = f"[ -e {shredder} ] && rm {data}"
    commands.add("dpkg", f'case "$1" in --remove) touch {shredder} ;; --purge) {purge} ;; esac; exit 0')
    monkeypatch.setattr(Apt, "shredders", {"docker.io": str(shredder)})
    apt = Apt("Debian", status=str(tmp_path))
    apt.remove(["git"], seconds=5)
    apt.remove(["docker.io", "runc"], seconds=5)
    assert commands.calls() == [
        "dpkg --purge -- git",
        "dpkg --remove -- docker.io runc",
        "dpkg --purge -- docker.io runc",
    ]
    assert data.exists()
    assert not shredder.exists()


def test_apt_waits_for_another_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{commands.directory}:{os.environ['PATH']}")
    module = "ansible_collections.runnerctl.gpu_runner.plugins.module_utils.packages_apt"
    monkeypatch.setattr(f"{module}.time.sleep", lambda _: None)
    once = tmp_path / "once"
    busy = f'[ -e {once} ] && exit 0; touch {once}; echo "E: Could not get lock /x" >&2; exit 100'
    commands.add("apt-get", busy)
    Apt("Debian", lists=str(tmp_path / "none")).refresh_if_old([["git"]])
    assert len(commands.calls()) == 2
    commands.add("apt-get", 'echo "E: The repository is not signed." >&2; exit 100')
    with pytest.raises(HostError, match="cannot be fetched: The repository is not signed"):
        Apt("Debian", lists=str(tmp_path / "none")).refresh_if_old([["git"]])
