"""``host_spec``: the spec of a host, validated on the controller; no host and no GitHub is contacted."""

from __future__ import annotations

from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.answers import write_answer
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain, read_spec


class ActionModule(ActionBase):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.host_spec``."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``spec`` and ``problems``; write them to ``output_dir`` when one is given."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        host = str(variables["inventory_hostname"])
        spec, problems = read_spec(self, variables)
        answer = {
            "host": host,
            "spec": msgspec.to_builtins(spec) if spec is not None else None,
            "problems": [msgspec.to_builtins(problem) for problem in problems],
        }
        directory = plain(self._templar.template(self._task.args.get("output_dir")))
        if directory:
            write_answer(directory, host, answer)
        elif problems:
            raise AnsibleActionFail("\n".join(problem.line(host) for problem in problems))
        return {"changed": False, **answer}
