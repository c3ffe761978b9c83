"""Rules about coverage that counts everything, once, and fails when it is too little."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch

from runnerctl.ci.rules import Hit, Rule, rule
from runnerctl.ci.rules_shared import Pytest, inserted_input, pytests
from runnerctl.ci.workflow_model import Job, Repository, Step, Workflow
from runnerctl.ci.workflow_yaml import as_map

__all__ = ["RULES"]

_UPLOAD = "actions/upload-artifact"
_SERVICES = (
    "codecov/codecov-action",
    "coverallsapp/github-action",
    "py-cov-action/python-coverage-comment-action",
)


def _measuring(repository: Repository) -> list[tuple[Job, Pytest]]:
    found = [(job, each) for job in repository.jobs for each in pytests(repository, job)]
    return [(job, each) for job, each in found if each.measures]


def _uses_service(repository: Repository) -> bool:
    return any(
        step.action_name in _SERVICES
        or any(command.program in ("codecov", "coveralls") for command in step.commands)
        for job in repository.jobs
        for step in job.steps
    )


def _combines(job: Job) -> list[tuple[Step, int]]:
    return [
        (step, step.at(each)) for step, each in job.programs("coverage") if each.words[1:2] == ("combine",)
    ]


def _setting(repository: Repository, message: str, key: str, value: str) -> Hit:
    """A finding about coverage's settings, at the file that holds them, where it is mended, too."""
    settings = repository.settings
    file = settings.coverage_file or ("pyproject.toml" if settings.pyproject else ".coveragerc")
    can = bool(settings.coverage_file) or settings.pyproject
    values = (("run", key, value),) if can else ()
    return Hit("ci.coverage_settings", file, settings.coverage_line, message, settings=values)


@rule(
    "ci.coverage_settings",
    "warning",
    fixable=True,
    title="Coverage loses what child processes and other machines measured",
    why=(
        "Without concurrency = multiprocessing nothing of a worker process counts, without parallel one"
        " overwrites the other, without sigterm a pool that is terminated loses all, and data of two machines"
        " combine only with relative paths."
    ),
    remedy="set [run] concurrency = multiprocessing, parallel, sigterm and relative_files",
    example="[tool.coverage.run]\nbranch = true # and the package imports multiprocessing",
)
def coverage_settings(repository: Repository) -> Iterator[Hit]:
    """Asked for only where coverage is measured; the first three only where something starts processes."""
    measured = _measuring(repository)
    settings = repository.settings
    if not measured:
        return
    processes = repository.tests.processes
    if processes:
        started = f" ({processes[0]}:{processes[1]} starts processes)"
        if "multiprocessing" not in settings.concurrency:
            yield _setting(
                repository,
                "concurrency = multiprocessing is missing" + started,
                "concurrency",
                "multiprocessing",
            )
        if not settings.coverage_is("parallel"):
            yield _setting(repository, "parallel = true is missing" + started, "parallel", "true")
        if not settings.coverage_is("sigterm"):
            yield _setting(repository, "sigterm = true is missing" + started, "sigterm", "true")
    met = (
        any(_combines(job) for job in repository.jobs)
        and len({(job.file, job.id) for job, _ in measured}) > 1
    )
    if met and not settings.coverage_is("relative_files") and not settings.has_paths:
        message = "relative_files = true is missing: the data of two machines are combined"
        yield _setting(repository, message, "relative_files", "true")


@rule(
    "ci.coverage_combined_twice",
    "error",
    title="coverage combine after pytest-cov, with nothing left to combine",
    why=(
        "pytest-cov combines by itself; the second time coverage ends with 'No data to combine' and fails the"
        " job."
    ),
    remedy="remove coverage combine from this job; combine where the data of several jobs meet",
    example="- run: |\n    pytest --cov=package\n    coverage combine",
)
def coverage_combined_twice(repository: Repository) -> Iterator[Hit]:
    """In a job: pytest --cov, then coverage combine, and nothing that brings other data."""
    for job in repository.jobs:
        cov = [
            each for each in pytests(repository, job) if each.has("--cov") and "--no-cov" not in each.words
        ]
        combined = _combines(job)
        if not cov or not combined or _other_data(job):
            continue
        step, line = combined[0]
        message = "pytest-cov combined already: coverage combine finds no data and fails"
        yield Hit("ci.coverage_combined_twice", step.file, line, message)


def _other_data(job: Job) -> bool:
    """Downloaded data, a COVERAGE_FILE of one's own, coverage run, an appended or kept data file."""
    for step in job.steps:
        if step.action_name.startswith("actions/download-artifact") or "COVERAGE_FILE" in step.run:
            return True
        if "COVERAGE_FILE" in as_map(step.node.get("env")):
            return True
        for command in step.commands:
            if command.program == "coverage" and command.words[1:2] == ("run",):
                return True
            if (
                command.program == "coverage"
                and command.words[1:2] == ("combine",)
                and _brings(command.words)
            ):
                return True
            if command.program in ("mv", "cp") and any(".coverage" in word for word in command.words):
                return True
    return "COVERAGE_FILE" in as_map(job.node.get("env"))


def _brings(words: tuple[str, ...]) -> bool:
    """Whether coverage combine is given files of its own, or adds to what is there."""
    return any(not word.startswith("-") for word in words[2:]) or bool({"--append", "-a"} & set(words))


