"""Rules about the two tiers of tests and the marker that parts them."""

from __future__ import annotations

from collections.abc import Iterator

from runnerctl.ci.rules import Hit, Rule, rule
from runnerctl.ci.rules_shared import Pytest, is_gpu_job, pytests
from runnerctl.ci.workflow_model import Job, Repository
from runnerctl.ci.workflow_tests import selects

__all__ = ["RULES"]

_HOOKS = {
    "black": "black",
    "ruff-pre-commit": "ruff",
    "mirrors-mypy": "mypy",
    "isort": "isort",
    "flake8": "flake8",
}


@rule(
    "ci.gpu_tests_in_cpu_job",
    "warning",
    title="GPU tests in the job without a GPU",
    why=(
        "They fail there for want of a GPU, or skip themselves; either way the tier says nothing about the"
        " code."
    ),
    remedy='run pytest -m "not gpu" there',
    example="cpu_tests:\n  runs-on: ubuntu-latest\n  steps:\n    - run: pytest",
)
def gpu_tests_in_cpu_job(repository: Repository) -> Iterator[Hit]:
    """pytest on a hosted machine that would run marked tests: by its marker expression and by its paths."""
    for job in repository.jobs:
        for each in pytests(repository, job) if job.hosted else ():
            if each.wants_gpu or not each.may_run_gpu or not _reaches(each, repository.tests.marked):
                continue
            message = f"pytest in job {job.id!r} also runs the tests that need a GPU"
            yield Hit("ci.gpu_tests_in_cpu_job", each.step.file, each.line, message)


def _reaches(run: Pytest, files: tuple[str, ...]) -> bool:
    """Whether one of the files is among those that a run reads."""
    left_out = [word.partition("=")[2].strip("./") for word in run.words if word.startswith("--ignore=")]
    at = [index for index, word in enumerate(run.words) if word == "--ignore"]
    left_out += [run.words[index + 1].strip("./") for index in at if index + 1 < len(run.words)]
    inside = [file for file in files if not any(_below(file, path) for path in left_out)]
    paths = run.paths or tuple(word for word in run.command.arguments if word in _folders(files))
    return any(not paths or any(_below(file, path) for path in paths) for file in inside)


def _folders(files: tuple[str, ...]) -> set[str]:
    return {file.rsplit("/", depth)[0] for file in files for depth in range(1, file.count("/") + 1)}


def _below(file: str, path: str) -> bool:
    return file == path or file.startswith(path + "/") or not path


@rule(
    "ci.gpu_skips_pass",
    "error",
    title="A GPU job that is green for want of a GPU",
    why=(
        "Tests that skip themselves without CUDA make the job green when the driver is dead: seen in public "
        "projects for months."
    ),
    remedy="run pytest -m gpu --require-gpu (the plugin that comes with runnerctl), which fails instead",
    example="gpu_tests:\n  runs-on: [self-hosted, gpu]\n  steps:\n    - run: pytest -m gpu",
)
def gpu_skips_pass(repository: Repository) -> Iterator[Hit]:
    """pytest for marked tests on a GPU job without --require-gpu."""
    for job in repository.jobs:
        for each in pytests(repository, job) if not job.hosted else ():
            if each.wants_gpu and not each.has("--require-gpu"):
                message = f"pytest in job {job.id!r} passes when every test was skipped for want of a GPU"
                yield Hit("ci.gpu_skips_pass", each.step.file, each.line, message)


@rule(
    "ci.marker_unused",
    "error",
    title="pytest -m gpu, and no test carries the marker",
    why="pytest that collects nothing ends with exit code 5, and the job fails; or worse, || true hides it.",
    remedy="put @pytest.mark.gpu on every test that needs CUDA",
    example="- run: pytest -m gpu # grep -r mark.gpu tests finds nothing",
)
def marker_unused(repository: Repository) -> Iterator[Hit]:
    """Judged where test files were found at all."""
    if repository.tests.marked or not repository.tests.files:
        return
    for job in repository.jobs:
        for each in pytests(repository, job):
            if each.wants_gpu:
                message = f"no test of {repository.tests.files} files carries the marker gpu"
                yield Hit("ci.marker_unused", each.step.file, each.line, message)


