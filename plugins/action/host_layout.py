"""``host_layout``: what a host's slots are laid out over, for ``runnerctl slots plan -i``."""

from __future__ import annotations

from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.answers import write_answer
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.layout import hardware_query, judge_layout
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain, spec_from_task

from runnerctl.core.spec import HostSpec


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.host_layout``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return spec, hardware and what the host has; write them to ``output_dir`` when one is given."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec = spec_from_task(self, variables)
        report = self.execute("preflight", {"hardware": hardware_query(spec)}, variables)
        problems = judge_layout(spec, report, driver_comes=False)[1]
        answer = {
            "host": spec.host,
            "spec": msgspec.to_builtins(spec),
            "before": _before(report.get("host_json")),
            "hardware": plain(report.get("hardware")),
            "problems": [msgspec.to_builtins(problem) for problem in problems],
        }
        directory = plain(self._templar.template(self._task.args.get("output_dir")))
        if directory:
            write_answer(directory, spec.host, answer)
        elif problems:
            raise AnsibleActionFail("\n".join(problem.line(spec.host) for problem in problems))
        return {"changed": False, **answer}


def _before(host_json: str | None) -> dict[str, Any] | None:
    """The spec the host has; None where there is none that this release can read."""
    try:
        known: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(host_json or "", type=HostSpec))
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    return known
