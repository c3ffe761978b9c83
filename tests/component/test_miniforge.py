"""Miniforge on a host: whole or not there, upgraded in one step, and quiet when it is right."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.miniforge import (
    Layout,
    Miniforge,
    Outcome,
    Wanted,
    condarc,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt

from tests.fakes.mirror.server import Mirror

OLD, NEW = "26.3.2-3", "26.5.0-1"
PATH = "/conda-forge/miniforge/releases/download/{version}/Miniforge3-{version}-Linux-{machine}.sh"


@pytest.fixture()
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror") as mirror:
        for version in (OLD, NEW):
            mirror.add_miniforge(version, os.uname().machine)
        yield mirror


class Host:
    """A directory that stands for a host's root."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.receipt = Receipt(root / "var/lib/runnerctl/receipt.json")

    def converge(self, version: str = OLD, *, check: bool = False, sha256: str | None = None) -> Outcome:
        wanted = Wanted(version, self.url, ("conda-forge",), sha256)
        return Miniforge(Layout(str(self.root)), self.receipt, check=check).converge(wanted)

    def conda(self) -> str:
        command = [str(self.root / "opt/miniforge3/bin/conda"), "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    def opt(self) -> list[str]:
        return sorted(os.listdir(self.root / "opt"))


@pytest.fixture()
def host(tmp_path: Path, mirror: Mirror) -> Host:
    (tmp_path / "root").mkdir()
    return Host(tmp_path / "root", mirror.url + PATH)


def test_a_bare_host_gets_a_whole_one_and_then_peace(host: Host, mirror: Mirror) -> None:
    predicted = host.converge(check=True)
    assert os.listdir(host.root) == [], "check mode writes nothing"
    assert mirror.downloads() == {}, "and asks nobody"
    done = host.converge()
    assert done.actions == predicted.actions
    assert host.conda() == "conda 26.3.2"
    mirror.stop()
    assert host.converge().actions == [], "the second run needs no network"
    assert host.converge(check=True).actions == []


def test_it_is_roots_and_base_is_frozen(host: Host) -> None:
    host.converge()
    prefix = host.root / f"opt/miniforge3-{OLD}"
    assert (prefix / "conda-meta/frozen").is_file()
    for path in prefix.rglob("*"):
        status = path.lstat()
        assert status.st_uid == os.geteuid()
        assert stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o7022, path
    noted = [entry.name for entry in host.receipt.entries("path", role="conda")]
    settings = [host.root / f"etc/conda{name}" for name in ("", "/condarc.d", "/condarc.d/10-runnerctl.yml")]
    assert noted == [str(path) for path in (*settings, prefix, host.root / "opt/miniforge3")]


def test_an_upgrade_switches_a_link_and_spares_who_still_uses_the_old_one(host: Host) -> None:
    host.converge()
    job = subprocess.Popen(["sleep", "60"], cwd=host.root / f"opt/miniforge3-{OLD}/bin")
    try:
        done = host.converge(NEW)
        assert host.conda() == "conda 26.5.0"
        assert done.kept == [str(host.root / f"opt/miniforge3-{OLD}")]
        assert host.converge(NEW).actions == [], "nothing to do while the job runs"
    finally:
        job.kill()
        job.wait()
    assert host.converge(NEW).actions == [f"removed {host.root}/opt/miniforge3-{OLD}"]
    assert host.opt() == ["miniforge3", f"miniforge3-{NEW}"]
    assert host.converge(NEW).actions == []


def test_an_upgrade_spares_an_environment_that_an_administrator_made(host: Host) -> None:
    host.converge()
    old = host.root / f"opt/miniforge3-{OLD}"
    (old / "envs/shared").mkdir(parents=True)
    assert host.converge(NEW, check=True).kept == [str(old)]
    assert host.converge(NEW).kept == [str(old)]
    assert host.converge(NEW).actions == [], "and says so without a change"
    (old / "envs/shared").rmdir()
    assert host.converge(NEW).actions == [f"removed {old}"]


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(host: Host) -> None:
    with pytest.raises(HostError, match="expected 0000"):
        host.converge(sha256="0" * 64)
    assert host.opt() == []


def test_a_checksum_that_is_not_published_names_the_variable(host: Host, mirror: Mirror) -> None:
    mirror.fault("404", "*.sha256")
    with pytest.raises(HostError, match=r"answered 404.*set conda_sha256"):
        host.converge()


def test_a_pinned_installer_from_a_path_needs_no_network(host: Host, mirror: Mirror) -> None:
    file = next(mirror.root.rglob(f"Miniforge3-{OLD}-*.sh"))
    mirror.stop()
    host.url = str(file)
    host.converge(sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    assert host.conda() == "conda 26.3.2"


@pytest.mark.parametrize("link", [None, "/usr/local/conda"])
def test_somebody_elses_conda_is_refused(host: Host, link: str | None) -> None:
    (host.root / "opt").mkdir()
    place = host.root / "opt/miniforge3"
    place.symlink_to(link) if link else place.mkdir()
    for check in (True, False):
        with pytest.raises(HostError, match="was not installed by this role; move it away"):
            host.converge(check=check)


def test_settings_are_repaired(host: Host) -> None:
    host.converge()
    settings = host.root / "etc/conda/condarc.d/10-runnerctl.yml"
    settings.write_text("channels: [defaults]\n")
    done = host.converge()
    assert done.actions == [f"wrote {settings}"]
    assert settings.read_bytes() == condarc(["conda-forge"])


def test_a_failing_installer_is_one_line_and_the_next_run_mends_it(host: Host, tmp_path: Path) -> None:
    broken = tmp_path / "broken.sh"
    broken.write_text('mkdir -p "$3"; echo half >"$3/half"; echo "ERROR: something is off" >&2; exit 3\n')
    working, host.url = host.url, str(broken)
    with pytest.raises(HostError, match="installer failed: ERROR: something is off") as error:
        host.converge(sha256=hashlib.sha256(broken.read_bytes()).hexdigest())
    assert "\n" not in str(error.value)
    assert not (host.root / "opt/miniforge3").exists()
    host.url = working
    host.converge()
    assert host.conda() == "conda 26.3.2"
    assert not (host.root / f"opt/miniforge3-{OLD}/half").exists()


@pytest.mark.exhaustive
def test_a_killed_run_is_finished_by_the_next_one(host: Host, tmp_path: Path) -> None:
    """Its installer outlives it; the next run waits for that, clears what it left, and starts again."""
    slow = tmp_path / "slow.sh"
    slow.write_text('mkdir -p "$3/bin"; echo half >"$3/bin/half"; sleep 1.5; echo late >"$3/late"\n')
    program = (
        "import sys; from pathlib import Path; from tests.component.test_miniforge import Host; "
        "Host(Path(sys.argv[1]), sys.argv[2]).converge(sha256=sys.argv[3])"
    )
    sha256 = hashlib.sha256(slow.read_bytes()).hexdigest()
    run = subprocess.Popen([sys.executable, "-c", program, str(host.root), str(slow), sha256])
    half = host.root / f"opt/miniforge3-{OLD}/bin/half"
    deadline = time.monotonic() + 20
    while not half.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait(timeout=10)
    host.converge()
    assert host.conda() == "conda 26.3.2"
    assert not (host.root / f"opt/miniforge3-{OLD}/late").exists()
    assert host.opt() == ["miniforge3", f"miniforge3-{OLD}"], "the killed run's download is gone too"


def test_the_settings_are_plain_yaml_and_pin_the_channels() -> None:
    yaml = pytest.importorskip("yaml")
    text = condarc(["https://mirror.example.org/conda-forge", "bioconda"]).decode()
    data = yaml.safe_load(text)
    assert (
        data["channels"] == data["default_channels"] == ["https://mirror.example.org/conda-forge", "bioconda"]
    )
    assert data["channel_priority"] == "strict"
    assert data["auto_activate"] is False
    assert text.count("#!final") == 2
