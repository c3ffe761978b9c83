"""Read a repository for the rules. What cannot be read becomes a finding; the rest is judged all the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runnerctl.ci.rules import INVALID, Hit
from runnerctl.ci.workflow_model import Environment, Job, Repository, Step, Workflow
from runnerctl.ci.workflow_settings import CONFIGURATION_FILES, Settings, SettingsError, read_settings
from runnerctl.ci.workflow_tests import TestFacts, read_tests
from runnerctl.ci.workflow_yaml import (
    YamlError,
    as_list,
    as_map,
    item_line,
    key_line,
    load,
    node_line,
    text_of,
)
from runnerctl.errors import UsageError

__all__ = ["read_repository", "read_text"]

_SKIPPED = frozenset(
    {".git", ".venv", "venv", "node_modules", "build", "dist", ".tox", ".cache", "__pycache__"}
)
_MAX_PYTHON_FILES = 2000
_MAX_STEPS = 20_000
_MAX_PYTHON_BYTES = 1 << 19
_MAX_BYTES = 4 << 20
_BREAK = re.compile(r"\r\n|\n|\r")
_MATRIX = re.compile(r"\$\{\{\s*matrix\.([\w-]+)\s*\}\}$")


def read_repository(
    root: Path,
    *,
    fleet: tuple[frozenset[str], ...] | None = None,
    changed: Mapping[str, str] | None = None,
    tests: TestFacts | None = None,
) -> tuple[Repository, list[Hit]]:
    """The repository and a hit for every file that cannot be read.

    ``changed``: texts that take the place of files. ``tests``: facts of the Python files, if known.
    Raises UsageError without such a folder.
    """
    if not root.is_dir():
        raise UsageError("no such folder", where=str(root), remedy="give the root of a repository")
    return _Reader(root, changed or {}).repository(fleet, tests)


def read_text(path: Path) -> str | None:
    """A file's text with its line ends, or None without a file. Raises OSError; ValueError for no text."""
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8") from None


class _Reader:
    def __init__(self, root: Path, changed: Mapping[str, str]) -> None:
        self.root = root
        self.changed = changed
        self.hits: list[Hit] = []
        self.lines: dict[str, tuple[str, ...]] = {}
        self.steps = 0

    def repository(
        self, fleet: tuple[frozenset[str], ...] | None, tests: TestFacts | None
    ) -> tuple[Repository, list[Hit]]:
        actions = {job.id: job for job in self._actions()}
        workflows = tuple(self._workflows(actions))
        used = {name for flow in workflows for job in flow.jobs for name in _used_actions(job)}
        found = Repository(
            workflows=workflows,
            actions=tuple(job for name, job in actions.items() if name not in used),
            environments=tuple(self._environments()),
            settings=self._settings(),
            tests=tests or read_tests(self._python()),
            hooks=self._hooks(),
            hooks_file=".pre-commit-config.yaml" if (self.root / ".pre-commit-config.yaml").is_file() else "",
            fleet=fleet,
            lines=self.lines,
        )
        return found, self.hits

    def text(self, name: str) -> str | None:
        """A file's text, or None where there is none; one that is no text is a hit."""
        text = self.changed.get(name)
        if text is None:
            try:
                text = read_text(self.root / name)
            except (OSError, ValueError) as error:
                what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
                self.hits.append(Hit(INVALID, name, 1, what))
                return None
        if text is not None:
            self.lines[name] = tuple(_BREAK.split(text))
        return text

    def _yaml(self, name: str) -> Any:
        text = self.text(name)
        if text is None:
            return None
        try:
            return load(text)
        except YamlError as error:
            self.hits.append(Hit(INVALID, name, error.line, error.what))
            return None

    def _listed(self, folder: str, suffixes: tuple[str, ...]) -> list[str]:
        try:
            names = sorted(os.listdir(self.root / folder))
        except OSError:
            return []
        return [f"{folder}/{name}" for name in names if name.endswith(suffixes)]

    # -- workflows

    def _workflows(self, actions: Mapping[str, Job]) -> Iterator[Workflow]:
        for name in self._listed(".github/workflows", (".yml", ".yaml")):
            before = len(self.hits)
            node = self._yaml(name)
            if len(self.hits) > before:
                continue
            events, jobs = _events(node), as_map(as_map(node).get("jobs"))
            if not events or not jobs:
                missing = "jobs" if events else "on"
                self.hits.append(
                    Hit(INVALID, name, node_line(node), f"is no workflow: it has no {missing!r}")
                )
                continue
            found = tuple(
                self._job(name, node, key, actions) for key in jobs if self._is_job(name, jobs, key)
            )
            yield Workflow(name, node, events, found)

    def _is_job(self, file: str, jobs: Mapping[str, Any], key: str) -> bool:
        job = as_map(jobs.get(key))
        if job.get("uses") or (job.get("runs-on") and isinstance(job.get("steps"), list)):
            return True
        line = key_line(jobs, key)
        self.hits.append(
            Hit(INVALID, file, line, f"job {key!r} has no 'runs-on' with 'steps', and no 'uses'")
        )
        return False

    def _job(self, file: str, workflow: Any, key: str, actions: Mapping[str, Job]) -> Job:
        jobs = workflow["jobs"]
        node = jobs[key]
        shell = _default_shell(node) or _default_shell(workflow)
        steps = tuple(self._steps(file, node.get("steps"), shell, actions))
        return Job(file, str(key), node, key_line(jobs, key), _labels(node), steps)

    def _steps(self, file: str, steps: Any, shell: str, actions: Mapping[str, Job]) -> Iterator[Step]:
        for index, node in enumerate(as_list(steps)):
            self.steps += 1
            if self.steps > _MAX_STEPS:  # aliases can make a small file endless
                return
            if not isinstance(node, Mapping):
                self.hits.append(Hit(INVALID, file, item_line(steps, index), "is no step"))
                continue
            yield Step(file, node, node_line(node), shell)
            action = actions.get(_local(text_of(node.get("uses"))))
            condition = text_of(node.get("if"))
            for inner in action.steps if action else ():
                yield Step(inner.file, inner.node, inner.line, inner.default_shell, True, condition)

    def _actions(self) -> Iterator[Job]:
        folders = [".github/actions", *self._listed(".github/actions", ("",)), "."]
        for folder in folders:
            name = next(
                (
                    f"{folder}/{each}"
                    for each in ("action.yml", "action.yaml")
                    if (self.root / folder / each).is_file()
                ),
                None,
            )
            if name is None:
                continue
            name = name.removeprefix("./")
            node = self._yaml(name)
            steps = as_map(as_map(node).get("runs")).get("steps")
            found = tuple(
                Step(name, step, node_line(step), "", True)
                for step in as_list(steps)
                if isinstance(step, Mapping)
            )
            yield Job(name, folder, as_map(node), 1, None, found)

    # -- the rest

    def _environments(self) -> Iterator[Environment]:
        names = [name for name in ("environment.yml", "environment.yaml") if (self.root / name).is_file()]
        for name in names:
            node = self._yaml(name)
            if isinstance(node, Mapping):
                yield _environment(name, node)

    def _settings(self) -> Settings:
        for name in CONFIGURATION_FILES:
            self.text(name)
        try:
            return read_settings(lambda name: "\n".join(self.lines[name]) if name in self.lines else None)
        except SettingsError as error:
            self.hits.append(Hit(INVALID, error.file, error.line, error.what))
            return Settings()

    def _hooks(self) -> Mapping[str, tuple[str, int]]:
        node = as_map(self._yaml(".pre-commit-config.yaml"))
        repos = [each for each in as_list(node.get("repos")) if isinstance(each, Mapping)]
        return {
            text_of(each.get("repo")): (text_of(each.get("rev")), key_line(each, "rev")) for each in repos
        }

    def _python(self) -> Iterator[tuple[str, str]]:
        count = 0
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
            for name in sorted(name for name in names if name.endswith(".py")):
                count += 1
                if count > _MAX_PYTHON_FILES:
                    return
                path = Path(folder, name)
                try:
                    if path.is_file() and path.stat().st_size <= _MAX_PYTHON_BYTES:
                        yield str(path.relative_to(self.root)), path.read_bytes().decode("utf-8", "replace")
                except OSError:
                    continue


