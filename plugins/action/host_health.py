"""Controller half of ``host_health``: whatever becomes of a host, its answer is written down."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.answers import write_answer
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain

LONGEST_REASON = 300  # characters


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.host_health``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``health``, ``reason`` and ``remedy``; write them to ``output_dir`` when one is given."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        host = str(variables["inventory_hostname"])
        args = {name: plain(self._templar.template(value)) for name, value in self._task.args.items()}
        directory = args.pop("output_dir", None)
        answer = {"host": host, **self._ask(args, variables)}
        write_answer(directory, host, answer)
        return {"changed": False, **answer}

    def _ask(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        try:
            result = self.execute("host_health", args, variables)
        except AnsibleConnectionFailure as error:
            return _silent(f"cannot be reached: {_line(error)}", "see why it does not answer to SSH")
        except AnsibleActionFail as error:
            return _silent(f"cannot be asked: {_line(error)}", "see that its Python and its sudo work")
        except AnsibleError as error:
            return _silent(f"cannot be asked: {_line(error)}", "see that Ansible can reach it")
        return {name: result.get(name) for name in ("health", "reason", "remedy")}


def _silent(reason: str, remedy: str) -> dict[str, Any]:
    return {"health": None, "reason": reason, "remedy": remedy}


def _line(error: AnsibleError) -> str:
    """One line; of what SSH says the last, which tells, and not its banner."""
    text = " ".join(str(error.message).replace("\r", "\n").split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."
