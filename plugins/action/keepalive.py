"""Controller half of ``keepalive``: routing, the order of the steps, and a host that cannot be reached."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.answers import write_answer
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.host_port import AnsibleHost
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.layout import spec_of_host
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import (
    RunnerctlError,
    plain,
    spec_from_task,
)

from runnerctl.core.spec import HostSpec
from runnerctl.reconcile import Fleet
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.touch import Touch, Touched

ARGUMENTS = {"runners": {"type": "list", "elements": "str", "default": []}, "output_dir": {"type": "path"}}


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.keepalive``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Touch the host's slots; what goes wrong with the host is its answer."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        validate: Any = self.validate_argument_spec
        given = plain(validate(argument_spec=ARGUMENTS)[1])
        answer: dict[str, Any] = {"host": str(variables["inventory_hostname"]), "problem": None, "slots": []}
        try:
            spec = spec_of_host(self, spec_from_task(self, variables), variables)
            names = {spec.runner_name(slot).lower() for slot in spec.github_runner.slots}
            runners = [name for name in given["runners"] if name.lower() in names]
            if runners or not given["runners"]:
                done = self._touch(spec, variables, runners)
                answer["slots"] = msgspec.to_builtins(done)
        except RunnerctlError as error:
            answer["problem"] = str(error)
        write_answer(given["output_dir"], answer["host"], answer)
        changed = any(slot["outcome"] != "skipped" for slot in answer["slots"])
        return {"changed": changed, **answer}

    def _touch(self, spec: HostSpec, variables: dict[str, Any], runners: list[str]) -> tuple[Touched, ...]:
        host = _Host(self, spec, variables)
        lanes = Lanes(Fleet(spec, os.environ))
        touch = Touch(host, lanes, seconds=spec.github_runner.online_timeout_seconds)
        return touch.predict(runners) if self._task.check_mode else touch.run(runners)


class _Host(AnsibleHost):
    """A host whose slots can be started although they are on hold."""

    def start(self, slot: str) -> bool:
        """See `runnerctl.rollout.touch.TouchPort`."""
        return bool(self._execute("keepalive", {"slot": slot, "state": "started"})["started"])

    def stop(self, slot: str) -> str:
        """See `runnerctl.rollout.touch.TouchPort`."""
        return str(self._execute("keepalive", {"slot": slot, "state": "stopped"})["ended"])
