"""Required checks at GitHub: what is required now, and the ruleset that requires the rest.

Sources: GitHub's REST reference, "Rules" and "Protected branches". Only a ruleset of our own name is ever
written; what others configured stays, and nothing is taken away from ours either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any
from urllib.parse import quote

import msgspec

from runnerctl.core.scope import Scope
from runnerctl.github.client import GitHubClient

__all__ = ["RULESET", "Plan", "Rulesets", "ruleset_body"]

RULESET = "runnerctl: required checks"
ACTIONS_APP = 15368  # GitHub Actions on github.com: a status of the same name by anybody else does not count


class Plan(msgspec.Struct, frozen=True):
    """What is required, what is missing, and the ruleset to write (none when nothing is missing)."""

    present: tuple[str, ...]
    missing: tuple[str, ...]
    ruleset_id: int | None = None
    body: dict[str, Any] | None = None


def ruleset_body(names: Iterable[str], *, branch: str, app_id: int | None) -> dict[str, Any]:
    """A ruleset that requires ``names`` for ``branch`` and nothing else, without anybody who may pass by."""
    app = {} if app_id is None else {"integration_id": app_id}
    rule = {
        "type": "required_status_checks",
        "parameters": {
            "required_status_checks": [{"context": name, **app} for name in names],
            "strict_required_status_checks_policy": False,
        },
    }
    return {
        "name": RULESET,
        "target": "branch",
        "enforcement": "active",
        "conditions": {"ref_name": {"include": [f"refs/heads/{branch}"], "exclude": []}},
        "rules": [rule],
    }


class Rulesets:
    """The rules of one repository through ``client``; every call raises what the client raises."""

    def __init__(self, client: GitHubClient, scope: Scope) -> None:
        self.client = client
        self.path = scope.path

    def plan(self, names: Sequence[str], *, branch: str, app_id: int | None) -> Plan:
        """Compare what is required with ``names``; a check that others require already is left to them."""
        default = self._default_branch()
        rulesets = self._rulesets()
        active = [each for each in rulesets if _binds(each, branch, default)]
        required = {name for each in active for name in _contexts(each)} | self._protected(branch)
        missing = tuple(name for name in names if name not in required)
        present = tuple(name for name in names if name in required)
        if not missing:
            return Plan(present, ())
        own = next((each for each in rulesets if each.get("name") == RULESET and _is_own(each)), None)
        body = ruleset_body(missing, branch=branch, app_id=app_id)
        if own is None:
            return Plan(present, missing, None, body)
        return Plan(present, missing, int(own["id"]), _extended(own, body, branch))

    def apply(self, plan: Plan) -> None:
        """Write the ruleset of a plan."""
        if plan.body is None:
            return
        if plan.ruleset_id is None:
            self.client.post(f"{self.path}/rulesets", plan.body, what="create the ruleset of required checks")
        else:
            path = f"{self.path}/rulesets/{plan.ruleset_id}"
            self.client.put(path, plan.body, what="extend the ruleset of required checks")

    def _default_branch(self) -> str:
        found = self.client.get(self.path, what="read the repository").decode(dict[str, Any])
        return str(found.get("default_branch") or "main")

    def _rulesets(self) -> list[dict[str, Any]]:
        """Every ruleset for branches with its rules, those of the organisation included."""
        listed = self.client.pages(f"{self.path}/rulesets", what="list the rulesets")
        wanted = [each for each in listed if each.get("target", "branch") == "branch"]
        return [self._ruleset(int(each["id"])) for each in wanted]

    def _ruleset(self, number: int) -> dict[str, Any]:
        answer = self.client.get(f"{self.path}/rulesets/{number}", what="read a ruleset", accept=(404,))
        found: dict[str, Any] = {} if answer.status == 404 else answer.decode(dict[str, Any])
        return found

    def _protected(self, branch: str) -> set[str]:
        """What classic branch protection requires; 404 is a branch without it."""
        path = f"{self.path}/branches/{quote(branch, safe='')}/protection/required_status_checks"
        answer = self.client.get(path, what="read the branch protection", accept=(404,))
        if answer.status == 404:
            return set()
        found = answer.decode(dict[str, Any])
        checks = found.get("checks") or ()
        return {*map(str, found.get("contexts") or ()), *(str(each.get("context")) for each in checks)}


def _is_own(ruleset: Mapping[str, Any]) -> bool:
    return str(ruleset.get("source_type", "Repository")) == "Repository"


def _binds(ruleset: Mapping[str, Any], branch: str, default: str) -> bool:
    """Whether a ruleset is active for a branch."""
    names = (ruleset.get("conditions") or {}).get("ref_name") or {}
    include, exclude = names.get("include") or [], names.get("exclude") or []
    fits = any(_fits(pattern, branch, default) for pattern in include)
    return (
        ruleset.get("enforcement") == "active"
        and fits
        and not any(_fits(each, branch, default) for each in exclude)
    )


def _fits(pattern: str, branch: str, default: str) -> bool:
    if pattern == "~ALL":
        return True
    return branch == default if pattern == "~DEFAULT_BRANCH" else fnmatch(f"refs/heads/{branch}", pattern)


def _contexts(ruleset: Mapping[str, Any]) -> list[str]:
    return [str(each["context"]) for rule in _checks(ruleset) for each in _listed(rule)]


def _checks(ruleset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [rule for rule in ruleset.get("rules") or () if rule.get("type") == "required_status_checks"]


def _listed(rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((rule.get("parameters") or {}).get("required_status_checks") or ())


def _extended(own: Mapping[str, Any], body: dict[str, Any], branch: str) -> dict[str, Any]:
    """Our ruleset with what is missing added: its other rules, checks, branches and settings stay."""
    rules = [dict(rule) for rule in own.get("rules") or ()]
    added = _listed(body["rules"][0])
    for rule in rules:
        if rule.get("type") == "required_status_checks":
            have = {str(each["context"]) for each in _listed(rule)}
            more = [each for each in added if each["context"] not in have]
            rule["parameters"] = {**rule["parameters"], "required_status_checks": [*_listed(rule), *more]}
            break
    else:
        rules += body["rules"]
    names = dict((own.get("conditions") or {}).get("ref_name") or {})
    ref = f"refs/heads/{branch}"
    include = list(names.get("include") or [])
    names["include"] = include if any(_fits(each, branch, "") for each in include) else [*include, ref]
    names["exclude"] = [each for each in names.get("exclude") or [] if not _fits(each, branch, "")]
    found = {**body, "rules": rules, "conditions": {"ref_name": names}}
    return {**found, "bypass_actors": own["bypass_actors"]} if "bypass_actors" in own else found
