"""Controller half of ``registrations``: read a host, and note also that it could not be read."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.answers import write_answer
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.registrations``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the host; what keeps it from answering stands among ``problems``."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        answer: dict[str, Any] = {"found": [], "registering": [], "problems": []}
        try:
            told = self.execute("registrations", {}, variables)
            answer = {key: plain(told[key]) for key in answer}
        except AnsibleError as error:
            reason = " ".join(str(error).split())[:200]
            answer["problems"] = [f"cannot be read: {reason}"]
        host = str(variables["inventory_hostname"])
        names = [str(name) for name in plain(variables.get("groups", {}).get("all", []))]
        directory = plain(self._templar.template(self._task.args.get("output_dir")))
        write_answer(directory, host, {"host": host, "inventory": names, **answer})
        return {"changed": False, **answer}
