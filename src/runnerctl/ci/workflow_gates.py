"""Which jobs may be skipped for a pull request, and which job notices. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runnerctl.ci.rules_shared import pytests
from runnerctl.ci.workflow_expression import FORK, OWN, pull_request_context, verdict
from runnerctl.ci.workflow_model import Job, Repository, Workflow
from runnerctl.ci.workflow_yaml import texts

__all__ = ["gate_of", "is_gate", "judges", "skip_reason", "skippable_tests"]

_ALLS_GREEN = "re-actors/alls-green"


def skip_reason(job: Job) -> str | None:
    """Why a job may be skipped for a pull request by its own condition, or None.

    A condition that cannot be judged may skip it.
    """
    if not job.condition or (
        job.runs_always and verdict(job.condition, pull_request_context("pull_request", fork=OWN))
    ):
        return None
    for fork, whose in ((OWN, "a pull request"), (FORK, "a pull request of a fork")):
        answer = verdict(job.condition, pull_request_context("pull_request", fork=fork))
        if answer is False:
            return f"is skipped for {whose}"
        if answer is None:
            return "may be skipped by its condition"
    return None


def skippable_tests(repository: Repository, workflow: Workflow) -> Iterator[tuple[Job, str]]:
    """Jobs that test pull requests and may be skipped: those with pytest, and those on one's own machines."""
    if "pull_request" not in workflow.events:
        return
    for job in workflow.jobs:
        tests = job.self_hosted or pytests(repository, job)
        why = skip_reason(job) if tests else None
        if why and verdict(job.condition, pull_request_context("pull_request", fork=OWN)) is not False:
            yield job, why


def is_gate(workflow: Workflow, job: Job) -> bool:
    """Whether a job always runs and judges the results of those it needs."""
    return bool(job.needs) and job.runs_always and judges(job) and workflow.job(job.id) is job


def judges(job: Job) -> bool:
    """Whether a job reads results and knows success from skipped."""
    if any(step.action_name == _ALLS_GREEN for step in job.steps):
        return True
    text = "\n".join(texts(job.node))
    reads = re.search(
        r"needs\s*(\.\s*[\w*-]+|\[[^\]]*\])\s*\.\s*result|toJSON\(\s*needs\s*\)", text, re.IGNORECASE
    )
    return bool(reads) and bool(re.search(r"\b(success|skipped)\b", text))


def gate_of(workflow: Workflow, job: Job) -> tuple[Job | None, str]:
    """The gate that judges a job, and what is wrong with it (empty when nothing is)."""
    candidates = [each for each in workflow.jobs if job.id in each.needs and each.runs_always]
    for each in candidates:
        if judges(each):
            return each, ""
    reading = [each for each in candidates if re.search(r"needs\b.*\bresult", "\n".join(texts(each.node)))]
    if reading:
        return reading[0], f"job {reading[0].id!r} does not fail when it was skipped"
    return None, ""
