"""Controller half of ``github_runner``: ask GitHub, read the host, plan, write, wait until online."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.layout import laid_out
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.release import recall_release, shared_play
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import Secret, TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import (
    RunnerctlError,
    plain,
    spec_from_task,
)

from runnerctl.core.plan import LocalSlot, SlotPlan
from runnerctl.core.slot_layout import wishes
from runnerctl.core.slot_layout_foreseen import seen_at_github
from runnerctl.core.spec import HostSpec
from runnerctl.errors import AccessError, DataError, TryAgainError
from runnerctl.modes import app_for, sweep, with_app
from runnerctl.reconcile import Fleet, desired_slot
from runnerctl.redact import redact

display = Display()


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.github_runner``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Converge or remove the host's slots; errors are one line each."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec, absent = spec_from_task(self, variables), self._task.args.get("state", "present") == "absent"
        spec, facts = (spec, {}) if absent else laid_out(self, spec, variables)
        try:
            everyone = plain(variables.get("groups", {}).get("all", []))
            fleet = Fleet(spec, with_app(os.environ, spec), others=everyone, play=shared_play(variables))
            result = self._absent(fleet, variables) if absent else _Present(self, fleet, variables).run()
        except RunnerctlError as error:
            raise AnsibleActionFail(redact(f"{spec.host}: {error}")) from None
        result["api_calls"] = fleet.calls()
        return {**result, "ansible_facts": facts}

    # -- state: absent -----------------------------------------------------------------------------------

    def _absent(self, fleet: Fleet, variables: dict[str, Any]) -> dict[str, Any]:
        if self._host_is_dead(fleet.spec.host):
            return self._dead(fleet)
        observed = self.execute("github_runner", {"slots": []}, variables, check=True)
        absent = [_local(report) for report in observed["absent"]]
        if not absent:
            return {**observed, "changed": False}
        if self._task.check_mode:
            actions = [f"removal of slot {slot.name}" for slot in absent]
            return {**observed, "changed": True, "actions": actions}
        seconds = fleet.spec.github_runner.drain_timeout_seconds
        absent = self.retired(absent, variables)
        busy = fleet.drain(absent, seconds=seconds)
        names = [slot.name for slot in absent if slot.name not in busy]
        result = observed
        if names:
            result = self.execute("github_runner", {"slots": [], "remove": names}, variables)
        sweep_all(fleet, [slot for slot in absent if slot.name in names])
        if busy:
            raise AnsibleActionFail(
                f"{fleet.spec.host}: slot {', '.join(busy)} still runs a job after {seconds} s and stays; "
                "run this again later, or give it more time with github_runner_drain_timeout_seconds",
                result=result,
            )
        return result

    def retired(self, slots: list[LocalSlot], variables: dict[str, Any]) -> list[LocalSlot]:
        """The slots as they are once the ephemeral ones get no further registration.

        Else a listener would follow the one whose record is deleted.
        """
        names = [slot.name for slot in slots if slot.mode == "ephemeral"]
        if not names:
            return slots
        result = self.execute("github_runner", {"slots": [], "retire": names}, variables, check=False)
        now = {report["name"]: _local(report) for report in result["absent"]}
        return [now.get(slot.name, slot) for slot in slots]

    def _host_is_dead(self, host: str) -> bool:
        """The option; ``-e`` on a command line gives it as text."""
        value = plain(self._task.args.get("host_is_dead", False))
        try:
            return bool(boolean(value))
        except TypeError:
            raise AnsibleActionFail(
                f"{host}: deprovision_host_is_dead: is {value!r}; give true or false"
            ) from None

    def _dead(self, fleet: Fleet) -> dict[str, Any]:
        """Which slots its hardware had made, only GitHub still knows."""
        if wishes(fleet.spec):
            scopes = [fleet.registry(scope.url) for scope in fleet.scopes()]
            names = [runner.name for registry in scopes for runner in registry.runners()]
            fleet.spec = seen_at_github(fleet.spec, names)
        removed = fleet.remove_dead(check=bool(self._task.check_mode))
        return {"changed": bool(removed), "actions": [f"record {name} removed" for name in removed]}


class _Present:
    """One converge of one host's slots."""

    def __init__(self, action: ActionModule, fleet: Fleet, variables: dict[str, Any]) -> None:
        self.action = action
        self.fleet = fleet
        self.variables = variables
        self.spec: HostSpec = fleet.spec
        self.check = bool(action._task.check_mode)
        version = recall_release(variables).get("version", "")
        if self.spec.github_runner.slots and not version:
            raise AnsibleActionFail(
                f"{self.spec.host}: it is not known which runner release the slots are to run; "
                "let a task with module runner_release come first, as role github_runner does"
            )
        self.slots = [desired_slot(self.spec, slot, version) for slot in self.spec.github_runner.slots]
        self.app = app_for(self.spec, os.environ)

    def run(self) -> dict[str, Any]:
        """Read, plan, act."""
        observed = self._execute({}, check=True)
        _warn_of_upgrades(self.spec.host, observed["slots"])
        plans = self.fleet.plans({report["name"]: _local(report) for report in observed["slots"]})
        if errors := [plan.error for plan in plans if plan.error]:
            raise AnsibleActionFail(f"{self.spec.host}: {'; '.join(errors)}")
        absent = [_local(report) for report in observed["absent"]]
        result = observed
        register = [plan for plan in plans if plan.registration is not None]
        leaving = [plan.name for plan in plans if plan.leaves is not None]
        if self.check and (register or leaving):  # predicted without minting a token
            enrolments = [{"name": plan.name, "token": ""} for plan in register]
            result = self._execute({"enrolments": enrolments, "switch": leaving}, check=True)
        elif not self.check and (observed["actions"] or register or absent or leaving):
            result = self._act(plans, absent, observed)
        self._repair(plans, result)
        _explain(result, plans, absent, check=self.check)
        if not self.check:
            self._wait(plans, result)
        return result

    def _execute(self, args: dict[str, Any], *, check: bool) -> dict[str, Any]:
        app = {"app": self.app.argument()} if self.app else {}
        return self.action.execute(
            "github_runner", {"slots": self.slots, **app, **args}, self.variables, check=check
        )

    def _act(
        self, plans: list[SlotPlan], absent: list[LocalSlot], observed: dict[str, Any]
    ) -> dict[str, Any]:
        """What differs on the host, registrations included; then slots that inventory no longer has."""
        enrolments = []
        register = [plan for plan in plans if plan.registration is not None]
        key = {"app": {**self.app.argument(), "source": self._hand_over(observed)}} if self.app else {}
        for plan in register:  # every token first: a refusal must not come after the first deletion
            enrolment = self.fleet.enrolment(plan)
            enrolments.append({"name": plan.name, **enrolment, "token": Secret(enrolment["token"])})
        for plan in register:
            self.fleet.delete_before(plan)
        before, stay = self._change_modes(plans, key)
        enrolments = [each for each in enrolments if each["name"] not in stay]
        remove = []
        absent = self.action.retired(absent, self.variables)
        for slot in absent:
            try:
                self.fleet.remove_record(slot)
                remove.append(slot.name)
            except TryAgainError:
                display.warning(
                    f"{self.spec.host}: slot {slot.name} runs a job: it is removed by a later run"
                )
        again = {} if before else key
        result = self._execute({**again, "enrolments": enrolments, "remove": remove}, check=False)
        sweep_all(self.fleet, [slot for slot in absent if slot.name in remove])
        if before:
            result["actions"] = before["actions"] + result["actions"]
            result["diff"] = before["diff"] + result["diff"]
            result["changed"] = True
        return result

    def _hand_over(self, observed: dict[str, Any]) -> str | None:
        """Put the App's key on the host, where it is not there yet; the module takes it away at once."""
        if self.app is None or not observed.get("needs_key"):
            return None
        return self.action.put_file(self.app.path)

    def _change_modes(
        self, plans: list[SlotPlan], key: dict[str, Any]
    ) -> tuple[dict[str, Any] | None, set[str]]:
        """Let slots leave their mode: the record first, which proves that no job runs.

        Returns what was done on the host, and the slots that have to wait for a job after all.
        """
        leaving = {plan.name: plan for plan in plans if plan.leaves is not None}
        if not leaving:
            return None, set()
        slots = [
            LocalSlot(plan.name, mode=plan.leaves.mode, agent_id=plan.leaves.id, url=plan.leaves.url)
            for plan in leaving.values()
            if plan.leaves is not None
        ]
        slots = self.action.retired(slots, self.variables)
        busy = set(self.fleet.drain(slots, seconds=0.0))
        for name in sorted(busy):
            display.warning(f"{self.spec.host}: slot {name} runs a job: its mode is changed by a later run")
        result = self._execute({**key, "switch": sorted(leaving.keys() - busy)}, check=False)
        were = [slot for slot in slots if slot.mode == "ephemeral" and slot.name not in busy]
        for slot in were:
            sweep(self.fleet.registry(slot.url or ""), leaving[slot.name].runner_name)
        return result, busy

    def _repair(self, plans: list[SlotPlan], result: dict[str, Any]) -> None:
        waiting = {text.partition(":")[0] for text in result.get("waiting", ())}
        for plan in plans:
            if plan.name in waiting:  # a stock runner: it gets the slot's labels when it is the slot's
                continue
            if plan.labels is not None or plan.move_to_group is not None:
                if not self.check and not self._write(plan):
                    continue
                result["actions"] += [f"{plan.runner_name} on GitHub: {reason}" for reason in plan.reasons]
        result["changed"] = bool(result["actions"])

    def _write(self, plan: SlotPlan) -> bool:
        """Repair a record; False when it is gone: its job has ended, and the next one is as it should be."""
        try:
            self.fleet.write(plan)
        except AccessError:
            registry = self.fleet.registry(self.fleet.url_of(plan.name))
            if not plan.ephemeral or plan.record is None or registry.runner(plan.record) is not None:
                raise
            return False
        return True

    def _wait(self, plans: list[SlotPlan], result: dict[str, Any]) -> None:
        """Started means online on GitHub: wait for what was started, and for what should run."""
        names = {plan.name: plan.runner_name for plan in plans if plan.ephemeral}
        agents: dict[str, int | str] = {
            report["name"]: names.get(report["name"], report["agent_id"])
            for report in result["slots"]
            if report["hold"] is None and (report["agent_id"] is not None or report["mode"] == "ephemeral")
        }
        started = {
            name
            for name in agents
            if any(action.endswith(f"@{name}.service") for action in result["actions"])
        }
        waiting = started | {plan.name for plan in plans if not plan.online and plan.name in agents}
        if not waiting:
            return
        seconds = self.spec.github_runner.online_timeout_seconds
        states = self.fleet.wait_online({name: agents[name] for name in waiting}, seconds=seconds)
        if offline := sorted(name for name, state in states.items() if state != "online"):
            raise AnsibleActionFail(
                f"{self.spec.host}: slot {', '.join(offline)} is registered, not online after {seconds} s; "
                f"see `runnerctl logs {offline[0]}` and `runnerctl health` on the host",
                result=result,
            )


