"""Rules about what a step sees of the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runnerctl.ci.rules import Edit, Hit, Rule, rule
from runnerctl.ci.rules_shared import SETUP_CONDA, SETUP_MICROMAMBA, environment_files, inserted_before
from runnerctl.ci.workflow_model import Job, Repository, Step

__all__ = ["RULES"]

_TOOLS = frozenset(
    {"python", "python3", "pip", "pytest", "coverage", "pre-commit", "black", "ruff", "mypy", "tox", "nox"}
    | {"isort", "flake8", "pylint", "sphinx-build", "jupyter", "ipython"}
)
_LOGIN = re.compile(r"bash\b.*(\s-\w*l\w*\b|--login)|micromamba-shell|\bcmd\b|pwsh|powershell")
_ACTIVATIONS = (("conda", "activate"), ("mamba", "activate"), ("micromamba", "activate"))
_SHELL = "bash -el {0}"


@rule(
    "ci.login_shell_missing",
    "error",
    fixable=True,
    title="Steps that do not see the activated environment",
    why=(
        "setup-miniconda activates in shell profiles, which only a login shell reads: without it the step"
        " runs with the machine's own Python, and often enough succeeds."
    ),
    remedy=(
        "set defaults: run: shell: bash -el {0} for the job, or use .github/actions/conda-env, which needs"
        " none"
    ),
    example=(
        "- uses: conda-incubator/setup-miniconda@...\n  with: {environment-file: environment.yml}\n- run:"
        " pytest"
    ),
)
def login_shell_missing(repository: Repository) -> Iterator[Hit]:
    """The first step of a job after the set-up that runs a Python tool in a shell that is no login shell."""
    for job in repository.jobs:
        if job.id.startswith(".github/actions/"):
            continue  # what an action activates is for the steps of its user
        found = list(_blind(job))
        if found:
            step = found[0]
            more = f" ({len(found)} steps of the job)" if len(found) > 1 else ""
            message = f"step without a login shell does not see the environment{more}"
            yield Hit("ci.login_shell_missing", step.file, step.line, message, _edits(repository, job, found))
        for step in list(_after_activation(job))[:1] if not found else ():
            message = "the activation of an earlier step ended with that step"
            yield Hit("ci.login_shell_missing", step.file, step.line, message)


def _blind(job: Job) -> Iterator[Step]:
    active = ""
    for step in job.steps:
        if step.action_name in (SETUP_CONDA, SETUP_MICROMAMBA) and not step.action:
            active = step.action_name if _activated(step) else ""
        if active and re.search(r"GITHUB_(PATH|ENV)\b", step.run):
            return  # the environment may be exported to all later steps
        if not active or not step.run or _LOGIN.search(step.shell) or step.action:
            continue
        if _sees_by_itself(step):
            continue
        if any(command.program in _TOOLS and not command.via for command in step.commands):
            yield step


def _after_activation(job: Job) -> Iterator[Step]:
    """Steps with a Python tool behind one that does nothing after `conda activate`."""
    active = False
    for step in job.steps:
        if re.search(r"GITHUB_(PATH|ENV)\b", step.run) or step.action_name.endswith("/conda-env"):
            return
        if not step.run or _sees_by_itself(step):
            last = step.commands[-1].words[:2] if step.commands else ()
            active = active or last in _ACTIVATIONS
        elif (
            active
            and not _LOGIN.search(step.shell)
            and any(command.program in _TOOLS and not command.via for command in step.commands)
        ):
            yield step


def _activated(step: Step) -> bool:
    if "activate-environment" in step.inputs and not step.input("activate-environment"):
        return False
    return bool(environment_files(step) or step.input("activate-environment") or step.input("python-version"))


def _sees_by_itself(step: Step) -> bool:
    """The script activates, or sources something that does."""
    words = {command.words[:2] for command in step.commands}
    return any(pair[:2] in _ACTIVATIONS or pair[0] in ("source", ".", "eval") for pair in words)


def _edits(repository: Repository, job: Job, blind: list[Step]) -> tuple[Edit, ...]:
    """Defaults for the job, where every step of it may have them."""
    if "defaults" in job.node or any(step.node.get("shell") for step in blind):
        return ()
    lines = ["defaults:", "  run:", f"    shell: {_SHELL}"]
    return inserted_before(repository, job, "steps", lines)


RULES: tuple[Rule, ...] = (login_shell_missing,)
