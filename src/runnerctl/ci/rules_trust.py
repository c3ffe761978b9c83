"""Rules about whose code reaches one's own machines, and what it gets there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from runnerctl.ci.rules import Hit, Rule, Severity, rule
from runnerctl.ci.rules_shared import inserted_input
from runnerctl.ci.workflow_expression import FORK, pull_request_context, verdict
from runnerctl.ci.workflow_gates import gate_of, skippable_tests
from runnerctl.ci.workflow_model import Job, Repository, Step, Workflow
from runnerctl.ci.workflow_yaml import expressions, texts

__all__ = ["RULES"]

_EVENTS = ("pull_request", "pull_request_target", "workflow_run", "issue_comment")
_HEAD = re.compile(
    r"pull_request\.head\.(sha|ref|repo)|workflow_run\.head_(sha|branch|commit)|github\.head_ref|/pull/"
)
# Texts that whoever opens a pull request, an issue or a branch chooses (GitHub's "Script injections").
_CHOSEN = re.compile(
    r"github\.(head_ref|event\.(pull_request\.(title|body|head\.(ref|label|repo\.default_branch))"
    r"|issue\.(title|body)"
    r"|comment\.body|review\.body|review_comment\.body|discussion\.(title|body)"
    r"|head_commit\.(message|author\.\w+)"
    r"|workflow_run\.(head_branch|display_title|head_commit\.(message|author\.\w+))|commits.*\.(message|name)"
    r"|pages.*\.page_name))"
)
_INPUT = re.compile(r"(^|[^\w.])(inputs\.[\w-]+|github\.event\.inputs\.[\w-]+)")
_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@rule(
    "ci.fork_reaches_runner",
    "error",
    title="A stranger's pull request runs on one's own machine",
    why=(
        "Anybody may open a pull request from a fork; its code then runs inside the network, beside the"
        " caches and credentials of later jobs."
    ),
    remedy=(
        "guard the job with if: github.event_name != 'pull_request' || "
        "github.event.pull_request.head.repo.full_name == github.repository, and require a gate job"
    ),
    example="on: pull_request\njobs:\n  gpu_tests:\n    runs-on: [self-hosted, gpu]",
)
def fork_reaches_runner(repository: Repository) -> Iterator[Hit]:
    """Each self-hosted job whose condition, and whose needs, let a pull request of a fork through."""
    for workflow in repository.workflows:
        for job in workflow.jobs:
            event = _reaching(repository, workflow, job) if job.self_hosted else None
            if event is None:
                continue
            trusted = event != "pull_request" and not _takes_head(job)
            if trusted and event in ("workflow_run", "issue_comment"):
                continue  # it runs the default branch's code on nothing of the stranger's
            asked = event == "issue_comment" and bool(job.condition or job.needs)  # by somebody who may?
            severity: Severity | None = "warning" if trusted or asked or "environment" in job.node else None
            message = f"{event} of a fork reaches the self-hosted runner of job {job.id!r}"
            line = job.own_line("if") if job.condition else job.own_line("runs-on")
            yield Hit("ci.fork_reaches_runner", job.file, line, message, severity=severity)


def _reaching(repository: Repository, workflow: Workflow, job: Job) -> str | None:
    """The event by which a fork's pull request reaches a job, directly or through a local caller."""
    for event in _EVENTS:
        if event in workflow.events and not _guarded(workflow, job, event):
            return event
    if "workflow_call" not in workflow.events:
        return None
    for other in repository.workflows:
        for caller in other.jobs:
            if caller.calls.partition("@")[0] == f"./{workflow.file}":
                for event in _EVENTS:
                    if event in other.events and not _guarded(other, caller, event):
                        return None if _guarded(workflow, job, event) else event
    return None


def _guarded(workflow: Workflow, job: Job, event: str, depth: int = 10) -> bool:
    """Whether the condition of a job, or of one it needs, keeps a fork's pull request away."""
    if verdict(job.condition, pull_request_context(event, fork=FORK)) is False:
        return True
    if job.runs_always or not depth:
        return False
    needed = [found for name in job.needs if (found := workflow.job(name))]
    return any(_guarded(workflow, each, event, depth - 1) for each in needed)


def _takes_head(job: Job) -> bool:
    """Whether a job fetches what the pull request brought: its code or its artifacts."""
    return any(_fetches_head(step) for step in job.steps)


