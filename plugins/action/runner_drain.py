"""Controller half of ``runner_drain``: GitHub, the order of the steps, and the waiting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.answers import write_answer
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.host_port import AnsibleHost
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.layout import spec_of_host
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spared import Standing, fleet_specs
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import (
    RunnerctlError,
    plain,
    spec_from_task,
)

from runnerctl.core.spec import HostSpec
from runnerctl.errors import AccessError, TryAgainError
from runnerctl.reconcile import Fleet
from runnerctl.rollout.drain import Drain, Drained
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.resume import Resume, Resumed
from runnerctl.rollout.verdict import refuse

display = Display()

ARGUMENTS = {
    "state": {"type": "str", "choices": ["drained", "resumed", "judged"], "default": "drained"},
    "slots": {"type": "list", "elements": "str", "default": []},
    "reason": {"type": "str"},
    "quiet_seconds": {"type": "float"},
    "wait": {"type": "bool", "default": True},
    "timeout_seconds": {"type": "float"},
    "routing": {"type": "bool", "default": True},
    "force": {"type": "bool", "default": False},
    "output_dir": {"type": "path"},
}
JUDGED = "+judged"  # no name of a host begins with it


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.runner_drain``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Judge, drain or resume; errors are one line each."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        validate: Any = self.validate_argument_spec
        given = plain(validate(argument_spec=ARGUMENTS)[1])
        given["slots"] = [name for name in given["slots"] if name]
        answer: dict[str, Any] = {"host": plain(variables["inventory_hostname"])}
        answer["hosts"] = plain(variables.get("ansible_play_hosts_all", []))
        try:
            if given["state"] == "judged":
                return self._judge(given, variables, answer)
            spec = spec_of_host(self, spec_from_task(self, variables), variables)
            return self._work(given, spec, variables, answer)
        except RunnerctlError as found:
            error = _with_way_out(found)
            answer |= {"error": str(error), "exit_code": error.exit_code}
            ours = given["state"] == "judged" or error.where.startswith(answer["host"])
            where = "" if ours else f"{answer['host']}: "
            raise AnsibleActionFail(f"{where}{error}", result=answer) from None
        except AnsibleActionFail as error:
            answer |= {"error": " ".join(str(error).split()), "exit_code": 78}
            raise
        finally:
            name = JUDGED if given["state"] == "judged" else answer["host"]
            write_answer(given["output_dir"], name, answer)

    # -- the fleet ---------------------------------------------------------------------------------------

    def _judge(
        self, given: dict[str, Any], variables: dict[str, Any], answer: dict[str, Any]
    ) -> dict[str, Any]:
        """Of all hosts of this run: those that are drained already count as what they are."""
        standing = Standing(fleet_specs(variables, note=display.warning))
        if given["routing"]:
            standing.ask(os.environ, hosts=answer["hosts"], note=display.warning)
        judgement = standing.judge(answer["hosts"], slots=given["slots"])
        answer["judgement"] = msgspec.to_builtins(judgement)
        if not judgement.allowed and not given["force"]:
            remedy = "bring others back first, take fewer, or force it (drain_force, --force)"
            raise TryAgainError(judgement.line(), where="circuit breaker", remedy=remedy)
        if not judgement.allowed:
            display.warning(f"forced: {judgement.line()}")
        return {"changed": False, **answer}

    # -- one host ----------------------------------------------------------------------------------------

    def _work(
        self, given: dict[str, Any], spec: HostSpec, variables: dict[str, Any], answer: dict[str, Any]
    ) -> dict[str, Any]:
        host = AnsibleHost(self, spec, variables)
        slots = given["slots"]
        if slots:
            there = {now.name for now in host.observe()}
            slots = [name for name in slots if name in there]
            if not slots:
                answer |= {"slots": [], "actions": [], "skipped": True}
                return {"changed": False, **answer, "msg": "the host has no such slot"}
        engine = self._engine(given, host, spec)
        states = self._states(engine, given, spec, slots)
        answer |= {"slots": msgspec.to_builtins(states), "actions": engine.actions}
        if not self._task.check_mode:
            seconds = _timeout(given, spec) if given["wait"] else None
            refuse(spec.host, states, seconds=seconds, routing=given["routing"])
        return {"changed": bool(engine.actions), **answer}

    def _engine(self, given: dict[str, Any], host: AnsibleHost, spec: HostSpec) -> Drain | Resume:
        def tell(text: str) -> None:
            display.display(f"runnerctl: {spec.host}: {text}")

        lanes = Lanes(Fleet(spec, os.environ), note=tell) if given["routing"] else None
        if given["state"] == "resumed":
            return Resume(host, lanes, tell=tell)
        quiet = given["quiet_seconds"]
        quiet = spec.github_runner.drain_quiet_seconds if quiet is None else quiet
        return Drain(host, lanes, quiet, reason=given["reason"], tell=tell)

    def _states(
        self, engine: Drain | Resume, given: dict[str, Any], spec: HostSpec, slots: Sequence[str]
    ) -> tuple[Drained | Resumed, ...]:
        if self._task.check_mode:
            return engine.predict(slots)
        if isinstance(engine, Resume):
            return engine.run(slots, seconds=spec.github_runner.online_timeout_seconds)
        return engine.run(slots, wait=given["wait"], seconds=_timeout(given, spec))


def _with_way_out(error: RunnerctlError) -> RunnerctlError:
    """Without a credential slots can still be held."""
    if not isinstance(error, AccessError):
        return error
    remedy = "or touch the hosts' holds alone, with --no-routing or drain_routing=false"
    return AccessError(error.what, where=error.where, remedy=", ".join(filter(None, [error.remedy, remedy])))


def _timeout(given: dict[str, Any], spec: HostSpec) -> float:
    seconds = given["timeout_seconds"]
    return float(spec.github_runner.drain_timeout_seconds if seconds is None else seconds)
