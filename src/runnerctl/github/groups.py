"""Runner groups of an organisation or an enterprise; a repository has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runnerctl.errors import ConfigError
from runnerctl.github.models import GroupMember, Runner, RunnerGroup
from runnerctl.github.operations import Operations

__all__ = ["GroupOperations", "named_group"]


class GroupOperations(Operations):
    """Groups, who may use them, and which runners are in them."""

    def groups(self) -> tuple[RunnerGroup, ...]:
        """The runner groups of an organisation or enterprise; a repository has none."""
        if self.scope.kind == "repository":
            return ()
        what = "list the runner groups"
        return self.client.listing(self._groups, RunnerGroup, key="runner_groups", what=what) or ()

    def group_id(self, name: str) -> int:
        """The id of a group by its name, compared without case.

        Raises ConfigError when there is none, with the names there are.
        """
        return named_group(self.groups(), name, where=self.scope.name).id

    def default_group_id(self) -> int | None:
        """The id of the group that runners are in unless told otherwise; None for a repository."""
        return next((group.id for group in self.groups() if group.default), None)

    def move_to_group(self, runner_id: int, group_id: int) -> None:
        """Put a runner into a group. Raises ConfigError for a repository, which has no groups."""
        self._refuse_repository()
        self.client.put(
            f"{self._groups}/{group_id}/runners/{runner_id}",
            what=f"move runner {runner_id} to group {group_id}",
        )

    def create_group(
        self,
        name: str,
        *,
        visibility: str = "selected",
        selected_repository_ids: Sequence[int] = (),
        allows_public_repositories: bool = False,
    ) -> RunnerGroup:
        """Make a runner group.

        ``visibility`` is ``all``, ``selected`` or, in an organisation, ``private``. The ids are those of
        repositories; in an enterprise, of organisations. Sent once only: after a lost answer
        (UnavailableError) the group may exist. Raises ConfigError for a repository, and for a name or setting
        that GitHub refuses.
        """
        self._refuse_repository()
        given: dict[str, Any] = {"name": name, "visibility": visibility}
        given["allows_public_repositories"] = allows_public_repositories
        if selected_repository_ids:
            kind = "repository" if self.scope.kind == "organization" else "organization"
            given[f"selected_{kind}_ids"] = list(selected_repository_ids)
        answer = self.client.post(
            self._groups, given, what=f"create the runner group {name}", accept=(409, 422)
        )
        if answer.status in (409, 422):
            raise ConfigError(
                f"GitHub does not create the runner group {name!r}: {answer.message}",
                where=self.scope.name,
                remedy="choose another name, or correct its settings",
            )
        created: RunnerGroup = answer.decode(RunnerGroup)
        return created

    def group_repositories(self, group_id: int) -> tuple[GroupMember, ...]:
        """Who may use a group of visibility ``selected``: repositories; in an enterprise, organisations."""
        self._refuse_repository()
        kind = "repositories" if self.scope.kind == "organization" else "organizations"
        path, what = f"{self._groups}/{group_id}/{kind}", f"read who may use runner group {group_id}"
        return self.client.listing(path, GroupMember, key=kind, what=what) or ()

    def group_runners(self, group_id: int) -> tuple[Runner, ...]:
        """The runners in a group."""
        self._refuse_repository()
        path, what = f"{self._groups}/{group_id}/runners", f"list the runners of group {group_id}"
        return self.client.listing(path, Runner, key="runners", what=what) or ()


def named_group(groups: Sequence[RunnerGroup], name: str, *, where: str) -> RunnerGroup:
    """The group of a name, compared without case. Raises ConfigError with the names there are."""
    found = next((group for group in groups if group.name.casefold() == name.casefold()), None)
    if found:
        return found
    has = f"it has {', '.join(sorted(group.name for group in groups))}" if groups else "it has none"
    remedy = "create the group, or correct the slot's group"
    raise ConfigError(f"there is no runner group {name!r}; {has}", where=where, remedy=remedy)
