"""Controller half of ``container_toolkit``: plan from the spec and the host's distribution."""

from __future__ import annotations

from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.bundle import with_bundled_keys
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.keys import toolkit_keys
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.network import network_argument
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain, spec_from_task

from runnerctl.core.toolkit_plan import ToolkitFacts, toolkit_plan

display = Display()


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.container_toolkit``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the host what it is, plan, apply. A host that others look after is not even asked."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec = spec_from_task(self, variables)
        if not spec.container_toolkit.manage:
            return {"changed": False, "actions": [], "pending": []}
        reported = self.execute("container_toolkit", {}, variables, check=True)
        facts = msgspec.convert(plain(reported["host"]), ToolkitFacts)
        texts, wrong = toolkit_keys(self, spec.container_toolkit)
        plan, problems = toolkit_plan(spec, facts, key_texts=texts)
        problems += wrong
        if problems or plan is None:
            raise AnsibleActionFail("\n".join(problem.line(spec.host) for problem in problems))
        args = {
            "plan": with_bundled_keys(self, spec, msgspec.to_builtins(plan)),
            **network_argument(self, spec),
        }
        result = self.execute("container_toolkit", args, variables)
        for text in result["pending"]:
            display.warning(f"{spec.host}: {text}")
        return result
