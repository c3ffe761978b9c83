"""The wheel carries the collection, and Ansible finds both from any directory.

The environment made here is empty but for the wheel; what the wheel depends on is lent to it by links, since
installing that again would prove nothing and take minutes. `test_install_from_an_index` does the whole thing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from runnerctl import __version__

ROOT = Path(__file__).parents[2]
NAME = "runnerctl.gpu_runner"
INSIDE = "ansible_collections/runnerctl/gpu_runner"
PARTS = {"galaxy.yml", "meta", "playbooks", "plugins", "roles"}
ROLES = {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}
MODULES = {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")}
OWN = ("ansible_collections", "runnerctl", "__editable__", "_runnerctl")
HOSTS = """\
runner_hosts:
  hosts:
    there:
      ansible_host: 192.0.2.1
      github_runner_url: https://github.com/acme/widgets
"""


def _call(*argv: str | Path, cwd: Path, seconds: float = 60, env: Mapping[str, str] | None = None) -> str:
    """Run a program that must succeed; gives its stdout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHON"))}
    done = subprocess.run(
        [str(arg) for arg in argv],
        cwd=cwd,
        env={**clean, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _settings(directory: Path) -> dict[str, str]:
    """Ansible without this user's and this machine's settings and collections."""
    config = directory / "empty.cfg"
    config.touch()
    settings = {"ANSIBLE_CONFIG": str(config), "ANSIBLE_HOME": str(directory / "home")}
    return settings | {"ANSIBLE_COLLECTIONS_PATH": str(directory / "none"), "ANSIBLE_NOCOLOR": "1"}


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty directory to work in."""

    python: Path
    site: Path
    work: Path

    def ansible(self, program: str, *argv: str | Path) -> str:
        """Run one of Ansible's programs, away from the checkout and from the user's own settings."""
        return _call(
            self.python, "-m", f"ansible.cli.{program}", *argv, cwd=self.work, env=_settings(self.work)
        )

    def documented(self, kind: str, *names: str) -> dict[str, Any]:
        """What ansible-doc knows of plugins of a kind."""
        found: dict[str, Any] = json.loads(self.ansible("doc", "-t", kind, "-j", *names))
        return found


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    to = tmp_path_factory.mktemp("wheel")
    _call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", to, cwd=ROOT)
    return next(to.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own; its dependencies are links into ours."""
    base = tmp_path_factory.mktemp("installed")
    _call(sys.executable, "-m", "venv", "--without-pip", base / "venv", cwd=base)
    python = base / "venv" / "bin" / "python"
    get_site = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(_call(python, "-c", get_site, cwd=base).strip())
    lent = base / "lent"
    lent.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(OWN) and path.suffix != ".pth":
            (lent / path.name).symlink_to(path)
    (site / "lent.pth").write_text(f"{lent}\n")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    _call(*pip, "--no-deps", "--no-index", "--disable-pip-version-check", wheel, cwd=base)
    (base / "work").mkdir()
    (base / "work" / "hosts.yml").write_text(HOSTS)
    return Installed(python, site, base / "work")


def test_the_wheel_holds_the_package_and_the_collection_alone(wheel: Path) -> None:
    """Neither tests nor inventory nor compiled files travel with it."""
    names = [PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()]
    tops = {name.parts[0] for name in names}
    assert tops == {"runnerctl", "ansible_collections", f"runnerctl-{__version__}.dist-info"}
    collection = [name.relative_to(INSIDE) for name in names if name.parts[0] == "ansible_collections"]
    assert {name.parts[0] for name in collection} == PARTS
    assert not [name for name in names if "__pycache__" in name.parts or "tests" in name.parts]


def test_the_wheel_holds_all_of_the_collection(wheel: Path) -> None:
    """Every file of the checkout's collection that git knows is in it."""
    inside = {name.removeprefix(f"{INSIDE}/") for name in zipfile.ZipFile(wheel).namelist()}
    tracked = _call("git", "ls-files", "-z", *sorted(PARTS), cwd=ROOT).strip("\0").split("\0")
    assert {name for name in tracked if (ROOT / name).exists()} <= inside


def test_the_command_runs_from_the_wheel(installed: Installed) -> None:
    """The console script is the wheel's, and so is what it imports."""
    command = installed.python.parent / "runnerctl"
    assert __version__ in _call(command, "--version", cwd=installed.work)
    where = _call(installed.python, "-c", "import runnerctl; print(runnerctl.__file__)", cwd=installed.work)
    assert Path(where.strip()).is_relative_to(installed.site)


def test_ansible_finds_the_collection_of_the_wheel(installed: Installed) -> None:
    """Not the checkout's, although that one is linked into the environment the tests run in."""
    listed = installed.ansible("doc", "-t", "module", "-F", NAME)
    paths = {line.split()[0]: Path(line.split()[1]) for line in listed.splitlines() if line.strip()}
    assert set(paths) == {f"{NAME}.{module}" for module in MODULES}
    assert all(path.is_relative_to(installed.site / INSIDE) for path in paths.values())


@pytest.mark.exhaustive
def test_a_playbook_runs_by_its_name_from_any_directory(installed: Installed) -> None:
    """``ansible-playbook runnerctl.gpu_runner.spec`` needs an inventory and nothing else."""
    output = installed.ansible("playbook", f"{NAME}.spec", "-i", "hosts.yml")
    assert "failed=0" in output
    for playbook in ("provision", "deprovision"):
        listed = installed.ansible("playbook", f"{NAME}.{playbook}", "-i", "hosts.yml", "--list-tasks")
        assert "runner_hosts" in listed


def test_every_module_is_documented(installed: Installed) -> None:
    """With a description of each option, an example, and what check mode does."""
    known = installed.documented("module", *(f"{NAME}.{module}" for module in sorted(MODULES)))
    assert set(known) == {f"{NAME}.{module}" for module in MODULES}
    for name, entry in known.items():
        doc = entry["doc"]
        assert doc["short_description"], name
        assert entry["examples"], name
        assert doc["attributes"]["check_mode"]["support"], name
        for option, about in doc.get("options", {}).items():
            assert about["description"], f"{name}: {option}"


@pytest.mark.exhaustive
def test_every_role_is_documented(installed: Installed) -> None:
    """``ansible-doc -t role`` lists all of them with their options."""
    known = installed.documented("role", *(f"{NAME}.{role}" for role in sorted(ROLES)))
    assert {name.removeprefix(f"{NAME}.") for name in known} == ROLES
    for name, entry in known.items():
        assert entry["entry_points"]["main"]["options"], name


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, with what work leaves behind: the artifact must do without that."""
    copy = tmp_path / "checkout"
    names = _call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, [*names.split("\0"), "dist/old.whl", ".venv/pyvenv.cfg", ".cache/image"]):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy / name)
        else:
            (copy / name).touch()
    return copy


@pytest.mark.exhaustive
def test_the_artifact_of_the_collection_installs(checkout: Path, tmp_path: Path) -> None:
    """``ansible-galaxy collection build`` and ``install`` work, and nothing foreign is in it."""
    galaxy = [sys.executable, "-m", "ansible.cli.galaxy", "collection"]
    settings = _settings(tmp_path)
    _call(*galaxy, "build", "--output-path", tmp_path, cwd=checkout, env=settings)
    artifact = next(tmp_path.glob("*.tar.gz"))
    with tarfile.open(artifact) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    tops = {PurePosixPath(member.name).parts[0] for member in members}
    allowed = PARTS | {
        "MANIFEST.json",
        "FILES.json",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs",
    }
    assert tops <= allowed - {"galaxy.yml"}
    to = tmp_path / "collections"
    _call(*galaxy, "install", artifact, "-p", to, "--offline", "--force", cwd=tmp_path, env=settings)
    manifest = json.loads((to / INSIDE / "MANIFEST.json").read_text())
    assert manifest["collection_info"]["version"] == __version__


def test_an_editable_install_leaves_no_copies() -> None:
    """In the checkout's own environment the collection is one link to the checkout."""
    link = Path(sysconfig.get_path("purelib")) / INSIDE
    assert link.is_symlink()
    assert link.resolve() == ROOT


def test_the_collection_asks_for_the_ansible_that_the_package_asks_for() -> None:
    """One lower bound for ansible-core."""
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    bound = runtime["requires_ansible"].removesuffix(".0")
    assert f'"ansible-core{bound}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.system
@pytest.mark.timeout(600)
def test_install_from_an_index(wheel: Path, tmp_path: Path) -> None:
    """The whole of it: ``pip install 'runnerctl[controller]'`` into an empty environment, from an index."""
    _call(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    bin_ = tmp_path / "venv" / "bin"
    _call(bin_ / "pip", "install", "--quiet", f"{wheel}[controller]", cwd=tmp_path, seconds=500)
    (tmp_path / "hosts.yml").write_text(HOSTS)
    path = {"PATH": f"{bin_}:/usr/bin:/bin", "ANSIBLE_HOME": str(tmp_path / "home")}
    assert __version__ in _call(bin_ / "runnerctl", "--version", cwd=tmp_path, env=path)
    command = (bin_ / "ansible-playbook", f"{NAME}.spec", "-i", "hosts.yml")
    assert "failed=0" in _call(*command, cwd=tmp_path, env=path)
