"""Rules about which machine a job runs on, and what it may do there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runnerctl.ci.rules import Edit, Hit, Rule, rule
from runnerctl.ci.rules_shared import is_gpu_job, pytests, runs_here
from runnerctl.ci.workflow_model import HOSTED, Job, Repository, Step
from runnerctl.ci.workflow_yaml import text_of

__all__ = ["GONE", "RULES"]

# Package that is gone -> what takes its place ("" where nothing does), the first Ubuntu release without it.
# Sources: Debian's archive (each is absent from Debian 13 at the latest) and the release notes of Ubuntu;
# libgl1-mesa-glx: gone since 23.10, seen in pyvista/setup-headless-display-action issue 20.
GONE: dict[str, tuple[str, float]] = {
    "libgl1-mesa-glx": ("libgl1", 23.10),
    "libegl1-mesa": ("libegl1", 23.10),
    "libgles2-mesa": ("libgles2", 23.10),
    "libappindicator1": ("libayatana-appindicator1", 21.10),
    "libappindicator3-1": ("libayatana-appindicator3-1", 21.10),
    "libgconf-2-4": ("", 23.10),
    "libncurses5": ("libncurses6", 23.10),
    "libtinfo5": ("libtinfo6", 23.10),
    "libssl1.1": ("libssl3", 22.04),
    "libffi6": ("libffi8", 20.04),
    "libffi7": ("libffi8", 22.04),
    "python-dev": ("python3-dev", 22.04),
    "python-pip": ("python3-pip", 20.04),
    "python-setuptools": ("python3-setuptools", 22.04),
    "python3-distutils": ("python3-setuptools", 23.10),
    "libjasper-dev": ("", 18.04),
    "libdc1394-22-dev": ("libdc1394-dev", 21.04),
    "libdc1394-22": ("libdc1394-25", 21.04),
    "libpng12-0": ("libpng16-16", 17.10),
    "libpng12-dev": ("libpng-dev", 17.10),
    "libreadline7": ("libreadline8", 20.04),
}
_UBUNTU = re.compile(r"ubuntu[-:](\d+\.\d+)")


@rule(
    "ci.gpu_job_on_hosted",
    "error",
    title="A job for the GPU on a machine that has none",
    why=(
        "GitHub's standard machines have no GPU: tests that need CUDA fail there, or skip themselves and"
        " prove nothing."
    ),
    remedy="use runs-on: [self-hosted, linux, x64, gpu]",
    example="gpu_tests:\n  runs-on: ubuntu-latest\n  steps:\n    - run: pytest -m gpu",
)
def gpu_job_on_hosted(repository: Repository) -> Iterator[Hit]:
    """Standard hosted labels, and only tests with the marker or a call that needs a driver."""
    for job in repository.jobs:
        if not job.hosted:
            continue
        line = job.own_line("runs-on")
        found = [each for each in pytests(repository, job) if each.wants_gpu]
        smi = [step for step, command in job.programs("nvidia-smi") if not command.guarded]
        if found or smi:
            what = "pytest -m gpu" if found else "nvidia-smi"
            yield Hit(
                "ci.gpu_job_on_hosted",
                job.file,
                line,
                f"job {job.id!r} runs {what} on a machine without a GPU",
            )


@rule(
    "ci.label_unknown",
    "error",
    title="Labels that no runner of the fleet has",
    why=(
        "GitHub keeps such a job queued for 24 hours and then fails it; nothing says that nobody will ever"
        " come."
    ),
    remedy="correct the labels, or give a slot of the inventory the one that is missing",
    example="runs-on: [self-hosted, linux, x64, gpu-big]",
)
def label_unknown(repository: Repository) -> Iterator[Hit]:
    """Judged only with the fleet's labels at hand (--inventory, --url, --labels-from)."""
    for job in repository.jobs if repository.fleet is not None else ():
        for labels in job.alternatives or ():
            if not labels or any(HOSTED.match(label) for label in labels):
                continue
            if not any(labels <= runner for runner in repository.fleet or ()):
                line = job.own_line("runs-on")
                yield Hit("ci.label_unknown", job.file, line, _nobody(job, labels, repository.fleet or ()))


def _nobody(job: Job, labels: frozenset[str], fleet: tuple[frozenset[str], ...]) -> str:
    known = frozenset(label for runner in fleet for label in runner)
    missing = sorted(labels - known)
    why = f"no runner has {', '.join(missing)}" if missing else "no single runner has all of them"
    return f"job {job.id!r} asks for {', '.join(sorted(labels))}: {why}"