def sweep_all(fleet: Fleet, slots: list[LocalSlot]) -> None:
    """Leave no record of ephemeral slots that are gone from their host, nor touch one of another host's.

    A copied disk names the host that it was copied from.
    """
    for slot in slots:
        name = slot.agent_name
        if slot.mode == "ephemeral" and slot.url and name and not fleet.belongs_to_another(name):
            sweep(fleet.registry(slot.url), name)


def _warn_of_upgrades(host: str, reports: list[dict[str, Any]]) -> None:
    """A hold of an upgrade is for the next upgrade to end: it knows what the slot goes back to."""
    for report in reports:
        if "upgrade" in report.get("hold_by", ()):
            display.warning(
                f"{host}: slot {report['name']} stays stopped: {report['hold']}; "
                "that upgrade did not end: run playbook upgrade (or `runnerctl upgrade`) again"
            )


def _local(report: dict[str, Any]) -> LocalSlot:
    """What a host reports; a host that is not itself any more may report anything."""
    try:
        return msgspec.convert(report, LocalSlot)
    except msgspec.ValidationError as error:
        raise DataError(
            f"the report of slot {report.get('name')!r} cannot be understood: {error}",
            remedy="look at .runner in the slot's directory on the host",
        ) from None


def _explain(result: dict[str, Any], plans: list[SlotPlan], absent: list[LocalSlot], *, check: bool) -> None:
    """Say why: in the result, and on GitHub's side in the diff."""
    for text in result.get("waiting", ()):
        display.warning(text)
    for plan in plans:
        if plan.waits_for:
            text = redact(f"{plan.runner_name}: {', '.join(plan.reasons)}: waits until its job has ended")
            display.warning(text)
            result.setdefault("waiting", []).append(text)
        if plan.changes:
            header = f"GitHub: {plan.runner_name}"
            after = "".join(f"{reason}\n" for reason in plan.reasons)
            result["diff"].append(
                {"before_header": header, "after_header": header, "before": "", "after": after}
            )
    if check:
        result["actions"] += [f"removal of slot {slot.name}" for slot in absent if not slot.busy]
        result["changed"] = bool(result["actions"])
