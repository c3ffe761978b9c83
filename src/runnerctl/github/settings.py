"""Settings beside the runners that decide who can reach them, and the caller's own rate limit."""

from __future__ import annotations

import msgspec

from runnerctl.github.models import ForkApproval, RateLimit, Repository, SelfHostedSettings
from runnerctl.github.operations import Operations

__all__ = ["SettingOperations"]


class _Resources(msgspec.Struct):
    """The answer of ``GET /rate_limit``: limits by bucket."""

    resources: dict[str, RateLimit] = {}


class SettingOperations(Operations):
    """Read only. Sources: GitHub's REST reference, "Actions permissions" and "Rate limits"."""

    def self_hosted_settings(self) -> SelfHostedSettings | None:
        """Which repositories of an organisation may have runners of their own.

        None for other scopes, and for a server that does not know the question.
        """
        if self.scope.kind != "organization":
            return None
        answer = self.client.get(
            f"{self.scope.path}/actions/permissions/self-hosted-runners",
            what="read who may register runners",
            accept=(404,),
        )
        return None if answer.status == 404 else answer.decode(SelfHostedSettings)

    def fork_approval(self) -> ForkApproval | None:
        """Whose pull requests from forks wait for an approval before they run.

        None for an enterprise, and where a server does not know the question (or hides the answer).
        """
        if self.scope.kind == "enterprise":
            return None
        answer = self.client.get(
            f"{self.scope.path}/actions/permissions/fork-pr-contributor-approval",
            what="read whose pull requests need approval",
            accept=(404,),
        )
        return None if answer.status == 404 else answer.decode(ForkApproval)

    def repository(self) -> Repository | None:
        """The repository itself (is it public?); None for other scopes."""
        if self.scope.kind != "repository":
            return None
        found: Repository = self.client.get(self.scope.path, what="read the repository").decode(Repository)
        return found

    def rate_limit(self) -> dict[str, RateLimit]:
        """The caller's limits by bucket (``core``, ``actions_runner_registration`` ...); asking is free.

        Empty where a server has none.
        """
        answer = self.client.get("/rate_limit", what="read the rate limit", accept=(404,))
        if answer.status == 404:  # a server whose operator turned limits off
            return {}
        found: _Resources = answer.decode(_Resources)
        return found.resources
