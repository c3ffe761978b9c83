"""The command line on a host: from the controller's wheel, whole or not there, and quiet when right."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import cli_install
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.cli_install import (
    CliInstall,
    Layout,
    Outcome,
    Wanted,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.cli_venv import (
    Source,
    find_python,
    pip_error,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import Result
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt

pytestmark = pytest.mark.skipif(find_python() is None, reason="the distribution's Python has no venv module")
SPEC = '{"schema": "runnerctl.host/1", "host": "one"}\n'


def _wheel(directory: Path, name: str, version: str, files: dict[str, str], *, requires: str = "") -> Path:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content = {
        **files,
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        content[f"{info}/RECORD"] = "".join(f"{entry},,\n" for entry in [*content, f"{info}/RECORD"])
        for entry, text in content.items():
            archive.writestr(zipfile.ZipInfo(entry), text)  # without the time: equal content, equal digest
    return path


class Host:
    """A directory that stands for a host's root, and small wheels with the names of the real ones."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = place / "root"
        self.root.mkdir()
        house = place / "house"
        house.mkdir()
        _wheel(house, "msgspec", "1.0", {"msgspec.py": ""})
        self.house = place / "house.tar"
        with tarfile.open(self.house, "w") as archive:
            for path in house.iterdir():
                archive.add(path, arcname=path.name)

    def wanted(
        self, version: str, *, spec: str = SPEC, wheelhouse: bool = True, source: bool = True
    ) -> Wanted:
        script = f"def main():\n    print('runnerctl {version}')\n"
        entry = "[console_scripts]\nrunnerctl = runnerctl.main:main\n"
        files = {"runnerctl/__init__.py": "", "runnerctl/errors.py": "", "runnerctl/main.py": script}
        files[f"runnerctl-{version}.dist-info/entry_points.txt"] = entry
        wheel = _wheel(self.place, "runnerctl", version, files, requires="msgspec")
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        house = hashlib.sha256(self.house.read_bytes()).hexdigest()
        made = Source(str(wheel), sha256, str(self.house), house)
        if not wheelhouse:
            made = Source(str(wheel), sha256, (self.place / "nothing").as_uri())
        return Wanted(version, sha256, spec, made if source else None)

    def converge(self, wanted: Wanted, *, check: bool = False) -> Outcome:
        receipt = Receipt(self.root / "var/lib/runnerctl/receipt.json")
        return CliInstall(Layout(str(self.root)), receipt, check=check).converge(wanted)

    def command(self) -> str:
        path = self.root / "usr/local/bin/runnerctl"
        return subprocess.run([path], capture_output=True, text=True, check=True, timeout=20).stdout.strip()


@pytest.fixture()
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.exhaustive  # a real pip: it takes as long as a whole file
def test_install_peace_failure_upgrade_and_damage(host: Host) -> None:
    first = host.wanted("1.0")
    predicted = host.converge(first, check=True)
    assert os.listdir(host.root) == [], "check mode writes nothing"
    asked = host.converge(host.wanted("1.0", source=False))
    assert asked.needs_wheel
    assert asked.python
    assert asked.actions == []
    assert os.listdir(host.root) == [], "asking for the wheel writes nothing"

    done = host.converge(first)
    assert done.actions == predicted.actions
    assert host.command() == "runnerctl 1.0"
    again = host.wanted("1.0", source=False)
    assert host.converge(again).actions == []
    assert host.converge(again).needs_wheel is False, "a right host needs no transfer"
    assert host.converge(again, check=True).actions == []

    # An upgrade that fails, or is killed, leaves the old one and a directory without a marker.
    with pytest.raises(HostError, match=r"pip cannot install runnerctl: .*msgspec") as error:
        host.converge(host.wanted("2.0", wheelhouse=False))
    assert "add what is missing to the wheelhouse" in str(error.value)
    assert "\n" not in str(error.value)
    assert host.command() == "runnerctl 1.0"
    upgrade = host.wanted("2.0")
    assert sorted(os.listdir(host.root / "opt/runnerctl")) == sorted(
        ["bin", first.directory, upgrade.directory]
    )
    host.converge(upgrade)
    assert host.command() == "runnerctl 2.0"
    assert sorted(os.listdir(host.root / "opt/runnerctl")) == ["bin", upgrade.directory]

    # Broken in two ways: a file of its package is gone; its Python is gone.
    known = host.wanted("2.0", source=False)
    venv = host.root / "opt/runnerctl" / upgrade.directory
    errors = next(venv.glob("lib/python3*/site-packages/runnerctl/errors.py"))
    errors.rename(errors.with_suffix(".aside"))
    assert host.converge(known).needs_wheel
    errors.with_suffix(".aside").rename(errors)
    assert not host.converge(known).needs_wheel
    (venv / "bin/python3").unlink()
    assert host.converge(known).needs_wheel


def _sound(host: Host, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the environment is there: these cases are about what stands around it."""
    venv = host.root / "opt/runnerctl" / wanted.directory
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/runnerctl").symlink_to("/bin/true")
    marker = {"version": wanted.version, "sha256": wanted.sha256, "python": "3.11"}
    (venv / "installed.json").write_text(json.dumps(marker))
    monkeypatch.setattr(cli_install, "probe", lambda *_: True)


@pytest.mark.parametrize("text", ['{"schema": "runnerctl.host/1", "ho', "", '{"schema": "runnerctl.host/0"}'])
def test_an_older_or_damaged_host_file_is_replaced(
    host: Host, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = host.wanted("1.0")
    _sound(host, wanted, monkeypatch)
    file = host.root / "etc/runnerctl/host.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    done = host.converge(wanted)
    assert f"wrote {file}" in done.actions
    assert file.read_text() == SPEC
    assert file.stat().st_mode & 0o777 == 0o644
    assert host.converge(wanted).actions == []


@pytest.mark.parametrize("check", [True, False])
def test_a_host_file_of_a_newer_schema_is_refused(host: Host, check: bool) -> None:
    file = host.root / "etc/runnerctl/host.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"schema": "runnerctl.host/2"}')
    with pytest.raises(
        HostError, match=r"newer schema runnerctl.host/2.*upgrade runnerctl on the controller"
    ):
        host.converge(host.wanted("1.0"), check=check)
    assert file.read_text() == '{"schema": "runnerctl.host/2"}'


def test_somebody_elses_command_is_not_replaced(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = host.wanted("1.0")
    _sound(host, wanted, monkeypatch)
    place = host.root / "usr/local/bin/runnerctl"
    place.parent.mkdir(parents=True)
    place.write_text("theirs")
    with pytest.raises(HostError, match="is in the way"):
        host.converge(wanted)
    assert place.read_text() == "theirs"


def test_a_wheel_damaged_on_its_way_is_refused(host: Host) -> None:
    wanted = host.wanted("1.0")
    assert wanted.source is not None
    Path(wanted.source.wheel).write_bytes(b"other")
    with pytest.raises(HostError, match="SHA-256 is"):
        host.converge(wanted)


def test_pip_speaks_in_one_line() -> None:
    missing = "ERROR: Could not find a version that satisfies the requirement x>=1\nERROR: No matching\n"
    assert pip_error(Result(1, "", missing)) == "Could not find a version that satisfies the requirement x>=1"
    assert (
        pip_error(Result(1, "", "ERROR: [Errno 28] No space left on device\n")) == "no space left on the host"
    )
    offline = f"WARNING: Retrying: Failed to establish a new connection\n{missing}"
    assert pip_error(Result(1, "", offline)).endswith("(the package index cannot be reached)")
    assert pip_error(Result(2, "", "")) == "exit status 2"
