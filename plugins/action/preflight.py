"""Controller half of ``preflight``: what can be refused is refused here, before the first change."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.bundle import (
    bundle_problems,
)
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.driver import (
    driver_fact,
    driver_facts,
    driver_query,
)
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.env_store import store_problems
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.keys import driver_key, toolkit_keys
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.layout import (
    hardware_query,
    judge_layout,
)
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.network import network_problems
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.release import release_fact, shared_play
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.runner_release import (
    expected_release,
    kept_release,
)
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import (
    RunnerctlError,
    layout_fact,
    plain,
    spec_from_task,
)

from runnerctl.core.preflight import HostFacts, host_problems
from runnerctl.core.spec import HostSpec, Problem
from runnerctl.modes import app_for, with_app
from runnerctl.reconcile import Fleet
from runnerctl.redact import redact

display = Display()


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.preflight``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the spec, then the host, then the credential."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec = spec_from_task(self, variables)
        wants_driver = _wants(variables, "nvidia_driver")
        query = driver_query(spec.nvidia_driver) if wants_driver else "never"
        asked = {"driver": query, "hardware": hardware_query(spec)}
        report = self.execute("preflight", asked, variables)
        facts = msgspec.convert(report, HostFacts)
        if wants_driver:
            facts = msgspec.structs.replace(facts, driver=driver_facts(report))
        problems = self._problems(spec, facts, variables)
        comes = wants_driver and spec.nvidia_driver.manage
        wants_slots = _wants(variables, "github_runner") or _wants(variables, "runnerctl")
        spec, misfits = judge_layout(spec, report, driver_comes=comes) if wants_slots else (spec, [])
        if problems := [*problems, *misfits]:
            raise AnsibleActionFail("\n".join(problem.line(spec.host) for problem in problems))
        known = driver_fact(report) if wants_driver else {}
        known |= layout_fact(spec) if spec.layout is not None else {}
        if spec.github_runner.slots and _wants(variables, "github_runner"):
            try:
                known = {**known, **release_fact(self._ask_github(spec, facts, report, variables))}
            except RunnerctlError as error:
                raise AnsibleActionFail(redact(f"{spec.host}: {error}")) from None
        return {**report, "changed": False, "host_json": None, "ansible_facts": known}

    def _problems(self, spec: HostSpec, facts: HostFacts, variables: dict[str, Any]) -> list[Problem]:
        """Of the host, and of the keys on the controller that the roles of this run will need."""
        toolkit = _wants(variables, "container_toolkit")
        problems = host_problems(spec, facts, toolkit=toolkit)
        problems += network_problems(self, spec) + bundle_problems(self, spec, facts.machine)
        problems += store_problems(self, spec)
        if _wants(variables, "nvidia_driver"):
            problems += driver_key(self, spec.nvidia_driver)[1]
        return problems + (toolkit_keys(self, spec.container_toolkit)[1] if toolkit else [])

    def _ask_github(
        self, spec: HostSpec, facts: HostFacts, report: dict[str, Any], variables: dict[str, Any]
    ) -> dict[str, Any]:
        """Prove that the credentials are enough, and learn which release to install."""
        app_for(spec, os.environ)
        fleet = Fleet(spec, with_app(os.environ, spec), play=shared_play(variables))
        new = {slot.name for slot in spec.github_runner.slots} - set(facts.registered)
        fleet.prove_access(register=new if not self._task.check_mode else set())
        release = expected_release(self, spec, fleet, facts.machine, installed=facts.releases)
        if kept := kept_release(spec, release.version, report):
            display.warning(kept[1])
            return {"version": kept[0], "installed": True}
        return {
            "version": release.version,
            "url": release.url,
            "sha256": release.sha256,
            "needs_token": release.token is not None,
            "installed": release.version in facts.releases,
        }


def _wants(variables: dict[str, Any], role: str) -> bool:
    run, skip = (plain(variables.get(name, [])) for name in ("ansible_run_tags", "ansible_skip_tags"))
    return bool({"all", role, "tagged"} & set(run or ["all"])) and role not in skip