def _fetches_head(step: Step) -> bool:
    if step.action_name == "actions/checkout":
        return bool(_HEAD.search(f"{step.input('ref')} {step.input('repository')}"))
    return "gh pr checkout" in step.run or bool(
        re.search(r"git (fetch|checkout|pull).*(pull/|head)", step.run)
    )


@rule(
    "ci.fork_code_trusted",
    "error",
    title="A pull request's code with the repository's secrets",
    why=(
        "pull_request_target and workflow_run run with secrets and a token that may write. Code of the pull"
        " request that is checked out there has both."
    ),
    remedy="use the event pull_request for whatever runs the pull request's code",
    example=(
        "on: pull_request_target\nsteps:\n  - uses: actions/checkout@...\n"
        "    with: {ref: '${{ github.event.pull_request.head.sha }}'}"
    ),
)
def fork_code_trusted(repository: Repository) -> Iterator[Hit]:
    """A check-out of the head in a workflow of such an event, in a job that no condition guards."""
    for workflow in repository.workflows:
        for event in ("pull_request_target", "workflow_run", "issue_comment"):
            if event not in workflow.events:
                continue
            for job in workflow.jobs:
                step = next((each for each in job.steps if _fetches_head(each)), None)
                if step and not job.self_hosted and not _guarded(workflow, job, event):
                    message = f"{event} checks out code of the pull request with the repository's secrets"
                    asked = event == "issue_comment" and bool(job.condition or job.needs)
                    severity: Severity | None = "warning" if asked else None
                    yield Hit("ci.fork_code_trusted", step.file, step.line, message, severity=severity)


@rule(
    "ci.no_gate",
    "warning",
    title="A job that may be skipped, and no gate that notices",
    why="A skipped job satisfies a required check: a pull request whose GPU tests never ran can be merged.",
    remedy=(
        "add a job with if: always() that needs every tier and fails unless each succeeded "
        "(runnerctl ci init writes one), and require that one"
    ),
    example="gpu_tests:\n  if: github.event_name == 'push'",
)
def no_gate(repository: Repository) -> Iterator[Hit]:
    """Jobs that test pull requests, may be skipped by their own condition, and are not judged by a gate."""
    for workflow in repository.workflows:
        for job, why in skippable_tests(repository, workflow):
            gate, fault = gate_of(workflow, job)
            if gate is None or fault:
                message = f"job {job.id!r} {why}; " + (fault or "no gate job fails then")
                line = gate.line if gate is not None else job.own_line("if")
                yield Hit("ci.no_gate", job.file, line, message)


@rule(
    "ci.action_unpinned",
    "warning",
    title="An action by a name that can move",
    why="Whoever may move the tag runs code in the next job: on one's own machine, with its token.",
    remedy="pin the full commit, with the version as a comment: uses: owner/action@<40 digits> # v1.2.3",
    example="- uses: actions/checkout@v4",
)
def action_unpinned(repository: Repository) -> Iterator[Hit]:
    """Actions, workflows and images named by tag or branch; those of the repository itself are not."""
    for job in repository.jobs:
        used = [(step.file, step.uses, step.node, step.line) for step in job.steps if step.uses]
        used += [(job.file, job.calls, job.node, job.line)] if job.calls else []
        for file, name, node, line in used:
            if name.startswith(("./", "$/")) or "${{" in name or _pinned(name):
                continue
            at = _line_of(node, "uses", line)
            yield Hit("ci.action_unpinned", file, at, f"{name} is not pinned to a commit")


def _pinned(name: str) -> bool:
    if name.startswith("docker://"):
        return "@sha256:" in name
    return bool(_SHA.fullmatch(name.rpartition("@")[2]))


def _line_of(node: Mapping[str, Any], key: str, default: int) -> int:
    from runnerctl.ci.workflow_yaml import key_line

    return key_line(node, key, default)


@rule(
    "ci.script_injection",
    "error",
    title="A text from outside is pasted into a script",
    why=(
        "${{ }} is replaced before the shell reads the script: a branch named $(...) or a title with a quote"
        " in it becomes a command."
    ),
    remedy='pass it through env: and use "$NAME" in the script',
    example='- run: echo "${{ github.event.pull_request.title }}"',
)
def script_injection(repository: Repository) -> Iterator[Hit]:
    """Contexts that outsiders choose are errors; inputs and secrets in a script are warnings."""
    for job in repository.jobs:
        for step in job.steps:
            script, line = step.run, step.run_line
            if not script and step.action_name == "actions/github-script":
                script, line = step.input("script"), step.input_line("script") + 1
            for offset, inside in expressions(script):
                severity = _danger(inside)
                if severity:
                    message = f"${{{{ {inside[:60]} }}}} is pasted into the script"
                    yield Hit("ci.script_injection", step.file, line + offset, message, severity=severity)


