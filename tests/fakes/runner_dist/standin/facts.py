"""What the ``github`` context tells every process of a job: no step can change it."""

from __future__ import annotations

from typing import Any

# Variable -> field of the job as the service describes it, and what stands for an absent one.
_FIELDS = {
    "GITHUB_ACTOR": ("actor", ""),
    "GITHUB_ACTOR_ID": ("actor_id", "583231"),
    "GITHUB_BASE_REF": ("base_ref", ""),
    "GITHUB_EVENT_NAME": ("event_name", ""),
    "GITHUB_HEAD_REF": ("head_ref", ""),
    "GITHUB_REF": ("ref", "refs/heads/main"),
    "GITHUB_REPOSITORY": ("repository", ""),
    "GITHUB_REPOSITORY_ID": ("repository_id", "1296269"),
    "GITHUB_REPOSITORY_OWNER_ID": ("repository_owner_id", "9919"),
    "GITHUB_RETENTION_DAYS": ("retention_days", "90"),
    "GITHUB_RUN_ATTEMPT": ("run_attempt", "1"),
    "GITHUB_RUN_ID": ("run_id", ""),
    "GITHUB_RUN_NUMBER": ("run_number", "1"),
    "GITHUB_SHA": ("sha", "0" * 40),
    "GITHUB_WORKFLOW": ("workflow", ""),
}


def github_facts(job: dict[str, Any]) -> dict[str, str]:
    """The ``GITHUB_*`` variables that come from the job itself.

    ``GITHUB_JOB`` is the job's key in its workflow, which the display name stands for where there is none.
    A variable can hold anything but a zero byte.
    """
    facts = {name: str(job.get(field) or default) for name, (field, default) in _FIELDS.items()}
    ref, sha, repository = facts["GITHUB_REF"], facts["GITHUB_SHA"], facts["GITHUB_REPOSITORY"]
    kind, _, name = ref.removeprefix("refs/").partition("/")
    facts["GITHUB_REF_NAME"] = name.removesuffix("/merge") if kind == "pull" else name
    facts["GITHUB_REF_TYPE"] = "tag" if kind == "tags" else "branch"
    facts["GITHUB_REF_PROTECTED"] = "false"
    facts["GITHUB_REPOSITORY_OWNER"] = repository.partition("/")[0]
    facts["GITHUB_TRIGGERING_ACTOR"] = str(job.get("triggering_actor") or facts["GITHUB_ACTOR"])
    facts["GITHUB_JOB"] = str(job.get("job_id") or job.get("name") or "")
    file = f"{repository}/.github/workflows/ci.yml@{ref}"
    facts["GITHUB_WORKFLOW_REF"] = str(job.get("workflow_ref") or file)
    facts["GITHUB_WORKFLOW_SHA"] = str(job.get("workflow_sha") or sha)
    return {name: value.replace("\0", "") for name, value in facts.items()}
