"""What a repository is: its package, its tests, its build, and where its tools keep their settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec

from runnerctl.ci.edit_config import Config
from runnerctl.ci.edit_ini import IniConfig
from runnerctl.ci.edit_toml import TomlConfig, read_toml
from runnerctl.ci.init_repo import Repository
from runnerctl.errors import UsageError

__all__ = ["Project", "coverage_config", "pytest_config", "read_project"]

PYPROJECT = "pyproject.toml"
_TEST_FILE = re.compile(r"(test_.*|.*_test|conftest)\.py")
_INTEGRATION = re.compile(r"test_(?:.*_)?integration(?:_.*)?\.py|test_async_communication.*\.py")
_INTEGRATION_FOLDERS = ("integration", "integration_tests")
_NO_PACKAGE = ("setup.py", "noxfile.py", "conftest.py", "tasks.py", "fabfile.py")
_NO_FOLDER = ("tests", "test", "docs", "doc", "examples", "example", "benchmarks", "scripts", "tools")
_PLAIN = re.compile(r"\w[\w./ -]*")  # a path that means itself in YAML, in an expression and in a shell
_GPU = re.compile(r"\bmark\.gpu\b")


class Project(msgspec.Struct, frozen=True):
    """What stands in a repository. Paths are below it.

    ``packages``: names as `import` takes them, with their paths. ``build_requires``: what building it takes;
    None when it cannot be installed. ``integration``: files and folders of the integration suite.
    ``gpu_tests``: whether a test outside of it is marked; ``integration_gpu``: whether one in it is.
    ``mypy_files``: whether mypy's settings name files.
    """

    packages: Mapping[str, str]
    tests: tuple[str, ...]
    integration: tuple[str, ...]
    gpu_tests: bool
    integration_gpu: bool
    build_requires: tuple[str, ...] | None
    mypy_files: bool


def read_project(repository: Repository, integration: Sequence[str] | None) -> Project:
    """Look at a repository. Raises UsageError for an integration test that is not there, DataError."""
    files = list(repository.python_files())
    settings = _pyproject(repository)
    for path in integration or ():
        if not repository.exists(path):
            raise UsageError(
                "is not in the repository", where=path, remedy="give --integration a test's path"
            )
    tests = tuple(path for path in files if _TEST_FILE.fullmatch(PurePosixPath(path).name))
    suite = tuple(integration) if integration is not None else tuple(_integration(tests))
    marked = [path for path in tests if _GPU.search(repository.glance(path))]
    return Project(
        packages=_packages(files, settings),
        tests=tests,
        integration=suite,
        gpu_tests=any(not _below(path, suite) for path in marked),
        integration_gpu=any(_below(path, suite) for path in marked),
        build_requires=_build(repository, settings),
        mypy_files=_mypy_files(repository, settings),
    )


def _pyproject(repository: Repository) -> dict[str, Any]:
    text = repository.text(PYPROJECT)
    unwrapped: dict[str, Any] = read_toml(text, PYPROJECT).unwrap() if text else {}
    return unwrapped


def _table(settings: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for name in path:
        inner = settings.get(name)
        settings = inner if isinstance(inner, Mapping) else {}
    return settings


def _packages(files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Import packages: those below ``src``, else those at the top, else the modules there."""
    found: dict[str, str] = {}
    for path in files:
        parts = PurePosixPath(path).parts
        if not parts[min(1, len(parts) - 1)].removesuffix(".py").isidentifier():
            continue  # nothing that could be imported, and a name that means something to a shell
        if len(parts) == 3 and parts[0] == "src" and parts[2] == "__init__.py":
            found[parts[1]] = f"src/{parts[1]}"
        elif len(parts) == 2 and parts[0] == "src" and parts[1] != "__init__.py":
            found[parts[1].removesuffix(".py")] = path
    if not found:
        tops = [PurePosixPath(path).parts for path in files if path.endswith("/__init__.py")]
        names = {parts[0] for parts in tops if len(parts) == 2 and parts[0].isidentifier()}
        found = {name: name for name in sorted(names - set(_NO_FOLDER))}
    name = re.sub(r"[-.]+", "_", str(_table(settings, "project").get("name", ""))).lower()
    if own := {key: value for key, value in found.items() if key.lower() == name}:
        return own
    return found or {path.removesuffix(".py"): path for path in files if _is_module(path)}


