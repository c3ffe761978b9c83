"""Controller half of ``runner_release``: which release, from where, with which checksum."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import RELEASES
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.bundle import bundle_of, bundled_release
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.network import network_argument
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.release import recall_release, release_fact
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import Secret, TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import RunnerctlError, spec_from_task

from runnerctl.core.spec import HostSpec
from runnerctl.reconcile import Fleet


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.runner_release``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Resolve the release (or take what preflight resolved) and install it on the host."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec = spec_from_task(self, variables)
        if not spec.github_runner.slots:
            return {"changed": False, "skipped": True, "msg": "the host has no slots"}
        known = recall_release(variables) or {"needs_token": True}
        if known.pop("installed", False):  # preflight saw it in this very play
            version = str(known["version"])
            return {"changed": False, "path": str(RELEASES / version), "version": version}
        token = None
        if known.pop("needs_token", False):
            machine = self.execute("preflight", {}, variables)["machine"]
            try:
                known, token = self._release(spec, machine)
            except RunnerctlError as error:
                raise AnsibleActionFail(f"{spec.host}: {error}") from None
        args = {**known, "token": token and Secret(token), **network_argument(self, spec)}
        if spec.runnerctl.bundle and not self._task.check_mode:
            args["url"] = self._bring(spec, known, variables)
        result = self.execute("runner_release", args, variables)
        result["ansible_facts"] = release_fact(known)
        return result

    def _release(self, spec: HostSpec, machine: str) -> tuple[dict[str, Any], str | None]:
        """The release from the bundle, or the one that GitHub expects. Raises RunnerctlError."""
        if bundle := bundle_of(self, spec):
            return bundled_release(bundle, spec, machine), None
        release = Fleet(spec, os.environ).release(machine)
        return {"version": release.version, "url": release.url, "sha256": release.sha256}, release.token

    def _bring(self, spec: HostSpec, known: dict[str, Any], variables: dict[str, Any]) -> str:
        """Copy the bundle's archive to a host that lacks the release; the module compares it again."""
        if not self.execute("runner_release", known, variables, check=True)["changed"]:
            return ""
        try:
            bundle = bundle_of(self, spec)
        except RunnerctlError as error:
            raise AnsibleActionFail(f"{spec.host}: {error}") from None
        archive = bundle.with_sha256(str(known["sha256"])) if bundle else None
        if archive is None:  # the bundle was replaced while the play ran
            raise AnsibleActionFail(f"{spec.host}: runnerctl_bundle: was changed meanwhile; run again")
        return self.put_file(archive)
