"""Rules about how long and how often a workflow runs."""

from __future__ import annotations

from collections.abc import Iterator

from runnerctl.ci.rules import Edit, Hit, Rule, rule
from runnerctl.ci.rules_shared import inserted_before
from runnerctl.ci.workflow_model import Repository, Workflow
from runnerctl.ci.workflow_yaml import as_list, is_flow

__all__ = ["RULES", "inserted_at_top"]

_HOSTED_MINUTES = 60
_OWN_MINUTES = 30


def inserted_at_top(repository: Repository, workflow: Workflow, lines: list[str]) -> tuple[Edit, ...]:
    """Put a block before ``jobs:``, with an empty line after it."""
    if is_flow(workflow.node) or workflow.node.get("jobs") is None:
        return ()
    at = workflow.line("jobs")
    text = repository.lines[workflow.file]
    while at > 2 and text[at - 2].startswith("#"):
        at -= 1
    return (Edit(workflow.file, at, insert=(*lines, "")),)


@rule(
    "ci.timeout_missing",
    "warning",
    fixable=True,
    title="A job without a time limit",
    why="GitHub ends a job after six hours. A hung CUDA call holds the only GPU for as long.",
    remedy="set timeout-minutes to some three times what the job takes",
    example="gpu_tests:\n  runs-on: [self-hosted, gpu]\n  steps: [...]",
)
def timeout_missing(repository: Repository) -> Iterator[Hit]:
    """Jobs with steps (one that calls a workflow cannot have a limit). Limits on every step do as well."""
    for workflow in repository.workflows:
        for job in workflow.jobs:
            own = [step for step in job.steps if not step.action]
            if (
                job.calls
                or "timeout-minutes" in job.node
                or all("timeout-minutes" in step.node for step in own)
            ):
                continue
            minutes = _OWN_MINUTES if job.self_hosted else _HOSTED_MINUTES
            edits = inserted_before(repository, job, "steps", [f"timeout-minutes: {minutes}"])
            message = f"job {job.id!r} has no timeout-minutes"
            yield Hit("ci.timeout_missing", job.file, job.line, message, edits)


@rule(
    "ci.concurrency_missing",
    "warning",
    fixable=True,
    title="Every push queues a full run",
    why=(
        "Ten pushes to a pull request queue ten runs for the only GPU, nine of them for commits nobody will"
        " merge."
    ),
    remedy="set concurrency with a group per workflow and branch, and cancel what a newer push replaced",
    example="on: [push, pull_request] # and no concurrency:",
)
def concurrency_missing(repository: Repository) -> Iterator[Hit]:
    """Workflows for pull requests, or for pushes to one's own machines; a group in each job will do."""
    for workflow in repository.workflows:
        own = any(job.self_hosted for job in workflow.jobs)
        wanted = "pull_request" in workflow.events or (
            "push" in workflow.events and own and not _tags(workflow)
        )
        covered = "concurrency" in workflow.node or all("concurrency" in job.node for job in workflow.jobs)
        if not wanted or covered:
            continue
        lines = [
            "concurrency:",
            "  group: ${{ github.workflow }}-${{ github.ref }}",
            "  cancel-in-progress: ${{ github.event_name == 'pull_request' }}",
        ]
        message = "no concurrency group: every push queues a full run"
        edits = inserted_at_top(repository, workflow, lines)
        yield Hit("ci.concurrency_missing", workflow.file, workflow.line("on"), message, edits)


def _tags(workflow: Workflow) -> bool:
    push = workflow.events.get("push")
    return isinstance(push, dict) and bool(as_list(push.get("tags"))) and "branches" not in push


RULES: tuple[Rule, ...] = (timeout_missing, concurrency_missing)