@rule(
    "ci.marker_unregistered",
    "warning",
    fixable=True,
    title="The marker gpu is not registered, or a typo in it is no error",
    why=(
        "With a typo, gup, the test runs in the tier without a GPU. Registered markers and --strict-markers"
        " make a typo an error."
    ),
    remedy='add markers = ["gpu: needs a GPU"] and --strict-markers to pytest\'s settings',
    example='[tool.pytest.ini_options]\naddopts = "-ra"',
)
def marker_unregistered(repository: Repository) -> Iterator[Hit]:
    """Where tests carry the marker: neither settings nor a conftest register it, or nothing is strict."""
    settings, tests = repository.settings, repository.tests
    if not tests.marked:
        return
    file = settings.pytest_file or "pyproject.toml"
    plugin = settings.plugin or any("runnerctl" in each.specs for each in repository.environments)
    if "gpu" not in settings.markers and not tests.registered and not plugin:
        values = (("pytest", "markers", "gpu: needs a GPU"),)
        message = "the marker gpu is not registered"
        yield Hit(
            "ci.marker_unregistered", file, settings.pytest_line, message, settings=_toml(repository, values)
        )
    strict = settings.strict or any(
        each.has("--strict-markers", "--strict")
        for job in repository.jobs
        for each in pytests(repository, job)
    )
    if not strict:
        values = (("pytest", "addopts", "--strict-markers"),)
        message = "a misspelt marker is no error: --strict-markers is missing"
        yield Hit(
            "ci.marker_unregistered", file, settings.pytest_line, message, settings=_toml(repository, values)
        )


def _toml(
    repository: Repository, values: tuple[tuple[str, str, str], ...]
) -> tuple[tuple[str, str, str], ...]:
    """Only pyproject.toml is edited: an ini file's lists have too many forms."""
    return (
        values
        if repository.settings.pytest_file in ("", "pyproject.toml") and repository.settings.pyproject
        else ()
    )


@rule(
    "ci.gpu_test_unmarked",
    "note",
    title="A test that seems to use CUDA and carries no marker",
    why="It runs, and fails, in the tier without a GPU, and is missing from the tier that has one.",
    remedy="put @pytest.mark.gpu on it; or, when it asks for a device only as text, ignore this",
    example='def test_forward():\n    model.to("cuda")',
)
def gpu_test_unmarked(repository: Repository) -> Iterator[Hit]:
    """A guess from the source: torch.cuda, cupy, .cuda(), "cuda" as a device; no skip, no mark."""
    if not any(is_gpu_job(repository, job) for job in repository.jobs):
        return
    for file, line, test, used in repository.tests.unmarked:
        yield Hit("ci.gpu_test_unmarked", file, line, f"{test} uses {used} and does not carry the marker gpu")


@rule(
    "ci.hooks_not_run",
    "note",
    title="Hooks of pre-commit that nobody runs in CI",
    why="A hook that only some developers installed finds what the others committed, in their pull requests.",
    remedy="run pre-commit run --all-files in the quick tier",
    example="# .pre-commit-config.yaml is there, and no workflow runs pre-commit",
)
def hooks_not_run(repository: Repository) -> Iterator[Hit]:
    """A configuration, workflows that test, and no pre-commit in any (nor pre-commit.ci's settings)."""
    lines = repository.lines.get(repository.hooks_file, ())
    if not repository.hooks_file or not repository.workflows or any(line.startswith("ci:") for line in lines):
        return
    texts = (step.run + step.uses for job in repository.jobs for step in job.steps)
    tested = any(pytests(repository, job) for job in repository.jobs)
    if tested and not any("pre-commit" in text or "prek" in text for text in texts):
        yield Hit("ci.hooks_not_run", repository.hooks_file, 1, "no workflow runs pre-commit")


@rule(
    "ci.hooks_elsewhere",
    "warning",
    title="A hook of another version than the environment's",
    why=(
        "The editor formats with one version of black and the hook with another: the file changes back and"
        " forth, and CI is red for a reason that nobody sees at home."
    ),
    remedy="use repo: local hooks that run the environment's own tools, or the same version in both",
    example="- repo: https://github.com/psf/black\n  rev: 23.3.0 # environment.yml: black=24.10",
)
def hooks_elsewhere(repository: Repository) -> Iterator[Hit]:
    """rev of a hook's repository against the pin of the same tool in environment.yml."""
    environment = repository.environment
    for address, (revision, line) in repository.hooks.items() if environment else ():
        package = _HOOKS.get(address.rstrip("/").rsplit("/", 1)[-1].removesuffix(".git"), "")
        pinned = environment.version(package).rstrip(".*") if environment and package else ""
        given = revision.lstrip("v")
        if pinned and given[:1].isdigit() and not (given + ".").startswith(pinned + "."):
            message = f"the hook runs {package} {given}, the environment has {pinned}"
            yield Hit("ci.hooks_elsewhere", repository.hooks_file, line, message)


def cpu_only(run: Pytest) -> bool:
    """Whether a run leaves out every test that carries the marker."""
    return selects(run.marker, gpu=True) is False


def tiers(repository: Repository, job: Job) -> bool:
    """Whether a job measures one tier of two."""
    return any(cpu_only(each) or each.wants_gpu for each in pytests(repository, job))


RULES: tuple[Rule, ...] = (
    gpu_tests_in_cpu_job,
    gpu_skips_pass,
    marker_unused,
    marker_unregistered,
    gpu_test_unmarked,
    hooks_not_run,
    hooks_elsewhere,
)
