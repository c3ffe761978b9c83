"""What a spec may say of slots that register anew for each job, and of repositories that everybody sees."""

from __future__ import annotations

import re

from runnerctl.core.sections import HostSpec, Problem, Slot
from runnerctl.errors import ConfigError

__all__ = ["allows_public", "has_ephemeral", "mode_problems", "public_problem"]

APP_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
INSTALLATION_ID = re.compile(r"[1-9][0-9]{0,18}")
PUBLIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}(?:/[A-Za-z0-9._-]{1,100})?")


def has_ephemeral(spec: HostSpec) -> bool:
    """Whether any slot of the host registers anew for each job."""
    return any(slot.mode == "ephemeral" for slot in spec.github_runner.slots)


def mode_problems(spec: HostSpec) -> list[Problem]:
    """Every rule of modes that ``spec`` breaks.

    Which App mints may be said by the controller's environment too: that is asked where the key is.
    """
    runner, problems = spec.github_runner, []
    if runner.app_id is not None and not APP_ID.fullmatch(runner.app_id):
        remedy = "give the App's client ID or number"
        problems.append(Problem("github_runner_app_id", f"is {runner.app_id[:70]!r}", remedy))
    if runner.app_installation_id is not None and not INSTALLATION_ID.fullmatch(runner.app_installation_id):
        value = runner.app_installation_id[:30]
        remedy = "give the installation's number, or leave it out: it is found by itself"
        problems.append(Problem("github_runner_app_installation_id", f"is {value!r}", remedy))
    for name in runner.allow_public:
        if not PUBLIC_NAME.fullmatch(name):
            remedy = "name a repository as OWNER/NAME, or an organisation"
            problems.append(Problem("github_runner_allow_public", f"has {name[:70]!r}", remedy))
    for index, slot in enumerate(runner.slots):
        if slot.mode == "ephemeral":
            problems += _ephemeral_problems(spec, slot, f"github_runner_slots[{index}]")
    return problems


def _ephemeral_problems(spec: HostSpec, slot: Slot, where: str) -> list[Problem]:
    problems = []
    if slot.runner_name is not None:
        message = "is given for an ephemeral slot, which has no registration that could be adopted"
        problems.append(Problem(f"{where}.runner_name", message, "leave it out, or use mode persistent"))
    try:
        kind = spec.slot_scope(slot).kind
    except ConfigError:  # said by the rules of scopes
        return problems
    if kind == "repository" and not spec.github_runner.allow_repository_app:
        message = "is 'ephemeral' at a repository, where the App on the host needs administration: write"
        remedy = (
            "register at the organisation, or say github_runner_allow_repository_app: true if root on the "
            "host may administer the repository"
        )
        problems.append(Problem(f"{where}.mode", message, remedy))
    return problems


def allows_public(spec: HostSpec, name: str) -> bool:
    """Whether inventory says by name that persistent slots may serve this public repository or organisation.

    ``name`` is a scope's: ``owner/repository``, an organisation's or an enterprise's. Without case, as
    GitHub compares them.
    """
    return name.casefold() in {allowed.casefold() for allowed in spec.github_runner.allow_public}


def public_problem(spec: HostSpec, slot: Slot, *, group: str | None = None) -> ConfigError:
    """Why a persistent slot is refused where anybody may send it jobs; ``group``: the one that lets them."""
    name = spec.slot_scope(slot).name
    what = f"{name} is public" if group is None else f"runner group {group!r} of {name} allows public ones"
    return ConfigError(
        f"slot {slot.name} is persistent, and {what}: a stranger's pull request could leave something behind "
        "for the next job",
        where=spec.host,
        remedy=f"use mode: ephemeral, or name it: github_runner_allow_public: [{name}]",
    )