def _danger(inside: str) -> Severity | None:
    if re.fullmatch(r"(toJSON|fromJSON|format)\(.*\)|.*", inside) and _CHOSEN.search(inside):
        return None if re.match(r"(contains|startsWith|endsWith|hashFiles)\(", inside) else "error"
    if re.search(r"(==|!=|&&|\|\||\bcontains\()", inside):
        return None  # it yields true, false or a text of the workflow's own
    return "warning" if _INPUT.search(inside) or re.match(r"secrets\.", inside) else None


@rule(
    "ci.permissions_wide",
    "warning",
    fixable=True,
    title="The job's token may do more than it needs",
    why=(
        "Without permissions: the token has the repository's default, in old ones the right to push. Code of"
        " any dependency that runs in a test can use it."
    ),
    remedy="permissions: contents: read at the top, and more only for the job that needs it",
    example="permissions: write-all",
)
def permissions_wide(repository: Repository) -> Iterator[Hit]:
    """write-all anywhere; or nothing at the top and jobs without permissions of their own."""
    for workflow in repository.workflows:
        if workflow.node.get("permissions") == "write-all":
            line = workflow.line("permissions")
            yield Hit(
                "ci.permissions_wide",
                workflow.file,
                line,
                "permissions: write-all gives the token every right",
            )
        for job in workflow.jobs:
            if job.node.get("permissions") == "write-all":
                line = job.own_line("permissions")
                yield Hit("ci.permissions_wide", job.file, line, f"job {job.id!r} has every right")
        bare = [job for job in workflow.jobs if "permissions" not in job.node]
        if "permissions" not in workflow.node and bare:
            yield _bare(repository, workflow, bare[0])


def _bare(repository: Repository, workflow: Workflow, job: Job) -> Hit:
    from runnerctl.ci.rules_runs import inserted_at_top

    message = f"no permissions are set: the token of job {job.id!r} has the repository's default"
    edits = inserted_at_top(repository, workflow, ["permissions:", "  contents: read"])
    return Hit(
        "ci.permissions_wide",
        workflow.file,
        workflow.line("jobs"),
        message,
        edits if _only_reads(workflow) else (),
    )


_READERS = re.compile(
    r"(actions/(checkout|cache|setup-\w+|upload-artifact|download-artifact)|conda-incubator/|mamba-org/)"
)


def _only_reads(workflow: Workflow) -> bool:
    """Whether nothing in a workflow can need more than reading the code."""
    for job in workflow.jobs:
        if job.calls or re.search(
            r"github\.token|GITHUB_TOKEN|secrets\.", " ".join(texts(job.node.get("env")))
        ):
            return False
        for step in job.steps:
            if step.uses and not step.uses.startswith("./") and not _READERS.match(step.uses):
                return False
            text = "\n".join(texts(step.node))
            if re.search(r"github\.token|GITHUB_TOKEN|\bgh |git push|secrets\.", text):
                return False
    return True


@rule(
    "ci.credentials_kept",
    "note",
    fixable=True,
    title="The check-out leaves its token in .git/config",
    why=(
        "Every later step, and everything a test imports, can read it there; on a persistent machine so can"
        " what stays behind."
    ),
    remedy="add persist-credentials: false to the check-out",
    example="- uses: actions/checkout@... # without persist-credentials: false",
)
def credentials_kept(repository: Repository) -> Iterator[Hit]:
    """actions/checkout without the input, in a job that neither pushes nor fetches afterwards."""
    for job in repository.jobs:
        needed = re.compile(
            r"git (push|fetch|pull|submodule|lfs)|\bgh |semantic-release|mike deploy|mkdocs gh-deploy"
        )
        pushes = any(
            needed.search(step.run) or "commit" in step.action_name or "deploy" in step.action_name
            for step in job.steps
        )
        for step in job.steps:
            if step.action_name != "actions/checkout" or "persist-credentials" in step.inputs or pushes:
                continue
            edits = inserted_input(repository, step, "persist-credentials: false")
            message = "the check-out keeps its token for every later step"
            yield Hit("ci.credentials_kept", step.file, step.line, message, edits)


RULES: tuple[Rule, ...] = (
    fork_reaches_runner,
    fork_code_trusted,
    no_gate,
    action_unpinned,
    script_injection,
    permissions_wide,
    credentials_kept,
)
