"""Which checks to require before a merge, by the names that GitHub shows, and which must not be. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import msgspec

from runnerctl.ci.workflow_gates import is_gate, judges, skip_reason
from runnerctl.ci.workflow_model import Job, Repository, Workflow
from runnerctl.ci.workflow_yaml import as_list, as_map
from runnerctl.errors import DataError

__all__ = ["Required", "check_names", "required_checks"]

_MATRIX = re.compile(r"\$\{\{\s*matrix\.([\w-]+)\s*\}\}")
_INIT = "let runnerctl ci init write one, and require it"


class Required(msgspec.Struct, frozen=True):
    """The checks of one job: ``names`` as GitHub shows them; ``gate``: it judges the others."""

    file: str
    job: str
    names: tuple[str, ...]
    gate: bool


def required_checks(repository: Repository, wanted: Sequence[str], *, branch: str) -> tuple[Required, ...]:
    """The checks to require: those of ``wanted`` (ids or shown names of jobs), or of the gate.

    Raises DataError for a job that is not there, that no pull request to ``branch`` starts, or that may be
    skipped while no gate judges it: GitHub takes a skipped job for a passed one.
    """
    pairs = [(flow, job) for flow in repository.workflows for job in flow.jobs]
    chosen = [_find(pairs, name) for name in wanted] if wanted else _gates(pairs)
    together = {(flow.file, job.id) for flow, job in chosen}
    found = []
    for flow, job in chosen:
        _refuse_silent(flow, job, branch)
        _refuse_skippable(flow, job, together)
        names = check_names(repository, job)
        found.append(Required(job.file, job.id, names, is_gate(flow, job)))
    _refuse_ambiguous(repository, pairs, found)
    return tuple(found)


def _gates(pairs: Iterable[tuple[Workflow, Job]]) -> list[tuple[Workflow, Job]]:
    found = [(flow, job) for flow, job in pairs if "pull_request" in flow.events and is_gate(flow, job)]
    if not found:
        raise DataError(
            "no job judges the others (if: always(), needs: all of them, fails unless each succeeded)",
            where=".github/workflows",
            remedy=_INIT + ", or name jobs with --require",
        )
    return found


def _find(pairs: Sequence[tuple[Workflow, Job]], name: str) -> tuple[Workflow, Job]:
    found = [
        (flow, job) for flow, job in pairs if name in (job.id, job.name) and "pull_request" in flow.events
    ]
    found = found or [(flow, job) for flow, job in pairs if name in (job.id, job.name)]
    if len(found) == 1:
        return found[0]
    if found:
        files = ", ".join(flow.file for flow, _ in found)
        raise DataError(
            f"{name!r} is a job of {files}", where="--require", remedy="give one of them another name"
        )
    known = ", ".join(sorted({job.id for _, job in pairs})) or "none"
    raise DataError(f"there is no job {name!r}", where="--require", remedy=f"the jobs are {known}")


def _refuse_silent(flow: Workflow, job: Job, branch: str) -> None:
    """A check that is never reported keeps every pull request waiting."""
    where = f"{job.file}: job {job.id!r}"
    if "pull_request" not in flow.events:
        remedy = "add pull_request to its events, or require another job"
        raise DataError(
            "no pull request starts it, so every merge would wait for it", where=where, remedy=remedy
        )
    event = as_map(flow.events["pull_request"])
    branches = [str(each) for each in as_list(event.get("branches"))]
    ignored = [str(each) for each in as_list(event.get("branches-ignore"))]
    if (branches and not _listed(branch, branches)) or _listed(branch, ignored):
        remedy = f"let pull_request name the branch {branch}"
        raise DataError(f"no pull request to {branch} starts it", where=where, remedy=remedy)
    filters = [name for name in ("paths", "paths-ignore") if name in event]
    if filters:
        remedy = "remove the filter; let a first job of the workflow decide what to run"
        raise DataError(
            f"{filters[0]} keeps it from starting, and the merge waits for ever", where=where, remedy=remedy
        )
    types = [str(each) for each in as_list(event.get("types"))]
    if types and not {"opened", "synchronize"} <= set(types):
        remedy = "let types have opened, synchronize and reopened"
        raise DataError("a new commit of a pull request does not start it", where=where, remedy=remedy)


def _listed(branch: str, patterns: Iterable[str]) -> bool:
    """GitHub's branch filters: the last pattern that fits decides, ``!`` takes back."""
    found = False
    for pattern in patterns:
        if fnmatch(branch, pattern.lstrip("!")):
            found = not pattern.startswith("!")
    return found


