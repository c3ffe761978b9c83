"""Who can reach the runners: strangers through forks, other repositories through groups. Pure.

A job is code of whoever wrote the workflow. On a persistent slot what it leaves behind meets the next job, so
a stranger's pull request must never get there (GitHub's guide to secure use of self-hosted runners).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runnerctl.core.doctor_readings import GroupReading, RunnerReading, ScopeReading, Site
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.reading import Unavailable

__all__ = ["CHECKS"]

APPROVALS = {
    "first_time_contributors_new_to_github": "only people who are new to GitHub",
    "first_time_contributors": "only people who contribute for the first time",
    "all_external_contributors": "everybody from outside",
}
STRICTEST = "all_external_contributors"


def _not_known(what: str, found: Unavailable) -> Verdict:
    return unknown(f"{what} is not known: {found.reason}", found.remedy)


def _judge_public(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    """A repository's own runners serve it alone; in a group it is the group that decides."""
    if reading.reach is not None and reading.reach.public is not None:
        yield _judge_repository(reading, site)
    if reading.groups is None:
        return
    if isinstance(reading.groups, Unavailable):
        yield _not_known("whether a group allows public repositories", reading.groups)
        return
    open_ones = [group for group in reading.groups if group.public]
    for group in open_ones:
        inside = [each for each in site.ours(reading) if each.group_id in (group.id, None)]
        yield _judge_open_group(group, inside)
    if any(group.public is None for group in reading.groups):
        yield unknown("this server does not say which groups allow public repositories", _LOOK)
    elif not open_ones:
        yield ok(f"no group allows public repositories ({_count(len(reading.groups), 'group')})")


_LOOK = "look at the group's settings"


def _judge_repository(reading: ScopeReading, site: Site) -> Verdict:
    public = reading.reach.public if reading.reach else None
    if isinstance(public, Unavailable):
        return _not_known("whether the repository is public", public)
    if not public:
        return ok("the repository is private: no stranger's pull request reaches the runners")
    remedy = "make it private, or move the runners to an organisation's group that allows no public ones"
    if any(runner.ephemeral is not True for runner in site.ours(reading)) or _wants_persistent(reading, site):
        return critical("the repository is public: pull requests from forks run on these runners", remedy)
    return warning("the repository is public: pull requests from forks would run on its runners", remedy)


def _wants_persistent(reading: ScopeReading, site: Site) -> bool:
    return any(slot.mode == "persistent" for _, slot in site.claims(reading.scope).values())


def _judge_open_group(group: GroupReading, runners: Sequence[RunnerReading]) -> Verdict:
    data = {"group": group.name, "runners": len(runners), "workflows": list(group.workflows or ())}
    whose = " (inherited from the enterprise)" if group.inherited else ""
    remedy = f"turn 'Allow public repositories' off for group {group.name}"
    remedy += ", in the enterprise's settings" if group.inherited else ""
    text = f"group {group.name}{whose} allows public repositories"
    if not runners:
        return warning(f"{text}; no runner of ours is in it", remedy, **data)
    text = f"{text}, and {_count(len(runners), 'runner')} of ours {_be(len(runners))} in it"
    if group.workflows is not None:
        return warning(f"{text}; only {_named(group.workflows)} may use it", remedy, **data)
    if all(runner.ephemeral for runner in runners):
        return warning(f"{text}; all of them serve one job each", remedy, **data)
    return critical(text, remedy, **data)