def _local(uses: str) -> str:
    return (
        uses[2:].rstrip("/") if uses.startswith("./") and uses != "./" else "." if uses in ("./", ".") else ""
    )


def _used_actions(job: Job) -> set[str]:
    return {_local(step.uses) for step in job.steps}


def _events(node: Any) -> Mapping[str, Any]:
    given = as_map(node).get("on")
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    return {text_of(name): None for name in as_list(given)}


def _default_shell(node: Any) -> str:
    return text_of(as_map(as_map(as_map(node).get("defaults")).get("run")).get("shell"))


def _labels(node: Mapping[str, Any]) -> tuple[frozenset[str], ...] | None:
    """Labels of ``runs-on``; an expression of the matrix gives a set a value, others cannot be told."""
    given = node.get("runs-on")
    if isinstance(given, Mapping):
        given = given.get("labels")
    labels = [text_of(label).lower() for label in as_list(given)]
    if len(labels) == 1 and "${{" in labels[0]:
        values = _matrix_values(node, text_of(as_list(given)[0]))
        return None if values is None else tuple(frozenset({value.lower()}) for value in values)
    return None if any("${{" in label for label in labels) else (frozenset(labels),)


def _matrix_values(node: Mapping[str, Any], label: str) -> list[str] | None:
    match = _MATRIX.fullmatch(label)
    matrix = as_map(as_map(node.get("strategy")).get("matrix"))
    values = matrix.get(match[1]) if match else None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return None
    return None if any("${{" in value for value in values) else list(values)


def _environment(name: str, node: Mapping[str, Any]) -> Environment:
    channels = node.get("channels")
    specs: dict[str, tuple[str, int]] = {}
    dependencies = node.get("dependencies")
    for index, each in enumerate(as_list(dependencies)):
        if isinstance(each, str):
            package, spec = _spec(each)
            specs[package] = (spec, item_line(dependencies, index))
        for at, line in enumerate(as_list(as_map(each).get("pip"))):
            package, spec = _spec(text_of(line))
            specs.setdefault(package, (spec, item_line(each.get("pip"), at)))
    listed = tuple((text_of(each), item_line(channels, at)) for at, each in enumerate(as_list(channels)))
    return Environment(name, text_of(node.get("name")), listed, specs)


def _spec(text: str) -> tuple[str, str]:
    match = re.match(r"(?:[\w./-]+::)?([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*(.*)", text.strip())
    return (match[1].lower().replace("_", "-"), match[2].strip()) if match else (text.lower(), "")