def _refuse_skippable(flow: Workflow, job: Job, together: set[tuple[str, str]]) -> None:
    """A skipped job satisfies a required check, so only one that cannot be skipped may be required."""
    where = f"{job.file}: job {job.id!r}"
    why = skip_reason(job)
    if why:
        raise DataError(
            f"{why}, and GitHub takes a skipped job for a passed one", where=where, remedy=_remedy(flow, job)
        )
    if job.needs and job.runs_always:
        if not judges(job):
            remedy = "let it fail unless every result it needs is success"
            raise DataError(
                "it runs whatever the others did, and does not judge them", where=where, remedy=remedy
            )
        return
    for name in job.needs:
        if (flow.file, name) not in together:
            what = f"it is skipped when {name!r} fails, and GitHub takes a skipped job for a passed one"
            raise DataError(what, where=where, remedy=f"require {name} as well, or a gate: {_INIT}")


def _remedy(flow: Workflow, job: Job) -> str:
    gate = next((each for each in flow.jobs if job.id in each.needs and is_gate(flow, each)), None)
    return (
        f"require the gate {gate.id!r} instead, which judges it" if gate else f"a gate job is needed: {_INIT}"
    )


def check_names(repository: Repository, job: Job) -> tuple[str, ...]:
    """The names of a job's checks as GitHub shows them: one for each combination of its matrix.

    Raises DataError where a run decides them (expressions, a matrix with ``include``).
    """
    if job.calls:
        return _called_names(repository, job)
    where = f"{job.file}: job {job.id!r}"
    combinations = _combinations(as_map(job.node.get("strategy")).get("matrix"), where)
    given = job.node.get("name")
    names = []
    for values in combinations:
        text = _filled(job.name, values)
        shown = ", ".join(str(value) for value in values.values())
        plain = given is None or text == job.name
        names.append(f"{text} ({shown})" if values and plain else text)
    if any("${{" in name for name in names):
        raise DataError(
            "its name is an expression", where=where, remedy="give it a fixed name, or require a gate"
        )
    return tuple(dict.fromkeys(names))


def _filled(name: str, values: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        return str(values.get(match[1], match[0]))

    return _MATRIX.sub(value, name)


def _combinations(matrix: Any, where: str) -> list[Mapping[str, Any]]:
    if matrix is None:
        return [{}]
    axes = {name: values for name, values in as_map(matrix).items() if name not in ("include", "exclude")}
    told = isinstance(matrix, Mapping) and all(isinstance(values, list) for values in axes.values())
    scalars = told and all(
        isinstance(value, (str, int, float)) for values in axes.values() for value in values
    )
    if not scalars or "include" in as_map(matrix) or any("${{" in str(values) for values in axes.values()):
        remedy = "require a gate that needs it"
        raise DataError("the names of its matrix cannot be told from the file", where=where, remedy=remedy)
    left_out = [as_map(each) for each in as_list(as_map(matrix).get("exclude"))]
    every = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [each for each in every if not any(out.items() <= each.items() for out in left_out)]


def _called_names(repository: Repository, job: Job) -> tuple[str, ...]:
    file = job.calls.partition("@")[0].removeprefix("./")
    flow = next((each for each in repository.workflows if each.file == file), None)
    if flow is None:
        remedy = "require a gate that needs it"
        raise DataError(
            "it calls a workflow of another repository", where=f"{job.file}: job {job.id!r}", remedy=remedy
        )
    inner = [name for each in flow.jobs if not each.calls for name in check_names(repository, each)]
    return tuple(f"{job.name} / {name}" for name in inner)


def _refuse_ambiguous(
    repository: Repository, pairs: Iterable[tuple[Workflow, Job]], found: Sequence[Required]
) -> None:
    """Two checks of one name: either satisfies the requirement."""
    wanted = {(each.file, each.job): set(each.names) for each in found}
    for flow, job in pairs:
        if (flow.file, job.id) in wanted or "pull_request" not in flow.events:
            continue
        try:
            names = set(check_names(repository, job))
        except DataError:
            continue
        for (file, name), own in wanted.items():
            if own & names:
                what = (
                    f"job {name!r} of {file} and job {job.id!r} of {flow.file} are both called"
                    f" {min(own & names)!r}"
                )
                raise DataError(what, where=".github/workflows", remedy="give one of them another name")