def _judge_approval(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    del site
    reach = reading.reach
    if reach is None or reach.approval is None:
        return
    may_reach = _strangers_may_reach(reading)
    if may_reach is None:
        return  # github.public says what is not known
    if not may_reach:
        yield ok("no public repository reaches the runners: pull requests of strangers do not arise")
    elif isinstance(reach.approval, Unavailable):
        yield _not_known("whose pull requests wait for an approval", reach.approval)
    else:
        whose = APPROVALS.get(reach.approval, reach.approval)
        make = ok if reach.approval == STRICTEST else warning
        yield make(f"pull requests from forks: {whose} must wait for an approval", policy=reach.approval)


def _strangers_may_reach(reading: ScopeReading) -> bool | None:
    """Whether a public repository can use the runners; None: not known."""
    if reading.reach is not None and reading.reach.public is not None:
        return None if isinstance(reading.reach.public, Unavailable) else reading.reach.public
    if isinstance(reading.groups, tuple):
        known = [group.public for group in reading.groups]
        return True if True in known else None if None in known else False
    return None


def _judge_groups(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if not isinstance(reading.groups, tuple):
        return
    ours = {runner.group_id for runner in site.ours(reading)}
    wide = [group for group in reading.groups if group.visibility == "all" and group.workflows is None]
    made = [group for group in wide if not group.default and group.id in ours]
    for group in made:
        yield warning(
            f"group {group.name} holds runners of ours, and every repository may use it",
            f"limit group {group.name} to the repositories or workflows that need its runners",
            group=group.name,
        )
    known = {group.id for group in reading.groups if group.visibility}
    if ours - known:
        yield unknown("who may use the group of some of our runners is not told", _LOOK)
    elif not made:
        default = any(group.default and group.id in ours for group in wide)
        text = "the default group is open to every repository, as GitHub made it" if default else ""
        yield ok(text or "no group of our runners is open to every repository")


def _judge_policy(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if reading.policy is None:
        return
    if isinstance(reading.policy, Unavailable):
        online = [runner for runner in reading.known_runners if runner.online]
        if online:  # who is there was let in
            yield ok(f"{_count(len(online), 'runner')} registered here {_be(len(online))} online")
        else:
            yield _not_known("whether runners may be registered here", reading.policy)
        return
    del site
    owner, enabled = reading.policy.owner, reading.policy.enabled
    if enabled == "none":
        yield critical(f"{owner} allows no repository to have runners of its own: registering fails there")
    elif enabled == "selected" and reading.scope.kind == "repository" and not reading.known_runners:
        yield unknown(f"{owner} allows chosen repositories to have runners; whether this is one, is not told")
    elif enabled == "selected":
        yield ok(f"{owner} allows chosen repositories to have runners of their own", policy=enabled)
    elif enabled == "all":
        yield ok(f"{owner} allows its repositories to have runners of their own", policy=enabled)
    else:
        yield unknown(f"{owner} has a policy for runners that is not known here: {enabled!r}", policy=enabled)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


def _named(names: Sequence[str]) -> str:
    return _count(len(names), "workflow") if len(names) > 2 or not names else " and ".join(names)


def _judge_shared(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    """A note, no fault: whoever gives a slot to an organisation may know what its jobs are."""
    if reading.scope.kind == "repository":
        return
    claims = site.claims(reading.scope)
    shared = sorted(name for name, (_, slot) in claims.items() if slot.mode == "persistent")
    if shared:
        text = f"{_count(len(shared), 'persistent slot')} may serve more than one repository"
        yield ok(f"{text}: jobs can reach the listener of the next job, which nothing cleans", slots=shared)


CHECKS: tuple[Check, ...] = (
    Check(
        id="github.public",
        title="No public repository reaches the runners",
        docs=(
            "Anybody may open a pull request against a public repository, and what it changes in a workflow "
            "runs on the runners that the repository reaches: a repository's own, and those of a group that "
            "allows public repositories. With persistent slots that is CRITICAL. A group that allows them "
            "and holds no runner of ours, limits them to named workflows, or has runners for one job each "
            "is a WARNING."
        ),
        remedy="keep public repositories away from these runners",
        judge=_judge_public,
        over="scopes",
    ),
    Check(
        id="github.fork_approval",
        title="Pull requests of strangers wait for an approval",
        docs=(
            "Where a public repository reaches the runners, the approval of pull requests from forks is the "
            "last barrier. The strictest policy asks it for everybody from outside; the others let a "
            "stranger through who once had a typo merged."
        ),
        remedy="require approval for all external contributors (Settings, Actions, General)",
        judge=_judge_approval,
        over="scopes",
    ),
    Check(
        id="github.groups",
        title="A group is open to those who need it",
        docs=(
            "A group of one's own that every repository may use limits nothing. The default group, which "
            "GitHub opens to all, is only named."
        ),
        remedy="limit the group to the repositories or workflows that need its runners",
        judge=_judge_groups,
        over="scopes",
    ),
    Check(
        id="github.policy",
        title="Runners may be registered here",
        docs=(
            "An organisation may forbid its repositories runners of their own, or allow chosen ones. Where "
            "the credential may not read the policy, runners that are online prove that they were let in."
        ),
        remedy="allow it in the organisation's settings: Actions, Runners, or Actions, General",
        judge=_judge_policy,
        over="scopes",
    ),
    Check(
        id="github.shared",
        title="Jobs of one listener trust each other",
        docs=(
            "The listener of a persistent slot runs as the user of its jobs and stays from job to job: a job "
            "can trace it, read the runner's session key and change what the next job gets. All else is "
            "removed between jobs. Where a slot serves an organisation or an enterprise, this names it; mode "
            "`ephemeral` makes the listener new for each job. A note, never a fault."
        ),
        remedy="use mode ephemeral",
        judge=_judge_shared,
        over="scopes",
    ),
)
