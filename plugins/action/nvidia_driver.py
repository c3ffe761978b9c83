"""Controller half of ``nvidia_driver``: decides, has it done, reboots where it must, wants a proof."""

from __future__ import annotations

from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.bundle import with_bundled_keys
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.driver import (
    driver_facts,
    driver_query,
    recall_driver,
)
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.keys import driver_key
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.network import network_argument
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import forget_layout, spec_from_task

from runnerctl.core.driver_plan import driver_plan
from runnerctl.core.driver_structs import DriverPlan
from runnerctl.core.spec import HostSpec

MODULE = "nvidia_driver"
REBOOT_SECONDS = 1800  # a server with eight GPUs takes ten minutes to check its memory
SHOWN = ("action", "reason", "source", "branch", "version", "flavour", "generations")

display = Display()


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.nvidia_driver``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Plan, install, reboot, prove. A host without GPUs and expectations is not even asked."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec = spec_from_task(self, variables)
        plan = self._plan(spec, variables)
        result: dict[str, Any] = {"changed": False, "actions": [], "reboot_required": False}
        result["plan"] = {name: getattr(plan, name) for name in SHOWN}
        if plan.action == "none":
            return {**result, "msg": plan.reason}
        if plan.action == "install":
            wanted = with_bundled_keys(self, spec, msgspec.to_builtins(plan))
            args = {"plan": wanted, **network_argument(self, spec)}
            result.update(self.execute(MODULE, args, variables))
            if result["changed"]:
                result["ansible_facts"] = forget_layout()
            for note in result.get("notes", ()):
                display.warning(f"{spec.host}: {note}")
            reboots = result["reboot_required"] and plan.reboot == "auto"
            if self._task.check_mode and (result["changed"] or reboots):
                more = ", and would reboot" if reboots else ""
                return {**result, "changed": True, "msg": f"would make it so: {plan.reason}{more}"}
            if reboots:
                self._reboot(spec, result, variables)
        return self._prove(spec, plan, result, variables)

    def _plan(self, spec: HostSpec, variables: dict[str, Any]) -> DriverPlan:
        driver = spec.nvidia_driver
        facts = recall_driver(variables)
        if facts is None:
            facts = driver_facts(self.execute("preflight", {"driver": driver_query(driver)}, variables))
        key_text, problems = driver_key(self, driver)
        plan = driver_plan(driver, facts, key_text=key_text)
        problems = [*problems, *(plan if isinstance(plan, list) else [])]
        if problems or isinstance(plan, list):
            raise AnsibleActionFail("\n".join(problem.line(spec.host) for problem in problems))
        return plan

    def _prove(
        self, spec: HostSpec, plan: DriverPlan, result: dict[str, Any], variables: dict[str, Any]
    ) -> dict[str, Any]:
        """The driver answers and shows the GPUs expected; else the play ends here, before a runner exists."""
        proof = self.execute(MODULE, {"plan": msgspec.to_builtins(plan), "phase": "prove"}, variables)
        shown = {name: proof.get(name) for name in ("loaded", "driver_version", "gpu_count")}
        result = {**result, **shown}
        wrong, remedy = str(proof.get("problem") or ""), str(proof.get("remedy") or "")
        if result["reboot_required"]:
            reasons = (
                ", ".join(map(str, result.get("reboot_reasons", ()))) or "the installed driver is not loaded"
            )
            wrong, remedy = wrong or reasons, "reboot the host, or set nvidia_driver_reboot: auto"
        if not wrong:
            return {
                **result,
                "msg": f"driver {proof.get('driver_version')} answers for {proof.get('gpu_count')} GPUs",
            }
        message = f"{spec.host}: nvidia_driver: {wrong}; {remedy or 'see `runnerctl health` on the host'}"
        if plan.require_loaded:
            later = "nvidia_driver_require_loaded: false lets the play go on"
            raise AnsibleActionFail(f"{message} ({later})", result=result)
        display.warning(message)
        return {**result, "msg": message}

    def _reboot(self, spec: HostSpec, result: dict[str, Any], variables: dict[str, Any]) -> None:
        """Wait until the slots have run dry, and reboot as ``ansible.builtin.reboot`` does."""
        seconds = spec.github_runner.drain_timeout_seconds
        dry = self.execute(MODULE, {"phase": "prepare_reboot", "drain_seconds": seconds}, variables)
        if not dry.get("ready"):
            busy = ", ".join(map(str, dry.get("busy", ())))
            raise AnsibleActionFail(
                f"{spec.host}: nvidia_driver: the driver needs a reboot, and slots {busy} still run a job "
                f"after {seconds} s; run the play again when they have ended",
                result=result,
            )
        reboot = self._builtin_reboot()
        done: dict[str, Any] = reboot.run(task_vars=variables)
        if done.get("failed") or done.get("unreachable"):
            reason = str(done.get("msg") or "no answer").splitlines()[0]
            raise AnsibleActionFail(
                f"{spec.host}: nvidia_driver: the host could not be rebooted: {reason}; "
                "reboot it by hand and run the play again",
                result=result,
            )
        result["actions"] = [*result["actions"], *dry.get("actions", ()), "rebooted"]
        result.update(changed=True, reboot_required=False, ansible_facts=forget_layout())

    def _builtin_reboot(self) -> Any:
        task = self._task.copy()
        task.action = "ansible.builtin.reboot"
        task.args = {"reboot_timeout": REBOOT_SECONDS, "msg": "Reboot for the NVIDIA driver"}
        return self._shared_loader_obj.action_loader.get(
            "ansible.builtin.reboot",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