@rule(
    "ci.coverage_never_combined",
    "warning",
    title="Two tiers measured, and never put together",
    why=(
        "Each tier alone is below any honest threshold: code for the GPU counts only in one of them, so"
        " neither number says what is untested."
    ),
    remedy="upload each tier's data and combine them in a job that needs both",
    example="cpu_tests: pytest --cov -m 'not gpu' # gpu_tests: pytest --cov -m gpu, and no coverage combine",
)
def coverage_never_combined(repository: Repository) -> Iterator[Hit]:
    """Two jobs of a workflow measure, at least one of them GPU tests only, and none combines."""
    if _uses_service(repository):
        return
    for workflow in repository.workflows:
        runs = [(job, each) for job in workflow.jobs for each in pytests(repository, job) if each.measures]
        jobs = {job.id for job, _ in runs}
        gpu = next(((job, each) for job, each in runs if each.wants_gpu), None)
        if len(jobs) < 2 or gpu is None or any(_combines(job) for job in workflow.jobs):
            continue
        message = f"jobs {', '.join(sorted(jobs))} measure coverage, and nothing combines it"
        yield Hit("ci.coverage_never_combined", gpu[1].step.file, gpu[1].line, message)


@rule(
    "ci.coverage_threshold_missing",
    "warning",
    title="Coverage is measured, and no number fails",
    why="A report that nobody must look at only ever falls.",
    remedy="set fail_under below [report], or --cov-fail-under, or coverage report --fail-under",
    example="- run: pytest --cov=package",
)
def coverage_threshold_missing(repository: Repository) -> Iterator[Hit]:
    """No threshold in settings, options or at a service that judges by itself."""
    measured = _measuring(repository)
    under = str(repository.settings.report.get("fail_under", "0"))
    if not measured or _uses_service(repository) or under not in ("0", "0.0"):
        return
    if any(each.has("--cov-fail-under") for _, each in measured):
        return
    if any(each.has("--fail-under") for job in repository.jobs for _, each in job.programs("coverage")):
        return
    each = measured[0][1]
    yield Hit(
        "ci.coverage_threshold_missing",
        each.step.file,
        each.line,
        "no threshold for the coverage measured here",
    )


@rule(
    "ci.coverage_file_hidden",
    "error",
    fixable=True,
    title="Hidden data files that are not uploaded",
    why=(
        "upload-artifact leaves out files whose name begins with a dot since version 4.4: .coverage.* never"
        " arrives, and the job that combines finds nothing."
    ),
    remedy="add include-hidden-files: true",
    example="- uses: actions/upload-artifact@...\n  with: {name: coverage, path: .coverage.*}",
)
def coverage_file_hidden(repository: Repository) -> Iterator[Hit]:
    """upload-artifact with a path to .coverage files, and without include-hidden-files."""
    for job in repository.jobs:
        for step in job.steps:
            paths = step.input("path").split()
            hidden = any(re.search(r"(^|/)\.coverage(?!rc|/)", path) for path in paths)
            old = re.search(r"@v?(3|2|1)(\.|$)", step.uses)
            if (
                step.action_name != _UPLOAD
                or not hidden
                or step.input("include-hidden-files") == "true"
                or old
            ):
                continue
            edits = (
                ()
                if step.input("include-hidden-files")
                else inserted_input(repository, step, "include-hidden-files: true")
            )
            message = "upload-artifact leaves out .coverage files, whose names begin with a dot"
            yield Hit("ci.coverage_file_hidden", step.file, step.input_line("path"), message, edits)


@rule(
    "ci.coverage_data_unused",
    "warning",
    title="Coverage data uploaded by a tier and downloaded by none",
    why="The report then counts one tier only, and nobody sees what is missing.",
    remedy="download it in the job that combines, and let that job need every tier that measures",
    example=(
        "- uses: actions/upload-artifact@... # name: coverage-gpu; the coverage job downloads coverage-cpu"
        " only"
    ),
)
def coverage_data_unused(repository: Repository) -> Iterator[Hit]:
    """In a workflow that combines: an uploaded .coverage whose name no download asks for."""
    for workflow in repository.workflows:
        if not any(_combines(job) for job in workflow.jobs):
            continue
        wanted = list(_wanted(workflow))
        for job in workflow.jobs:
            for step in job.steps:
                name = step.input("name")
                if step.action_name != _UPLOAD or ".coverage" not in step.input("path") or "${{" in name:
                    continue
                if not any(fnmatch(name or "artifact", pattern) for pattern in wanted):
                    message = f"no job downloads the coverage data {name!r} of job {job.id!r}"
                    yield Hit("ci.coverage_data_unused", step.file, step.line, message)


def _wanted(workflow: Workflow) -> Iterator[str]:
    """Names and patterns of artifacts that are downloaded; ``*`` where all are, or none can tell."""
    for job in workflow.jobs:
        for step in job.steps:
            if step.action_name.startswith("actions/download-artifact"):
                given = step.input("name") or step.input("pattern") or "*"
                yield "*" if "${{" in given else given
            elif "gh run download" in step.run:
                yield "*"


RULES: tuple[Rule, ...] = (
    coverage_settings,
    coverage_combined_twice,
    coverage_never_combined,
    coverage_threshold_missing,
    coverage_file_hidden,
    coverage_data_unused,
)
