"""What all operations on one scope share: the client, the scope, its paths, and lists as structs."""

from __future__ import annotations

from runnerctl.core.scope import Scope
from runnerctl.errors import ConfigError
from runnerctl.github.client import GitHubClient

__all__ = ["Operations"]


class Operations:
    """Operations of ``scope`` through ``client``.

    Every method raises what the client raises: AccessError names the missing permission.
    """

    def __init__(self, client: GitHubClient, scope: Scope) -> None:
        self.client = client
        self.scope = scope
        self._runners = f"{scope.path}/actions/runners"
        self._groups = f"{scope.path}/actions/runner-groups"

    def _refuse_repository(self) -> None:
        if self.scope.kind == "repository":
            raise ConfigError(
                "a repository has no runner groups",
                where=self.scope.name,
                remedy="remove the slot's group, or ask for an organisation",
            )
