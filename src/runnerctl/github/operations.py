"""What all operations on one scope share: the client, the scope, its paths, and lists as structs."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from runnerctl.core.scope import Scope
from runnerctl.errors import ConfigError, DataError
from runnerctl.github.client import GitHubClient

__all__ = ["Operations", "convert"]

T = TypeVar("T")


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


def convert(rows: Any, kind: type[T], *, where: str) -> T:
    """Decoded JSON as ``kind``. Raises DataError when it does not fit."""
    try:
        return msgspec.convert(rows, kind)
    except msgspec.ValidationError as error:
        raise DataError(
            f"the answer cannot be read: {error}", where=where, remedy="check that the API URL is GitHub's"
        ) from None
