"""The ``environment.yml`` of a repository: what of the jobs' tools it lacks, and which CUDA it is for."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

import msgspec

from runnerctl.ci.edit_environment import (
    Needs,
    add_packages,
    build_needs,
    cuda_version,
    included_files,
    missing,
    names,
    normal,
    packages,
)
from runnerctl.ci.init_model import FileChange, Options
from runnerctl.ci.init_project import Project
from runnerctl.ci.init_repo import Repository
from runnerctl.errors import ConfigError

__all__ = ["Environment", "Judge", "read_environment"]

Judge = Callable[[str, str], object]  # text of an environment.yml, and its name for messages

TOOLS = ("python", "pip", "pytest", "coverage", "pre-commit", "black", "ruff", "mypy")
FILES = ("environment.yml", "environment.yaml")
PLUGIN = "runnerctl"  # brings pytest's plugin: --require-gpu, budgets


class Environment(msgspec.Struct, frozen=True):
    """What is to be done to the file, and what the action's input ``cuda`` is to be."""

    change: FileChange
    cuda: str


def read_environment(
    repository: Repository, options: Options, project: Project, *, judge: Judge
) -> Environment:
    """Look at the file and add what is missing.

    ``judge``: raises DataError for what the store of environments would refuse. Raises that, too, and
    ConfigError without a file.
    """
    path = options.environment_file or "environment.yml"
    before = repository.read(path)
    if before is None:
        found = None if options.environment_file else repository.elsewhere(FILES)
        remedy = "write down the environment the project is developed in: conda env export --from-history"
        if found and re.fullmatch(r"[\w./-]+", found, re.ASCII):
            remedy = f"give --environment-file {found}"
        raise ConfigError("is not there", where=path, remedy=remedy)
    judge(before, path)
    text = before.replace("\r\n", "\n")
    conda, pip = packages(text, path)
    back_end, unknown = build_needs(project.build_requires or ())
    have = _names(repository, path, conda, pip) | {normal(each) for each in project.packages}
    lacking = missing(Needs((*TOOLS, *back_end), (PLUGIN,)), have)
    notes = [
        f"add the build requirement {each} by hand" for each in unknown if each not in names([*conda, *pip])
    ]
    version, any_cuda = cuda_version(conda)
    if options.cuda is None and any_cuda and version is None:
        notes.append(
            "CUDA is in it, but no one version: say --cuda 12.8 so that hosted runners choose its builds"
        )
    return Environment(_change(options, path, before, lacking, notes), options.cuda or version or "auto")


def _names(repository: Repository, path: str, conda: list[str], pip: list[str]) -> set[str]:
    """Every package that the file asks for, files behind ``-r`` included."""
    found = names([*conda, *pip])
    for name in included_files(pip):
        inner = repository.read(posixpath.normpath(posixpath.join(posixpath.dirname(path), name)))
        found |= names((inner or "").splitlines())
    return found


def _change(options: Options, path: str, before: str, lacking: Needs, notes: list[str]) -> FileChange:
    wanted = [*lacking.conda, *(f"{each} (pip)" for each in lacking.pip)]
    if not wanted:
        return FileChange(path, "unchanged", before, before, tuple(notes))
    after = add_packages(before.replace("\r\n", "\n"), path, lacking)
    if after is None:
        notes.append("is laid out so that no line can be added: add them yourself")
        return FileChange(path, "keep", before, None, (f"lacks {', '.join(wanted)}", *notes))
    after = after.replace("\n", "\r\n") if "\r\n" in before else after
    if path in (options.keep or ()):
        return FileChange(path, "keep", before, after, (f"lacks {', '.join(wanted)}", *notes))
    return FileChange(path, "update", before, after, (f"adds {', '.join(wanted)}", *notes))