def _is_module(path: str) -> bool:
    if "/" in path or path in _NO_PACKAGE or _TEST_FILE.fullmatch(path):
        return False
    return path.removesuffix(".py").isidentifier()


def _integration(tests: Sequence[str]) -> Iterator[str]:
    """The suite that follows the GPU tests: folders of that name, and files of such names elsewhere."""
    folders: dict[str, None] = {}
    tests = [path for path in tests if _PLAIN.fullmatch(path)]
    for path in tests:
        parts = PurePosixPath(path).parts
        at = next((i for i, part in enumerate(parts[:-1]) if i and part in _INTEGRATION_FOLDERS), None)
        if at is not None and not parts[-1].startswith("conftest"):
            folders["/".join(parts[: at + 1])] = None
    yield from folders
    for path in tests:
        if _INTEGRATION.fullmatch(PurePosixPath(path).name) and not _below(path, list(folders)):
            yield path


def _below(path: str, places: Sequence[str]) -> bool:
    return any(path == place or path.startswith(place + "/") for place in places)


def _build(repository: Repository, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What pip needs to build the project; None when there is nothing to build."""
    system = _table(settings, "build-system")
    if not system and "project" not in settings and not repository.exists("setup.py"):
        return None
    requires = system.get("requires")
    return tuple(str(each) for each in requires) if isinstance(requires, list) else ("setuptools",)


def _mypy_files(repository: Repository, settings: Mapping[str, Any]) -> bool:
    """mypy.readthedocs.io, "The mypy configuration file": mypy.ini, then pyproject.toml, then setup.cfg."""
    for name in ("mypy.ini", ".mypy.ini"):
        text = repository.text(name)
        if text is not None:
            return any(
                IniConfig(text, name, "mypy").text("", key) for key in ("files", "packages", "modules")
            )
    table = _table(settings, "tool", "mypy")
    if table:
        return any(key in table for key in ("files", "packages", "modules"))
    text = repository.text("setup.cfg")
    return bool(text and IniConfig(text, "setup.cfg", "mypy").text("", "files"))


def coverage_config(repository: Repository) -> Config:
    """Where coverage looks first (its "Configuration reference"); pyproject.toml when nothing is set yet."""
    text = repository.text(".coveragerc")
    if text is not None:
        return IniConfig(text, ".coveragerc", "{}")
    for name in ("setup.cfg", "tox.ini"):
        text = repository.text(name)
        if text and re.search(r"^\[coverage:\w+\]", text, re.MULTILINE):
            return IniConfig(text, name, "coverage:{}")
    return TomlConfig(repository.text(PYPROJECT) or "", PYPROJECT, ("tool", "coverage"))


def pytest_config(repository: Repository, pending: Mapping[str, str]) -> Config:
    """Where pytest looks first (its "Configuration file formats"); pyproject.toml when nothing is set yet.

    ``pending``: files as they will be, where another tool's settings go there, too.
    """

    def text_of(name: str) -> str | None:
        return pending[name] if name in pending else repository.text(name)

    for name in ("pytest.toml", ".pytest.toml"):
        if (text := text_of(name)) is not None:
            return TomlConfig(text, name, ("pytest",))
    for name in ("pytest.ini", ".pytest.ini"):
        if (text := text_of(name)) is not None:
            return IniConfig(text, name, "pytest")
    text = text_of(PYPROJECT) or ""
    tool = _table(read_toml(text, PYPROJECT).unwrap(), "tool", "pytest")
    for name, section in (("tox.ini", "pytest"), ("setup.cfg", "tool:pytest")):
        ini = "" if tool else text_of(name) or ""
        if re.search(rf"^\[{section}\]", ini, re.MULTILINE):
            return IniConfig(ini, name, section)
    native = bool(set(tool) - {"ini_options"})
    return TomlConfig(text, PYPROJECT, ("tool", "pytest") if native else ("tool", "pytest", "ini_options"))
