"""Controller half of ``host_packages``: the site's way to the network."""

from __future__ import annotations

from typing import Any

from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.network import network_argument
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import part_of_spec


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.host_packages``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module, through the site's proxies."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        network = network_argument(self, part_of_spec(self, variables, "runnerctl"))
        return self.execute("host_packages", {**self._task.args, **network}, variables)
