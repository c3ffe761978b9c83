"""What several rules ask of jobs and steps."""

from __future__ import annotations

import re
import shlex

from runnerctl.ci.rules import Edit
from runnerctl.ci.workflow_model import Job, Repository, Step
from runnerctl.ci.workflow_settings import Settings
from runnerctl.ci.workflow_shell import Command
from runnerctl.ci.workflow_tests import selects
from runnerctl.ci.workflow_yaml import as_map, is_flow, key_line, text_of

__all__ = [
    "SETUP_CONDA",
    "SETUP_MICROMAMBA",
    "Pytest",
    "creates",
    "creation_name",
    "environment_files",
    "inserted_before",
    "inserted_input",
    "is_gpu_job",
    "pytests",
    "runs_here",
    "without_lines",
]

SETUP_CONDA = "conda-incubator/setup-miniconda"
SETUP_MICROMAMBA = "mamba-org/setup-micromamba"
_CONDAS = ("conda", "mamba", "micromamba")


class Pytest:
    """One run of pytest: what its options, and those of the settings, make of it."""

    def __init__(self, step: Step, command: Command, settings: Settings) -> None:
        self.step = step
        self.command = command
        self.words = (*settings.addopts, *_environment_words(step), *command.arguments)

    @property
    def line(self) -> int:
        """Where it stands."""
        return self.step.at(self.command)

    @property
    def marker(self) -> str:
        """The expression of the last ``-m``."""
        found = Command(0, ("pytest", *self.words)).value("-m")
        return found or ""

    @property
    def wants_gpu(self) -> bool:
        """Whether it asks for tests that carry ``gpu``, and for them only."""
        marker = self.marker
        return "gpu" in marker and selects(marker, gpu=True) is True and selects(marker, gpu=False) is False

    @property
    def may_run_gpu(self) -> bool:
        """Whether tests that carry ``gpu`` are among those it runs; when unsure, no."""
        words = Command(0, ("pytest", *self.words))
        if "gpu" in (words.value("-k") or "") or "${{" in self.marker or "$" in self.marker:
            return False
        if words.has("--collect-only", "--co", "--version", "--help", "--markers", "--fixtures"):
            return False
        return selects(self.marker, gpu=True) is True

    def has(self, *options: str) -> bool:
        """Whether an option is given here or in the settings."""
        return Command(0, ("pytest", *self.words)).has(*options)

    @property
    def measures(self) -> bool:
        """Whether coverage is measured."""
        return (self.has("--cov") and "--no-cov" not in self.words) or "coverage" in self.command.via

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders that it is limited to."""
        words = [word for word in self.command.arguments if not word.startswith("-")]
        return tuple(
            word.partition("::")[0].strip("./") for word in words if "/" in word or word.endswith(".py")
        )


def _environment_words(step: Step) -> list[str]:
    text = text_of(as_map(step.node.get("env")).get("PYTEST_ADDOPTS"))
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def pytests(repository: Repository, job: Job) -> list[Pytest]:
    """Every run of pytest in a job."""
    return [Pytest(step, command, repository.settings) for step, command in job.programs("pytest", "py.test")]


def is_gpu_job(repository: Repository, job: Job) -> bool:
    """Whether a job asks for a GPU by its labels, or for nothing but tests that carry ``gpu``."""
    labels = {label for each in job.alternatives or () for label in each}
    if any(label == "gpu" or label.startswith("gpu-") for label in labels):
        return True
    return any(each.wants_gpu for each in pytests(repository, job))


def runs_here(job: Job, step: Step) -> bool:
    """Whether a step runs on one's own machine, for certain."""
    return job.self_hosted and not step.hosted_only


def environment_files(step: Step) -> str:
    """The environment file that a set-up action is given, or empty."""
    return step.input("environment-file") if step.action_name in (SETUP_CONDA, SETUP_MICROMAMBA) else ""


def creates(step: Step) -> bool:
    """Whether a step makes a conda environment."""
    return bool(environment_files(step)) or any(
        creation_name(command) is not None for command in step.commands
    )


def creation_name(command: Command) -> str | None:
    """The environment that a command makes or updates: a name, or empty when the file names it."""
    words = command.words
    if command.program not in _CONDAS:
        return None
    verb = words[1:3] if words[1:2] == ("env",) else words[1:2]
    if verb in (("env", "create"), ("env", "update"), ("create",)):
        return command.value("-n", "--name") or command.value("-p", "--prefix") or ""
    return None


def inserted_before(
    repository: Repository, step_or_job: Step | Job, key: str, lines: list[str]
) -> tuple[Edit, ...]:
    """Put lines before a key of a mapping, in its indentation; nothing where it is written with brackets."""
    node = step_or_job.node
    if is_flow(node) or key not in node or (next(iter(node)) == key and isinstance(step_or_job, Step)):
        return ()
    at = key_line(node, key)
    pad = " " * _column(repository, step_or_job.file, at)
    while at > 2 and repository.lines[step_or_job.file][at - 2].strip().startswith("#"):
        at -= 1
    return (Edit(step_or_job.file, at, insert=tuple(pad + line for line in lines)),)


def _column(repository: Repository, file: str, line: int) -> int:
    text = repository.lines[file][line - 1]
    match = re.match(r"\s*(- +)?", text)
    return len(match[0]) if match else 0


def inserted_input(repository: Repository, step: Step, text: str) -> tuple[Edit, ...]:
    """Add an input to a step that uses an action; a ``with`` is made where there is none."""
    inputs = step.inputs
    if is_flow(step.node) or is_flow(step.node.get("with")):
        return ()
    if inputs:
        first = next(iter(inputs))
        at = key_line(inputs, first)
        return (Edit(step.file, at, insert=(" " * _column(repository, step.file, at) + text,)),)
    if "with" in step.node:
        return ()
    at = key_line(step.node, "uses")
    pad = " " * _column(repository, step.file, at)
    return (Edit(step.file, at + 1, insert=(f"{pad}with:", f"{pad}  {text}")),)


def without_lines(file: str, first: int, count: int = 1) -> tuple[Edit, ...]:
    """Take lines away."""
    return (Edit(file, first, remove=count),)
