"""A host as `runnerctl.rollout` acts on it: each method is one short module call through Ansible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import Secret, TargetAction

from runnerctl.core.spec import HostSpec
from runnerctl.errors import TryAgainError, UnavailableError
from runnerctl.reconcile import desired_slot
from runnerctl.rollout.ports import Cause, SlotNow, slots_now

__all__ = ["AnsibleHost"]


class AnsibleHost:
    """One host of the inventory; implements `runnerctl.rollout.ports.HostPort`.

    Whatever Ansible cannot do is raised as UnavailableError. ``actions`` collects what the host said it did.
    """

    def __init__(self, action: TargetAction, spec: HostSpec, variables: dict[str, Any]) -> None:
        self.action = action
        self.spec = spec
        self.variables = variables
        self.actions: list[str] = []

    @property
    def host(self) -> str:
        """The name in the inventory."""
        return self.spec.host

    def observe(self) -> tuple[SlotNow, ...]:
        """Every slot of the host, now. It writes nothing and is right in check mode too."""
        return slots_now(self._execute("runner_drain", {}, check=True)["slots"], where=self.host)

    def hold(self, slots: Sequence[str], cause: Cause) -> None:
        """Add the cause. An idle listener stops at once, a busy one when its job has ended."""
        if slots:
            self._execute("runner_drain", {"hold": list(slots), "by": cause.by, "reason": cause.reason})

    def release(self, slots: Sequence[str], *, by: str) -> None:
        """Take away the causes that ``by`` gave, and start what nothing else holds."""
        if slots:
            self._execute("runner_drain", {"release": list(slots), "by": by})

    def install(self, *, version: str, url: str, sha256: str, token: str | None = None) -> None:
        """Bring a verified copy of a runner release to the host, beside those that are there."""
        args = {"version": version, "url": url, "sha256": sha256, "token": token and Secret(token)}
        self._execute("runner_release", args)

    def switch(self, slots: Sequence[str], version: str) -> None:
        """Let slots that do not run start with another installed release.

        Raises TryAgainError when one of them runs: its release would change under its job.
        """
        if running := sorted(now.name for now in self.observe() if now.active and now.name in slots):
            remedy = "hold it and wait until it has stopped"
            raise TryAgainError("still runs", where=f"{self.host}: slot {', '.join(running)}", remedy=remedy)
        wanted = [
            desired_slot(self.spec, slot, version)
            for slot in self.spec.github_runner.slots
            if slot.name in slots
        ]
        if wanted:
            self._execute("github_runner", {"slots": wanted})

    def _execute(self, module: str, args: dict[str, Any], *, check: bool | None = None) -> dict[str, Any]:
        try:
            result = self.action.execute(module, args, self.variables, check=check)
        except AnsibleConnectionFailure as error:
            raise UnavailableError(_first_line(error), where=self.host, remedy="see that SSH works") from None
        except AnsibleActionFail as error:
            raise UnavailableError(_first_line(error), where=self.host) from None
        self.actions += result.get("actions") or []
        return result


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no answer")
