"""Settings of pytest and coverage, wherever a repository keeps them."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runnerctl.errors import ConfigError

__all__ = ["CONFIGURATION_FILES", "Settings", "SettingsError", "read_settings"]

CONFIGURATION_FILES = (".coveragerc", "pytest.ini", ".pytest.ini", "pyproject.toml", "setup.cfg", "tox.ini")


class SettingsError(Exception):
    """A settings file that cannot be read; ``line`` counts from one, ``file`` names it."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = " ".join(what.split())
        self.line = line
        self.file = ""


@dataclass(frozen=True)
class Settings:
    """What pytest and coverage are told. ``*_file`` is empty and ``*_line`` 1 where nothing is told.

    ``plugin``: the project is, or depends on, runnerctl, whose pytest plugin registers the marker.
    """

    pytest_file: str = ""
    pytest_line: int = 1
    addopts: tuple[str, ...] = ()
    markers: frozenset[str] = frozenset()
    strict: bool = False
    coverage_file: str = ""
    coverage_line: int = 1
    run: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    has_paths: bool = False
    pyproject: bool = False
    plugin: bool = False

    def coverage_is(self, name: str) -> bool:
        """Whether a switch of ``[run]`` is on."""
        return str(self.run.get(name, "")).lower() in ("true", "1", "yes", "on")

    @property
    def concurrency(self) -> tuple[str, ...]:
        """What coverage is told to follow."""
        value = self.run.get("concurrency", ())
        return tuple(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) else tuple(map(str, value))


def read_settings(read: Callable[[str], str | None]) -> Settings:
    """The settings; ``read`` gives a file's text, or None where there is none. Raises SettingsError."""
    files = {name: _parse(name, text) for name in CONFIGURATION_FILES if (text := read(name)) is not None}
    pytest = _pytest(files, read)
    coverage = _coverage(files, read)
    project = files.get("pyproject.toml")
    plugin = project is not None and _has_plugin(project)
    return Settings(**pytest, **coverage, pyproject=project is not None, plugin=plugin)


def _has_plugin(project: Mapping[str, Any]) -> bool:
    """Whether the project is runnerctl, or one of its dependencies, in whatever group, is."""
    own = _table(project, "project") or {}
    groups = [*(_table(own, "optional-dependencies") or {}).values()]
    groups += [own.get("dependencies", []), *(_table(project, "dependency-groups") or {}).values()]
    words = [line for group in groups if isinstance(group, list) for line in group if isinstance(line, str)]
    return any(re.match(r"runnerctl(?![\w-])", word) for word in [str(own.get("name", "")), *words])


def _parse(name: str, text: str) -> Mapping[str, Any]:
    try:
        return _toml(text) if name.endswith(".toml") else _ini(text)
    except SettingsError as error:
        error.file = name
        raise


def _toml(text: str) -> Mapping[str, Any]:
    try:
        import tomlkit
        from tomlkit.exceptions import ParseError, TOMLKitError
    except ImportError:
        raise ConfigError(
            "the package tomlkit is not installed", remedy="pip install 'runnerctl[ci]'"
        ) from None
    try:
        found: Mapping[str, Any] = tomlkit.parse(text).unwrap()
    except ParseError as error:
        raise SettingsError(str(error), error.line) from None
    except (TOMLKitError, RecursionError) as error:
        raise SettingsError(str(error), 1) from None
    return found


def _ini(text: str) -> Mapping[str, Any]:
    reader = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    try:
        reader.read_string(text)
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or next((each[0] for each in getattr(error, "errors", ())), 1)
        raise SettingsError(str(error).split("\n")[0], int(line)) from None
    return {section: dict(reader.items(section)) for section in reader.sections()}


def _table(data: Mapping[str, Any], *path: str) -> Mapping[str, Any] | None:
    node: Any = data
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else None


def _line(text: str | None, header: str) -> int:
    """The line of a table's header."""
    for number, line in enumerate((text or "").splitlines(), 1):
        if line.strip().startswith(f"[{header}"):
            return number
    return 1


def _pytest(files: Mapping[str, Mapping[str, Any]], read: Callable[[str], str | None]) -> dict[str, Any]:
    """The first file that has a section for pytest, in pytest's own order."""
    places = (
        ("pytest.ini", ("pytest",), "pytest]"),
        (".pytest.ini", ("pytest",), "pytest]"),
        ("pyproject.toml", ("tool", "pytest", "ini_options"), "tool.pytest.ini_options"),
        ("pyproject.toml", ("tool", "pytest"), "tool.pytest]"),
        ("tox.ini", ("pytest",), "pytest]"),
        ("setup.cfg", ("tool:pytest",), "tool:pytest]"),
    )
    for name, path, header in places:
        table = _table(files.get(name, {}), *path)
        if table is None:
            continue
        options = _words(table.get("addopts"))
        strict = "--strict-markers" in options or "--strict" in options
        return {
            "pytest_file": name,
            "pytest_line": _line(read(name), header),
            "addopts": options,
            "markers": frozenset(_marker_names(table.get("markers"))),
            "strict": strict or any(_true(table.get(key)) for key in ("strict_markers", "strict")),
        }
    return {}


def _true(value: object) -> bool:
    return str(value).lower() in ("true", "1", "yes", "on")


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(map(str, value))
    try:
        return tuple(shlex.split(str(value or "")))
    except ValueError:
        return tuple(str(value).split())


def _marker_names(value: Any) -> list[str]:
    lines = value if isinstance(value, list) else str(value or "").splitlines()
    return [re.split(r"[:(\s]", str(line).strip())[0] for line in lines if str(line).strip()]


def _coverage(files: Mapping[str, Mapping[str, Any]], read: Callable[[str], str | None]) -> dict[str, Any]:
    """The first file that tells coverage anything, in coverage's own order."""
    for name in (".coveragerc", "setup.cfg", "tox.ini", "pyproject.toml"):
        data = files.get(name)
        if data is None:
            continue
        prefix = "" if name == ".coveragerc" else "coverage:"
        if name == "pyproject.toml":
            data, prefix, header = _table(data, "tool", "coverage") or {}, "", "tool.coverage"
        else:
            header = prefix or ("run" if "run" in data else "")
        run, report = _table(data, prefix + "run"), _table(data, prefix + "report")
        if run is None and report is None and name != ".coveragerc":
            continue
        return {
            "coverage_file": name,
            "coverage_line": _line(read(name), header),
            "run": run or {},
            "report": report or {},
            "has_paths": _table(data, prefix + "paths") is not None,
        }
    return {}
