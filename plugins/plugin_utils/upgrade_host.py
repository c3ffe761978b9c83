"""A host as an upgrade acts on it: `AnsibleHost` and the notes that the host keeps of its releases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.host_port import AnsibleHost
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.runner_release import install_release

from runnerctl.errors import DataError, UnavailableError
from runnerctl.rollout.ports import SlotNow
from runnerctl.rollout.upgrade_ports import HostNotes

__all__ = ["UpgradableHost"]


class UpgradableHost(AnsibleHost):
    """One host of the inventory; implements `runnerctl.rollout.upgrade_ports.UpgradeHost`.

    ``machine`` is its architecture, as ``uname -m`` prints it, known once `notes` was asked for.
    """

    machine = ""

    def observe(self) -> tuple[SlotNow, ...]:
        """The slots that inventory has, now; others are for a converge to remove."""
        ours = {slot.name for slot in self.spec.github_runner.slots}
        return tuple(slot for slot in super().observe() if slot.name in ours)

    def install(self, *, version: str, url: str, sha256: str, token: str | None = None) -> None:
        """Bring a verified copy of a release to the host, from the bundle or over the site's network."""
        known = {"version": version, "url": url, "sha256": sha256}
        try:
            result = install_release(self.action, self.spec, known, self.variables, token=token)
        except AnsibleConnectionFailure as error:
            raise UnavailableError(_first_line(error), where=self.host, remedy="see that SSH works") from None
        except AnsibleActionFail as error:
            raise UnavailableError(_first_line(error), where=self.host) from None
        self.actions += [f"release {version}"] if result.get("changed") else []

    def notes(self) -> HostNotes:
        """What the host remembers; it writes nothing and is right in check mode too."""
        report = self._execute("runner_upgrade", {}, check=True)
        self.machine = str(report.get("machine", ""))
        wanted = {name: report.get(name) for name in ("installed", "refused", "previous")}
        try:
            return msgspec.convert(wanted, HostNotes)
        except msgspec.ValidationError as error:
            raise DataError(
                f"what the host says of its releases cannot be understood: {error}",
                where=self.host,
                remedy="look at /var/lib/runnerctl/*-release.json on the host",
            ) from None

    def begin(self, slots: Mapping[str, str]) -> None:
        """Note the release that each slot goes back to; a note that is there already stays."""
        if slots:
            self._note(begin=dict(slots))

    def finish(self, slots: Sequence[str]) -> None:
        """Forget those notes: the slots are proven."""
        if slots:
            self._note(finish=list(slots))

    def refuse(self, version: str, reason: str) -> None:
        """Remember that a release does not work here."""
        self._note(refuse=version, reason=reason)

    def allow(self, version: str) -> None:
        """Forget that."""
        self._note(allow=version)

    def _note(self, **args: Any) -> None:
        self._execute("runner_upgrade", args)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no answer")