@rule(
    "ci.package_gone",
    "error",
    fixable=True,
    title="An apt package that no longer exists",
    why=(
        "apt-get fails with 'has no installation candidate' as soon as the image moves on, and the job"
        " with it."
    ),
    remedy="install the package that took its place",
    example="- run: sudo apt-get install -y libgl1-mesa-glx",
)
def package_gone(repository: Repository) -> Iterator[Hit]:
    """Names of the table, where no label or container names a release that still has the package."""
    for job, step in _steps(repository):
        if "apt" in step.action_name:  # such as awalsh128/cache-apt-pkgs-action
            for name in re.split(r"[\s,]+", step.input("packages")):
                if name in GONE and _release(job) >= GONE[name][1]:
                    yield _gone(repository, step, step.input_line("packages"), name)
        for command in step.commands:
            words = command.words
            if command.program not in ("apt-get", "apt", "aptitude") or "install" not in words:
                continue
            for word in words[words.index("install") + 1 :]:
                name = word.partition("=")[0]
                if name in GONE and _release(job) >= GONE[name][1]:
                    yield _gone(repository, step, step.at(command), name)


def _gone(repository: Repository, step: Step, line: int, name: str) -> Hit:
    new = GONE[name][0]
    lines = repository.lines[step.file]
    pattern = re.compile(rf"(?<![\w.+-]){re.escape(name)}(?![\w.+-])")
    at = next(
        (each for each in range(line, min(line + 40, len(lines) + 1)) if pattern.search(lines[each - 1])), 0
    )
    edits = (Edit(step.file, at, 1, (pattern.sub(new, lines[at - 1]),)),) if at and new else ()
    message = f"apt package {name} no longer exists" + (f"; its place took {new}" if new else "")
    return Hit("ci.package_gone", step.file, at or line, message, edits)


def _release(job: Job) -> float:
    """The Ubuntu release a job runs on; for anything else a current one, and none for another container."""
    container = job.node.get("container")
    image = text_of(container.get("image") if isinstance(container, dict) else container)
    if image:
        match = _UBUNTU.search(image)
        return float(match[1]) if match else 0.0
    found = [_UBUNTU.match(label) for labels in job.alternatives or () for label in labels]
    return min((float(match[1]) for match in found if match), default=99.0)


@rule(
    "ci.sudo_on_self_hosted",
    "error",
    title="sudo on one's own machine",
    why=(
        "A job that may become root on a persistent machine can read the secrets of every later job. Our"
        " runners have no sudo, so the step fails."
    ),
    remedy="let the host's provisioning install the package, or take it from environment.yml",
    example="gpu_tests:\n  runs-on: [self-hosted, gpu]\n  steps:\n    - run: sudo apt-get install -y libgl1",
)
def sudo_on_self_hosted(repository: Repository) -> Iterator[Hit]:
    """A command behind sudo, or apt without it, in a step that runs on a self-hosted runner for certain."""
    for job, step in _steps(repository):
        if not runs_here(job, step) or job.node.get("container"):
            continue
        for command in step.commands:
            apt = command.program in ("apt-get", "apt") and "install" in command.words
            if ("sudo" in command.via or apt) and not command.guarded:
                what = "sudo" if "sudo" in command.via else command.program
                message = f"job {job.id!r} runs {what} {_short(command.words)} on a self-hosted runner"
                yield Hit("ci.sudo_on_self_hosted", step.file, step.at(command), message)


def _short(words: tuple[str, ...]) -> str:
    return " ".join(words[:3]).removeprefix("apt-get ") if words[0] == "apt-get" else " ".join(words[:2])


def _steps(repository: Repository) -> Iterator[tuple[Job, Step]]:
    return ((job, step) for job in repository.jobs for step in job.steps)


@rule(
    "ci.gpu_before_cpu",
    "note",
    title="The GPU tier does not wait for the quick one",
    why="A commit that does not even pass the formatter then takes the only GPU away from one that would.",
    remedy="add needs: with the job that tests without a GPU",
    example="gpu_tests:\n  runs-on: [self-hosted, gpu] # and no needs:",
)
def gpu_before_cpu(repository: Repository) -> Iterator[Hit]:
    """A GPU job on one's own machine without needs, beside a hosted job that tests, in one workflow."""
    for workflow in repository.workflows:
        quick = [job for job in workflow.jobs if job.hosted and pytests(repository, job)]
        for job in workflow.jobs:
            if quick and job.self_hosted and is_gpu_job(repository, job) and not job.needs:
                message = f"job {job.id!r} does not wait for {quick[0].id!r}"
                yield Hit("ci.gpu_before_cpu", job.file, job.line, message)


RULES: tuple[Rule, ...] = (
    gpu_job_on_hosted,
    label_unknown,
    package_gone,
    sudo_on_self_hosted,
    gpu_before_cpu,
)
