"""Controller half of ``runner_release``: which release, from where, with which checksum."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import RELEASES
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.release import recall_release, release_fact
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.runner_release import (
    expected_release,
    install_release,
    kept_release,
)
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import RunnerctlError, spec_from_task

from runnerctl.core.spec import HostSpec
from runnerctl.reconcile import Fleet

display = Display()


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
            try:
                known, token = self._release(spec, variables)
            except RunnerctlError as error:
                raise AnsibleActionFail(f"{spec.host}: {error}") from None
        if known.pop("installed", False):  # the release it should have was rolled back here
            fact = release_fact({**known, "installed": True})
            return {
                "changed": False,
                "path": str(RELEASES / known["version"]),
                **known,
                "ansible_facts": fact,
            }
        result = install_release(self, spec, known, variables, token=token)
        result["ansible_facts"] = release_fact(known)
        return result

    def _release(self, spec: HostSpec, variables: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """The release from the bundle, or the one that GitHub expects. Raises RunnerctlError."""
        report = self.execute("preflight", {}, variables)
        release = expected_release(self, spec, Fleet(spec, os.environ), report["machine"])
        if kept := kept_release(spec, release.version, report):
            display.warning(kept[1])
            return {"version": kept[0], "installed": True}, None
        return {"version": release.version, "url": release.url, "sha256": release.sha256}, release.token
