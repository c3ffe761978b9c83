"""Which jobs a host takes: what a job says of itself against what the host's spec allows. Pure.

The facts are the runner's own (GITHUB_* and the event's payload), told by the hook's process. A job that
already runs code of its own there could tell others: SECURITY.md says how far the policy carries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runnerctl.core.sections import GithubRunner
from runnerctl.guard.ports import JobClaims
from runnerctl.guard.protocol import one_line

__all__ = ["matches", "refusal"]


def refusal(claims: JobClaims, runner: GithubRunner) -> str | None:
    """Why a job with these claims is not taken, for its author; None when it is."""
    return (
        _of_fork(claims, runner)
        or _of_list("repository", claims.repository, runner.policy_repositories)
        or _of_list("workflow", claims.workflow_ref, runner.policy_workflows)
    )


def _of_fork(claims: JobClaims, runner: GithubRunner) -> str | None:
    if runner.policy_fork_pull_requests == "allow" or claims.fork is False:
        return None
    if claims.fork is None:
        return "this runner takes no pull requests from forks, and whether this is one cannot be told"
    return "this runner takes no jobs of pull requests from forks"


def _of_list(what: str, name: str | None, allowed: Sequence[str]) -> str | None:
    if not allowed:
        return None
    if name is None:
        return f"this runner takes jobs of some {what} names only, and this job's cannot be told"
    if any(matches(pattern, name) for pattern in allowed):
        return None
    return one_line(f"this runner takes no jobs of {what} {name}")


def matches(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern, in which ``*`` stands for anything. GitHub's names have no case.

    The ref of a workflow (behind the last ``@``) has: there the case counts.
    """
    head, at, ref = pattern.partition("@")
    name_head, name_at, name_ref = name.partition("@")
    if at and not name_at:
        return False
    if not at:  # a pattern without a ref is for any
        return _fits(head, name_head, re.IGNORECASE) or (name_at != "" and _fits(head, name, re.IGNORECASE))
    return _fits(head, name_head, re.IGNORECASE) and _fits(ref, name_ref, 0)


def _fits(pattern: str, text: str, flags: int) -> bool:
    """Every part between the stars, in its order, without going back: no pattern takes long."""
    parts = pattern.split("*")
    if flags & re.IGNORECASE:
        parts, text = [part.lower() for part in parts], text.lower()
    if len(parts) == 1:
        return text == parts[0]
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
