"""Rules about caching an environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch

from runnerctl.ci.rules import Edit, Hit, Rule, rule
from runnerctl.ci.rules_shared import SETUP_MICROMAMBA, creates, creation_name, environment_files
from runnerctl.ci.workflow_model import Job, Repository, Step
from runnerctl.ci.workflow_yaml import as_map, key_line, value_line

__all__ = ["RULES"]

_ACTIONS = ("actions/cache", "actions/cache/restore", "actions/cache/save")
_ENVIRONMENT_PATH = re.compile(
    r"(conda|mamba|miniforge|CONDA[^/\n]*)\S*/envs(/|\s|$)|/environments(/|\s|$)"
    r"|CONDA_PREFIX|/\.conda/envs|/env(s)?/?\s*$",
    re.IGNORECASE,
)
_HASH = re.compile(r"hashFiles\(([^)]*)\)")
_QUOTED = re.compile(r"'([^']*)'")


class _Cache:
    """A cache step that keeps an environment, and where it stands."""

    def __init__(self, job: Job, step: Step, index: int) -> None:
        self.job, self.step, self.index = job, step, index
        self.path, self.key = step.input("path"), step.input("key")

    @property
    def restores(self) -> bool:
        return not self.step.action_name.endswith("/save")


def _caches(repository: Repository) -> Iterator[_Cache]:
    for job in repository.jobs:
        for index, step in enumerate(job.steps):
            if step.action_name in _ACTIONS and _ENVIRONMENT_PATH.search(step.input("path")):
                yield _Cache(job, step, index)


def _bound(repository: Repository, job: Job, key: str) -> bool:
    """Whether a key changes with the file that the environment is made from, or with a lock of it."""
    names = {file.removeprefix("./") for step in job.steps if (file := environment_files(step))}
    for step in job.steps:
        for command in step.commands:
            if creation_name(command) is not None:
                names.add((command.value("-f", "--file") or "environment.yml").removeprefix("./"))
    names = names or {each.file for each in repository.environments} or {"environment.yml"}
    for hashed in _HASH.findall(key):
        for pattern in _QUOTED.findall(hashed):
            plain = pattern.removeprefix("./").removeprefix("**/")
            if "lock" in plain or any(
                fnmatch(name, plain) or fnmatch(name.rsplit("/", 1)[-1], plain) for name in names
            ):
                return True
    return "cache-primary-key" in key or bool(
        re.fullmatch(r"\$\{\{\s*(env|inputs|steps)\.[^}]*\}\}", key.strip())
    )


@rule(
    "ci.cache_key_unbound",
    "error",
    fixable=True,
    title="A cached environment that does not follow environment.yml",
    why="The key stays the same when a dependency changes, so the old environment is restored and tested.",
    remedy="end the key with ${{ hashFiles('environment.yml') }}",
    example="path: ~/miniconda3/envs\nkey: conda-${{ runner.os }}",
)
def cache_key_unbound(repository: Repository) -> Iterator[Hit]:
    """A cache of environments whose key hashes neither the environment file nor a lock."""
    for cache in _caches(repository):
        if cache.key and not _bound(repository, cache.job, cache.key):
            line = cache.step.input_line("key")
            message = "the key of the cached environment does not contain the hash of environment.yml"
            yield Hit("ci.cache_key_unbound", cache.step.file, line, message, _bind(repository, cache))


def _bind(repository: Repository, cache: _Cache) -> tuple[Edit, ...]:
    """Add the hash to the key, where it is a plain text in one line."""
    file, line = cache.step.file, cache.step.input_line("key")
    text = repository.lines[file][line - 1]
    name = repository.environment.file if repository.environment else "environment.yml"
    at = text.rfind(cache.key)
    if at < 0 or "\n" in cache.key or '"' in text[:at].partition("key:")[2]:
        return ()
    if "'" in text[:at].partition("key:")[2]:
        return ()
    end = at + len(cache.key)
    return (Edit(file, line, 1, (f"{text[:end]}-${{{{ hashFiles('{name}') }}}}{text[end:]}",)),)


@rule(
    "ci.cache_restore_stale",
    "error",
    fixable=True,
    title="restore-keys that bring back a stale environment",
    why=(
        "After a change of environment.yml the newest old environment is restored instead, and tested as if"
        " it were the new one, unless it is updated with pruning."
    ),
    remedy="remove restore-keys; they are for caches of packages, not of environments",
    example="path: ~/miniconda3/envs\nkey: conda-${{ hashFiles('environment.yml') }}\nrestore-keys: conda-",
)
def cache_restore_stale(repository: Repository) -> Iterator[Hit]:
    """restore-keys at a cache of environments, without conda env update --prune after it."""
    for cache in _caches(repository):
        if not cache.step.input("restore-keys").strip() or _pruned(cache):
            continue
        line = cache.step.input_line("restore-keys")
        message = "restore-keys revive an environment of another environment.yml"
        yield Hit(
            "ci.cache_restore_stale", cache.step.file, line, message, _drop(repository, cache.step, line)
        )


def _pruned(cache: _Cache) -> bool:
    return any(
        "--prune" in command.words and "update" in command.words
        for step in cache.job.steps[cache.index + 1 :]
        for command in step.commands
    )


def _drop(repository: Repository, step: Step, line: int) -> tuple[Edit, ...]:
    """The key with the lines of its block."""
    lines = repository.lines[step.file]
    depth = len(lines[line - 1]) - len(lines[line - 1].lstrip())
    end = line
    while end < len(lines) and lines[end].strip() and len(lines[end]) - len(lines[end].lstrip()) > depth:
        end += 1
    flow = lines[line - 1].lstrip().startswith(("{", "with:", "-"))
    return () if flow or len(step.inputs) < 2 else (Edit(step.file, line, end - line + 1),)


@rule(
    "ci.cache_path_unset",
    "error",
    title="A cache path below a variable that is not set yet",
    why=(
        "CONDA is set by the set-up action (and by GitHub's images). Before it, on one's own machine, the"
        " path is /envs: nothing is restored, and nothing ever saved."
    ),
    remedy="name the path itself, or move the cache after the set-up step",
    example=(
        "runs-on: [self-hosted]\nsteps:\n  - uses: actions/cache@...\n    with: {path: '${{ env.CONDA"
        " }}/envs'}"
    ),
)
def cache_path_unset(repository: Repository) -> Iterator[Hit]:
    """``env.CONDA`` in a path before any step that sets it, on any machine.

    The context ``env`` holds what the workflow sets and what earlier steps exported, never the machine's own.
    """
    for cache in _caches(repository):
        if not re.search(r"env\.CONDA\b", cache.path) or not cache.restores:
            continue
        before = cache.job.steps[: cache.index]
        told = any(_may_set_conda(step) for step in before)
        if not told and "CONDA" not in as_map(cache.job.node.get("env")):
            message = "env.CONDA is not set before the set-up step; the path is /envs"
            yield Hit("ci.cache_path_unset", cache.step.file, cache.step.input_line("path"), message)


def _may_set_conda(step: Step) -> bool:
    """A set-up action by its name, an action of the repository, or a script that exports CONDA."""
    named = step.action_name.startswith("./") or "conda" in step.action_name or "mamba" in step.action_name
    return named or re.search(r"CONDA=.*GITHUB_ENV", step.run) is not None


@rule(
    "ci.cache_after_creation",
    "warning",
    title="An environment is restored after it was made, or made after it was restored",
    why=(
        "Restoring over a fresh environment saves no time and mixes two; making one where one was restored"
        " ends with 'prefix already exists'."
    ),
    remedy=(
        "put the cache before the step that makes the environment, and give that step "
        "if: steps.ID.outputs.cache-hit != 'true'"
    ),
    example="- run: conda env create -f environment.yml\n- uses: actions/cache@... # path: ~/miniconda3/envs",
)
def cache_after_creation(repository: Repository) -> Iterator[Hit]:
    """The order of cache and creation, and whether creation is skipped on a hit."""
    for cache in _caches(repository):
        if not cache.restores:
            continue
        line = cache.step.line
        if any(creates(step) for step in cache.job.steps[: cache.index]):
            message = "the cache comes after the step that makes the environment"
            yield Hit("ci.cache_after_creation", cache.step.file, line, message)
        for step in cache.job.steps[cache.index + 1 :]:
            found = next((each for each in step.commands if _makes_anew(each.words)), None)
            if found and "cache-hit" not in step.condition and "cache-hit" not in step.run:
                message = "the environment is made although the cache may have restored it"
                yield Hit("ci.cache_after_creation", step.file, step.at(found), message, severity="error")


def _makes_anew(words: tuple[str, ...]) -> bool:
    created = words[:3] in (
        ("conda", "env", "create"),
        ("mamba", "env", "create"),
        ("micromamba", "env", "create"),
    )
    return (created or words[:2] == ("micromamba", "create")) and not {"-y", "--yes", "--force"} & set(words)


@rule(
    "ci.cache_prefix_moves",
    "error",
    title="One cached environment for machines of different kinds",
    why=(
        "A conda prefix holds its own path in scripts and libraries. Restored below another home it is"
        " broken, often only in the commands of some packages."
    ),
    remedy="give each kind of machine a key of its own, or use the store on one's own machines",
    example=(
        "cpu_tests: {runs-on: ubuntu-latest} # and gpu_tests on [self-hosted, gpu]: both restore key conda-1"
    ),
)
def cache_prefix_moves(repository: Repository) -> Iterator[Hit]:
    """The same key in a hosted and in a self-hosted job, unless it says which machine it is."""
    seen: dict[str, _Cache] = {}
    for cache in _caches(repository):
        if not (cache.job.hosted or cache.job.self_hosted) or "runner.environment" in cache.key:
            continue
        other = seen.setdefault(cache.key, cache)
        if cache.key and other.job.self_hosted != cache.job.self_hosted and not cache.step.action:
            message = f"jobs {other.job.id!r} and {cache.job.id!r} share a cached environment across machines"
            yield Hit("ci.cache_prefix_moves", cache.step.file, cache.step.line, message)


@rule(
    "ci.cache_on_self_hosted",
    "warning",
    title="One's own machine sends an environment to GitHub's cache and back",
    why=(
        "Several GiB up and down take longer than making the environment; the service's limit of 10 GB evicts"
        " it. A store on the machine itself takes a tenth of a second."
    ),
    remedy="use .github/actions/conda-env, which takes the host's store on a self-hosted runner",
    example=(
        "gpu_tests:\n  runs-on: [self-hosted, gpu]\n  steps:\n    - uses: actions/cache@... # path:"
        " ~/miniforge3/envs"
    ),
)
def cache_on_self_hosted(repository: Repository) -> Iterator[Hit]:
    """A cache of environments in a step that runs on a self-hosted runner for certain."""
    for cache in _caches(repository):
        if cache.job.self_hosted and not cache.step.hosted_only:
            message = f"job {cache.job.id!r} moves an environment through GitHub's cache"
            yield Hit("ci.cache_on_self_hosted", cache.step.file, cache.step.line, message)
    for job in repository.jobs:
        for step in job.steps:
            cached = step.input("cache-environment") == "true" and step.action_name == SETUP_MICROMAMBA
            if cached and job.self_hosted and not step.hosted_only:
                message = f"job {job.id!r} moves an environment through GitHub's cache"
                line = key_line(step.node.get("with"), "cache-environment", value_line(step.node, "uses"))
                yield Hit("ci.cache_on_self_hosted", step.file, line, message)


RULES: tuple[Rule, ...] = (
    cache_key_unbound,
    cache_restore_stale,
    cache_path_unset,
    cache_after_creation,
    cache_prefix_moves,
    cache_on_self_hosted,
)
