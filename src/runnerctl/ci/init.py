"""``ci init``: what a repository needs for CI on its own GPUs, as a plan of its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from runnerctl.ci.edit_config import Config
from runnerctl.ci.edit_coverage import edit_coverage
from runnerctl.ci.edit_hooks import edit_hooks, hooks_for
from runnerctl.ci.edit_pytest import edit_pytest, registered, unregistered
from runnerctl.ci.init_environment import Environment, Judge, read_environment
from runnerctl.ci.init_mark import command_of, marked, state
from runnerctl.ci.init_model import FileChange, InitPlan, Options
from runnerctl.ci.init_options import DEFAULT_LABELS, checked, command_line, from_command_line, merged
from runnerctl.ci.init_project import Project, coverage_config, pytest_config, read_project
from runnerctl.ci.init_repo import Repository
from runnerctl.ci.init_workflow import ACTION_PATH, action_text, workflow_text
from runnerctl.errors import ConfigError, UsageError

__all__ = ["plan_init", "write_init"]

HOOKS = ".pre-commit-config.yaml"


def plan_init(repository: Repository, said: Options, *, judge: Judge, workflow: str | None) -> InitPlan:
    """What is to be done. ``workflow``: name of its file; None for the one written before, or ci.yml.

    ``judge``: as in `read_environment`.

    Raises UsageError, ConfigError or DataError for what cannot be; nothing is written.
    """
    checked(said)
    notes = _place(repository)
    path = _workflow_path(repository, workflow)
    remembered = command_of(repository.read(path) or "")
    options = merged(said, from_command_line(remembered) if remembered else Options())
    if options.branch is None and (branch := repository.default_branch()) not in (None, "main"):
        options = checked(merged(Options(branch=branch, force=said.force), options))
    project = read_project(repository, options.integration)
    if not project.packages and not options.source_packages:
        remedy = "name what is to be measured with --source-package"
        raise ConfigError("has no Python package", where=str(repository.root), remedy=remedy)
    environment = read_environment(repository, options, project, judge=judge)
    settings = _Settings(repository, options, project)
    changes = [
        _workflow(repository, path, options, project, environment, settings.no_cov),
        _whole(repository, ACTION_PATH, marked(action_text(), "runnerctl ci init"), options),
        *settings.changes,
        _hooks(repository, options, project),
        environment.change,
    ]
    labels = options.gpu_labels or DEFAULT_LABELS
    return InitPlan(tuple(changes), tuple(notes), labels=labels, branch=options.branch or "main")


def write_init(repository: Repository, plan: InitPlan) -> None:
    """Write what the plan says: every file, or none. Raises as `Repository.write` does."""
    files = [
        (each.path, each.before, each.after)
        for each in plan.changes
        if each.writes and each.after is not None
    ]
    repository.sweep([each.path for each in plan.changes])
    repository.write(files)


def _place(repository: Repository) -> list[str]:
    root = repository.git_root()
    if root is None:
        return ["this is no git repository yet: pre-commit and GitHub need one (git init)"]
    if root != repository.root:
        remedy = f"run runnerctl ci init {root}"
        raise UsageError(
            "GitHub reads workflows from a repository's top alone", where=str(repository.root), remedy=remedy
        )
    return []


def _workflow_path(repository: Repository, name: str | None) -> str:
    folder = ".github/workflows"
    if name is not None:
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*\.ya?ml", name, re.ASCII):
            raise UsageError(
                f"{name!r} is no workflow's name", where="--workflow", remedy="give one such as ci.yml"
            )
        return f"{folder}/{name}"
    if repository.is_dir(folder):
        names = sorted(
            each.name for each in repository.target(folder).iterdir() if each.suffix in (".yml", ".yaml")
        )
        for each in names:
            if command_of(repository.read(f"{folder}/{each}") or ""):
                return f"{folder}/{each}"
    return f"{folder}/ci.yml"


def _kept(path: str, options: Options) -> bool:
    return path in (options.keep or ())


def _change(
    repository: Repository,
    path: str,
    options: Options,
    edit: Callable[[str | None], tuple[str, Sequence[str]]],
) -> FileChange:
    """A file that keys or lines are added to; its line ends stay as they are."""
    before = repository.read(path)
    crlf = before is not None and "\r\n" in before
    after, notes = edit(before.replace("\r\n", "\n") if before is not None else None)
    after = after.replace("\n", "\r\n") if crlf else after
    if after == (before or ""):
        return FileChange(path, "unchanged", before, before, tuple(notes))
    if _kept(path, options):
        return FileChange(path, "keep", before, after, (*notes, "kept, as --keep says"))
    return FileChange(path, "create" if before is None else "update", before, after, tuple(notes))


def _whole(
    repository: Repository, path: str, new: str, options: Options, notes: Sequence[str] = ()
) -> FileChange:
    """A file that is written whole: three states of it, and what the user did to it stays."""
    before = repository.read(path)
    if before is None:
        return FileChange(path, "keep" if _kept(path, options) else "create", None, new, tuple(notes))
    now = state(before, new)
    if now == "same":
        return FileChange(path, "unchanged", before, before, tuple(notes))
    if now == "edited" and not options.force:
        return FileChange(path, "unchanged", before, before, (*notes, "with your edits, which stay"))
    if _kept(path, options):
        return FileChange(path, "keep", before, new, (*notes, "kept, as --keep says"))
    if now == "old" or options.force:
        return FileChange(path, "update", before, new, tuple(notes))
    why = "edited since it was written" if now == "both" else "not written by this command"
    other = ", or another --workflow" if now == "foreign" and path != ACTION_PATH else ""
    why += f": merge the difference, or give --force{other}"
    return FileChange(path, "keep", before, new, (*notes, why))


def _workflow(
    repository: Repository,
    path: str,
    options: Options,
    project: Project,
    environment: Environment,
    no_cov: bool,
) -> FileChange:
    text = workflow_text(
        options,
        project,
        no_cov=no_cov,
        cuda=environment.cuda,
        labels=options.gpu_labels or DEFAULT_LABELS,
    )
    notes = []
    if not project.gpu_tests:
        notes.append("no test is marked @pytest.mark.gpu: gpu_tests fails until one is")
    if not project.integration:
        notes.append("no integration test was found: name them with --integration")
    return _whole(repository, path, marked(text, command_line(options)), options, notes)


def _hooks(repository: Repository, options: Options, project: Project) -> FileChange:
    places = sorted(set(project.packages.values()))
    hooks = hooks_for(() if project.mypy_files else places)
    return _change(repository, HOOKS, options, lambda text: edit_hooks(text, HOOKS, hooks))


class _Settings:
    """Changes of the files that hold the settings of coverage and pytest, which may be one."""

    def __init__(self, repository: Repository, options: Options, project: Project) -> None:
        self._repository = repository
        self._options = options
        addopts = pytest_config(repository, {}).text("", "addopts") or ""
        self.no_cov = bool(re.search(r"(^|\s)--cov\b", addopts))
        coverage = coverage_config(repository)
        notes = edit_coverage(
            coverage,
            packages=options.source_packages,
            found=sorted(project.packages),
            threshold=options.threshold,
            workers=bool(re.search(r"(^|\s)(-n|--numprocesses)\b", addopts)),
            force=options.force,
        )
        pending = {coverage.where: coverage.render()}
        pytest = pytest_config(repository, pending)
        edit_pytest(pytest)
        more = self._markers(pytest, project)
        pending[pytest.where] = pytest.render()
        said = {coverage.where: notes}
        said[pytest.where] = [*said.get(pytest.where, []), *more]
        self.changes = [self._file(path, text, said[path]) for path, text in pending.items()]

    def _file(self, path: str, text: str, notes: list[str]) -> FileChange:
        return _change(self._repository, path, self._options, lambda _: (text, notes))

    def _markers(self, pytest: Config, project: Project) -> list[str]:
        """Markers in use that nobody registers: with strict markers each is an error."""
        found: dict[str, str] = {}
        texts = {path: self._repository.glance(path) for path in project.tests}
        known_here = registered(text for path, text in texts.items() if path.endswith("conftest.py"))
        for path, text in texts.items():
            for name in unregistered(text, pytest, known_here):
                found.setdefault(name, path)
        known = [
            f"{path} uses the marker {name}, which is not registered: add it to markers"
            for name, path in found.items()
        ]
        return known[:5]
