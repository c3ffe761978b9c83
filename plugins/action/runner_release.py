"""Controller half of ``runner_release``: which release, from where, with which checksum."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import RELEASES
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.release import recall_release, release_fact
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import Secret, TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import RunnerctlError, spec_from_task

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
                release = Fleet(spec, os.environ).release(machine)
            except RunnerctlError as error:
                raise AnsibleActionFail(f"{spec.host}: {error}") from None
            known = {"version": release.version, "url": release.url, "sha256": release.sha256}
            token = release.token
        result = self.execute("runner_release", {**known, "token": token and Secret(token)}, variables)
        result["ansible_facts"] = release_fact(known)
        return result
