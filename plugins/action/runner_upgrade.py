"""Controller half of ``runner_upgrade``: which release, what GitHub says, and the order of things."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timezone
from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.answers import write_answer
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.layout import spec_of_host
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.runner_release import expected_release
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spared import fleet_specs
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import (
    RunnerctlError,
    plain,
    spec_from_task,
)
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.upgrade_host import UpgradableHost

from runnerctl.core.rules import VERSION
from runnerctl.core.spec import HostSpec
from runnerctl.errors import ConfigError
from runnerctl.private import locked
from runnerctl.reconcile import Fleet, Release
from runnerctl.rollout.upgrade import Upgrade
from runnerctl.rollout.upgrade_github import FleetRoutes
from runnerctl.rollout.upgrade_ports import Pace, SlotResult
from runnerctl.rollout.version_plan import expiries
from runnerctl.wheel import cache_directory

display = Display()

ARGUMENTS = {
    "state": {"type": "str", "choices": ["upgraded", "counted"], "default": "upgraded"},
    "fleet": {"type": "dict"},
    "version": {"type": "str"},
    "quiet_seconds": {"type": "float"},
    "timeout_seconds": {"type": "float"},
    "force": {"type": "bool", "default": False},
    "retry": {"type": "bool", "default": False},
    "output_dir": {"type": "path"},
}
BAD = ("rolled back", "failed", "stranded", "refused")
LOCK_SECONDS = 600.0  # a fork may wait for GitHub while it holds the lock


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.runner_upgrade``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Upgrade the host, or in check mode say what would be done; errors are one line each."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        validate: Any = self.validate_argument_spec
        given = plain(validate(argument_spec=ARGUMENTS)[1])
        answer: dict[str, Any] = {"host": str(variables["inventory_hostname"]), "slots": []}
        answer["hosts"] = plain(variables.get("ansible_play_hosts_all", []))
        try:
            if given["state"] == "counted":
                return {"changed": False, "fleet": _count(variables)}
            spec = spec_of_host(self, spec_from_task(self, variables), variables)
            return self._work(given, _pinned(spec, given["version"]), variables, answer)
        except RunnerctlError as error:
            answer |= {"error": str(error), "exit_code": error.exit_code}
            where = "" if error.where.startswith(answer["host"]) else f"{answer['host']}: "
            raise AnsibleActionFail(f"{where}{error}", result=answer) from None
        except AnsibleActionFail as error:
            answer.setdefault("error", " ".join(str(error).split()))
            answer.setdefault("exit_code", 78)
            raise
        finally:
            if given["state"] == "upgraded":
                write_answer(given["output_dir"], answer["host"], answer)

    def _work(
        self, given: dict[str, Any], spec: HostSpec, variables: dict[str, Any], answer: dict[str, Any]
    ) -> dict[str, Any]:
        if not spec.github_runner.slots:
            return {"changed": False, "skipped": True, **answer, "msg": "the host has no slots"}
        host = UpgradableHost(self, spec, variables)
        notes = host.notes()
        fleet = Fleet(spec, os.environ)
        release = expected_release(self, spec, fleet, host.machine, installed=notes.installed)
        engine = self._engine(given, host, fleet, release, variables)
        results = engine.plan() if self._task.check_mode else engine.run()
        answer |= {"target": release.version, "slots": msgspec.to_builtins(results)}
        answer["busy"] = [each.slot for each in results if each.result == "busy"]
        changed = engine.changed
        if self._task.check_mode:
            self._add_days(fleet, results, answer)
            changed = any(each.result == "would upgrade" for each in results)
        for slot in answer["busy"]:
            display.warning(f"{spec.host}: slot {slot} was not upgraded: it is busy; run the upgrade again")
        if (bad := [each for each in results if each.result in BAD]) and not self._task.check_mode:
            self._fail(spec.host, bad, answer)
        return {"changed": changed, **answer}

    def _engine(
        self,
        given: dict[str, Any],
        host: UpgradableHost,
        fleet: Fleet,
        release: Release,
        variables: dict[str, Any],
    ) -> Upgrade:
        spec = fleet.spec
        counted = given["fleet"] or _count(variables)
        routes = FleetRoutes(
            fleet,
            names=counted["names"],
            percent=int(counted["percent"]),
            force=given["force"],
            lock=_one_at_a_time,
        )
        runner = spec.github_runner
        pace = Pace(
            quiet=_or(given["quiet_seconds"], runner.drain_quiet_seconds),
            wait=_or(given["timeout_seconds"], runner.drain_timeout_seconds),
            online=runner.online_timeout_seconds,
        )

        def tell(text: str) -> None:
            display.display(f"runnerctl: {spec.host}: {text}")

        return Upgrade(host, routes, release, pace=pace, retry=given["retry"], tell=tell)

    def _add_days(self, fleet: Fleet, results: tuple[SlotResult, ...], answer: dict[str, Any]) -> None:
        """How long what runs now still works: for the plan."""
        now = datetime.now(timezone.utc)
        registry = fleet.registry(fleet.scopes()[0].url)
        known = expiries(registry, {each.was for each in results if each.was})
        for row in answer["slots"]:
            if found := known.get(row["was"]):
                row["days_left"], row["expires"] = found.days_left(now), found.text(now)
        answer["notes"] = sorted({each.note for each in known.values() if each.note})

    def _fail(self, host: str, bad: list[SlotResult], answer: dict[str, Any]) -> None:
        text = "; ".join(f"slot {each.slot} {each.result}: {each.note}" for each in bad)
        if all(each.result == "refused" for each in bad):
            text += "; with upgrade_retry=true (--retry) it is tried again"
        answer |= {"error": f"{host}: {text}", "exit_code": 69}
        raise AnsibleActionFail(f"{host}: {text}", result=answer)


def _count(variables: dict[str, Any]) -> dict[str, Any]:
    """The runner names of the whole inventory by scope, and the strictest share that may be out."""
    specs = fleet_specs(variables, note=display.warning).values()
    names: dict[str, list[str]] = {}
    for spec in specs:
        for slot in spec.github_runner.slots:
            names.setdefault(spec.slot_scope(slot).url, []).append(spec.runner_name(slot))
    percent = min((spec.runnerctl.fleet_max_held_percent for spec in specs), default=100)
    return {"names": names, "percent": percent}


def _pinned(spec: HostSpec, version: str | None) -> HostSpec:
    """The spec with the version that was asked for; the checksum of another pin says nothing of it.

    Raises ConfigError.
    """
    runner = spec.github_runner
    if not version or version == runner.version:
        return spec
    if not VERSION.fullmatch(version):  # it becomes the name of a directory on the host
        raise ConfigError(
            f"{version!r} is no version", where="upgrade_version", remedy="give one like 2.337.0"
        )
    if runner.version:
        display.warning(
            f"{spec.host}: inventory pins github_runner_version {runner.version}: set it to {version}, "
            "or the next converge goes back"
        )
    changed = msgspec.structs.replace(runner, version=version, sha256=None)
    return msgspec.structs.replace(spec, github_runner=changed)


def _or(value: float | None, default: float) -> float:
    return float(default if value is None else value)


def _one_at_a_time() -> contextlib.AbstractContextManager[None]:
    """Only one fork of one controller counts the fleet and cuts at a time. Raises TryAgainError."""
    return locked(cache_directory().parent, name="breaker.lock", seconds=LOCK_SECONDS)
