"""What GitHub must be asked, and the controller must know, for slots of either mode.

It stands beside `runnerctl.reconcile`, which plans; nothing here touches a host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runnerctl.core.mode_rules import allows_public, has_ephemeral, public_problem
from runnerctl.core.spec import HostSpec, Slot
from runnerctl.errors import ConfigError, TryAgainError

if TYPE_CHECKING:
    from runnerctl.github.models import Runner
    from runnerctl.github.registry import Registry
    from runnerctl.reconcile import Fleet

__all__ = ["AppKey", "app_for", "known_as", "own_by_name", "refuse_public", "sweep", "with_app"]


class AppKey(msgspec.Struct, frozen=True):
    """The App that mints on hosts: ``path`` of its key on the controller, ``sha256`` of that file."""

    id: str
    path: Path
    sha256: str
    installation_id: str | None = None
    api_url: str | None = None

    def argument(self) -> dict[str, Any]:
        """What the module is told; the key itself goes as a file."""
        return {
            "id": self.id,
            "sha256": self.sha256,
            "installation_id": self.installation_id,
            "api_url": self.api_url,
        }


def app_for(spec: HostSpec, env: Mapping[str, str]) -> AppKey | None:
    """The App that inventory names, or else the controller's environment; None when no slot needs one.

    Raises ConfigError when a slot needs one and it is not named, or its key cannot be read or is none.
    """
    if not has_ephemeral(spec):
        return None
    runner = spec.github_runner
    app_id = runner.app_id or env.get("RUNNERCTL_APP_ID", "").strip()
    file = runner.app_key_file or env.get("RUNNERCTL_APP_KEY_FILE", "").strip()
    if not app_id or not file:
        variable = "app_id" if not app_id else "app_key_file"
        raise ConfigError(
            f"an ephemeral slot needs a GitHub App, and github_runner_{variable} is not set",
            where=spec.host,
            remedy=f"set it, or RUNNERCTL_{variable.upper()} on the controller",
        )
    from runnerctl.github.app import load_key
    from runnerctl.github.auth import read_secret_file

    text = read_secret_file(file, variable="github_runner_app_key_file")
    load_key(text, path=file)
    return AppKey(
        id=app_id,
        path=Path(file).expanduser(),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        installation_id=runner.app_installation_id or env.get("RUNNERCTL_APP_INSTALLATION_ID") or None,
        api_url=runner.api_url or env.get("RUNNERCTL_API_URL") or None,
    )


def with_app(env: Mapping[str, str], spec: HostSpec) -> dict[str, str]:
    """``env`` with the App that inventory names, for a controller that has no other credential."""
    runner = spec.github_runner
    named = {
        "RUNNERCTL_APP_ID": runner.app_id,
        "RUNNERCTL_APP_KEY_FILE": runner.app_key_file,
        "RUNNERCTL_APP_INSTALLATION_ID": runner.app_installation_id,
    }
    if not (runner.app_id and runner.app_key_file) or env.get("RUNNERCTL_APP_ID"):
        return dict(env)
    return {**env, **{name: value for name, value in named.items() if value}}


def refuse_public(fleet: Fleet, slot: Slot) -> None:
    """Refuse a persistent slot where strangers may send it jobs. Raises ConfigError.

    A repository is asked whether it is public; an organisation or an enterprise, whether the slot's group
    allows public repositories.
    """
    spec = fleet.spec
    scope = spec.slot_scope(slot)
    if slot.mode == "ephemeral" or allows_public(spec, scope.name):
        return
    reads = fleet.direct(scope.url)
    if scope.kind == "repository":
        if reads.is_public():
            raise public_problem(spec, slot)
        return
    name = spec.slot_group(slot)
    for group in reads.groups():
        chosen = group.name.casefold() == name.casefold() if name else group.default
        if chosen and group.allows_public_repositories:
            raise public_problem(spec, slot, group=group.name)


def known_as(registry: Registry, agent: int | str) -> Runner | None:
    """The runner of that id, or of that name: an ephemeral slot's id changes with each job."""
    return registry.runner_by_name(agent) if isinstance(agent, str) else registry.runner(agent)


def own_by_name(registry: Registry, runner_name: str) -> Runner | None:
    """The present record of an ephemeral slot; None between two, and when another runner has the name."""
    runner = registry.runner_by_name(runner_name)
    return runner if runner is not None and runner.ephemeral else None


def sweep(registry: Registry, runner_name: str) -> bool:
    """Delete the record that an ephemeral slot left under its name, when nothing of it runs any more.

    True when there was one. A runner that is registered for good, or online, is somebody else's.
    """
    runner = registry.runner_by_name(runner_name)
    if runner is None or not runner.ephemeral or runner.online or runner.busy:
        return False
    try:
        return registry.delete(runner.id)
    except TryAgainError:
        return False
