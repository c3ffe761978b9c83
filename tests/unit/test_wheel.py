"""Equal code gives an equal wheel, from a checkout and from an installation alike."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from runnerctl import wheel
from runnerctl.errors import ConfigError, UnavailableError
from runnerctl.wheel import Wheel, cache_directory, controller_wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return controller_wheel(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def installed(built: Wheel, tmp_path_factory: pytest.TempPathFactory) -> importlib.metadata.Distribution:
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(built.path)], check=True, timeout=100)
    return next(iter(importlib.metadata.distributions(name="runnerctl", path=[str(site)])))


def test_the_wheel_has_the_package_and_the_collection(built: Wheel) -> None:
    names = set(zipfile.ZipFile(built.path).namelist())
    assert "runnerctl/wheel.py" in names
    assert "ansible_collections/runnerctl/gpu_runner/plugins/module_utils/receipt.py" in names
    assert not [name for name in names if name.endswith(".pyc")]
    assert built.path.name == f"runnerctl-{built.version}-py3-none-any.whl"


@pytest.mark.exhaustive
def test_an_installation_gives_the_very_wheel_it_came_from(
    built: Wheel, installed: importlib.metadata.Distribution, tmp_path: Path
) -> None:
    again = controller_wheel(tmp_path, distribution=installed)
    assert again.sha256 == built.sha256
    assert again.path != built.path


def test_the_cache_is_used_and_bounded(
    installed: importlib.metadata.Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        (tmp_path / f"old{number}").mkdir()
    first = controller_wheel(tmp_path, distribution=installed)
    monkeypatch.setattr(wheel, "_installed", lambda _: pytest.fail("not made again"))
    assert controller_wheel(tmp_path, distribution=installed) == first
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == wheel.KEEP


def test_a_damaged_installation_is_one_line(
    installed: importlib.metadata.Distribution, tmp_path: Path
) -> None:
    victim = Path(str(installed.locate_file("runnerctl/errors.py")))
    aside = victim.with_suffix(".aside")
    victim.rename(aside)
    try:
        with pytest.raises(ConfigError, match=r"runnerctl/errors\.py: No such file.*force-reinstall"):
            controller_wheel(tmp_path, distribution=installed)
    finally:
        aside.rename(victim)


def test_missing_hatchling_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install hatchling"):
        controller_wheel(tmp_path)


def test_the_cache_follows_the_xdg_rule(tmp_path: Path) -> None:
    assert cache_directory({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "runnerctl" / "wheels"
    assert cache_directory({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/runnerctl/wheels"


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="set HOME or XDG_CACHE_HOME"):
        cache_directory({})


def test_a_cache_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    """Every host runs the wheel in it as root."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(UnavailableError, match="what stands there proves nothing"):
        controller_wheel(cache)
    cache.chmod(0o700)
    (cache / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UnavailableError, match="cannot be written"):
        controller_wheel(cache)
    assert not (tmp_path / "victim").exists()
