"""Controller half of ``miniforge``: the site's way to the network, or the installer from the bundle."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.bundle import bundle_of
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.network import network_argument
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import RunnerctlError, part_of_spec

from runnerctl.core.spec import HostSpec


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.miniforge``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module; with a bundle ask the host first whether it needs the installer at all."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec = part_of_spec(self, variables, "runnerctl")
        args = {**self._task.args, **network_argument(self, spec)}
        if spec.runnerctl.bundle is None or self._task.check_mode:
            return self.execute("miniforge", args, variables)
        expected = self.execute("miniforge", args, variables, check=True)
        if not expected["changed"]:
            return expected
        if expected["installs"]:
            args |= self._bring(spec, str(args["version"]), str(expected["machine"]))
        return self.execute("miniforge", args, variables)

    def _bring(self, spec: HostSpec, version: str, machine: str) -> dict[str, str]:
        """Copy the installer to the host, which compares the checksum of the manifest again."""
        try:
            bundle = bundle_of(self, spec)
            file = bundle.miniforge(machine, version) if bundle else None
        except RunnerctlError as error:
            raise AnsibleActionFail(f"{spec.host}: {error}") from None
        if bundle is None or file is None:
            return {}
        return {"installer": self.put_file(bundle.path(file)), "sha256": file.sha256}
