"""What the commands that act on a host have in common with a converge: the same plans, the same engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.atomic import atomic_write
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import Holds
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.lock import exclusive
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import versions
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot import (
    LOCK,
    LOCK_SECONDS,
    Converger,
    known_slots,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout, SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_modes import at_once, unit_of
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_register import (
    Enrolment,
    forget_registration,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_switch import RETIRED, retire
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

from runnerctl.cli.context import Context
from runnerctl.cli.local import require_slot
from runnerctl.cli.output import escape
from runnerctl.core.plan import LocalSlot, SlotPlan
from runnerctl.core.spec import HostSpec, Slot
from runnerctl.errors import AccessError, ConfigError, RunnerctlError, TryAgainError, UnavailableError
from runnerctl.hostfile import load_host_spec
from runnerctl.modes import sweep

if TYPE_CHECKING:
    from runnerctl.reconcile import Fleet

__all__ = ["Done", "Slots", "host_errors"]

POLL_SECONDS = 2.0
STOP_SECONDS = 360.0  # above the unit's TimeoutStopSec
PROVISION_FIRST = "provision it first: ansible-playbook provision.yml"


@dataclass
class Done:
    """What a command did: actions in order, the slots as they are now, and what has to wait for a job."""

    slots: list[dict[str, Any]] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


class Slots:
    """The slots of this host. Raises AccessError unless run as root."""

    def __init__(
        self,
        context: Context,
        *,
        layout: Layout | None = None,
        system: System | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if context.user_id() != 0:
            raise AccessError("only root may change the slots of a host", remedy="run it with sudo")
        self.context = context
        self.layout = layout or Layout(context.paths.root)
        self.system = system or System()
        self.clock = clock

    @cached_property
    def spec(self) -> HostSpec:
        """What this host should be. Raises ConfigError when it was never provisioned."""
        path = self.context.paths.host_file
        spec = load_host_spec(path)
        if spec is None:
            raise ConfigError("this host was never provisioned", where=str(path), remedy=PROVISION_FIRST)
        return spec

    # -- register ----------------------------------------------------------------------------------------

    def register(self, name: str | None, *, max_wait: str | None = None) -> Done:
        """Register and start the slots of the spec, or one of them."""
        slots = self._wanted(name)
        fleet = self._fleet(max_wait)
        specs = [self._slot_spec(slot) for slot in slots]
        with host_errors():
            before = self._converge(specs, check=True)
            plans = self._plans(fleet, slots, before.reports)
            register = [plan for plan in plans if plan.registration is not None]
            # Every token first: a refusal must not come after the first deletion.
            enrolments = {plan.name: Enrolment(**fleet.enrolment(plan)) for plan in register}
            for plan in register:
                fleet.delete_before(plan)
            after = self._converge(specs, enrolments=enrolments) if enrolments or before.actions else before
        done = Done(actions=list(after.actions), waiting=list(after.waiting))
        stock = {text.partition(":")[0] for text in after.waiting}  # labelled when it is the slot's runner
        self._repair(fleet, [plan for plan in plans if plan.name not in stock], done)
        self._wait(fleet, plans, after.reports, done)
        return done

    def _plans(self, fleet: Any, slots: list[Slot], reports: list[Any]) -> list[SlotPlan]:
        local = {report.name: _local(report) for report in reports}
        plans = [fleet.plan(slot, local.get(slot.name, LocalSlot(slot.name))) for slot in slots]
        if errors := [plan.error for plan in plans if plan.error]:
            raise ConfigError("; ".join(errors), where=self.spec.host)
        if leaving := sorted(plan.name for plan in plans if plan.leaves is not None):
            raise ConfigError(
                "is to have another mode", where=f"slot {', '.join(leaving)}", remedy=PROVISION_FIRST
            )
        return plans

    def _repair(self, fleet: Any, plans: list[SlotPlan], done: Done) -> None:
        """Labels and groups of records that stay; and what has to wait."""
        for plan in plans:
            if plan.waits_for:
                done.waiting.append(
                    f"{plan.runner_name}: {', '.join(plan.reasons)}: waits until its job has ended"
                )
            elif plan.labels is not None or plan.move_to_group is not None:
                fleet.write(plan)
                done.actions += [f"{plan.runner_name} on GitHub: {reason}" for reason in plan.reasons]

    def _wait(self, fleet: Any, plans: list[SlotPlan], reports: list[Any], done: Done) -> None:
        """Started means online on GitHub."""
        names = {plan.name: plan.runner_name for plan in plans if plan.ephemeral}
        agents = {
            report.name: names.get(report.name, report.agent_id)
            for report in reports
            if report.hold is None and (report.agent_id is not None or report.name in names)
        }
        online = {plan.name for plan in plans if plan.online and plan.registration is None}
        seconds = self.spec.github_runner.online_timeout_seconds
        asked = {name: agent for name, agent in agents.items() if name not in online}
        states = {**dict.fromkeys(online, "online"), **fleet.wait_online(asked, seconds=seconds)}
        done.slots = [
            {"slot": report.name, "agent_id": report.agent_id, "status": states.get(report.name, "offline")}
            for report in reports
        ]
        if offline := sorted(name for name, state in states.items() if state != "online"):
            raise UnavailableError(
                f"registered but not online after {seconds} s",
                where=f"slot {', '.join(offline)}",
                remedy=f"see runnerctl logs {offline[0]}",
            )

    # -- unregister --------------------------------------------------------------------------------------

    def unregister(self, name: str | None, *, seconds: float | None, max_wait: str | None = None) -> Done:
        """Remove the records of the host's slots, or of one, and stop them; their directories stay.

        Idle slots go at once, those with a job within ``seconds``, all together. What was done before an
        error is told on stderr.
        """
        names = self._known(name)
        limit = self.spec.github_runner.drain_timeout_seconds if seconds is None else seconds
        fleet, done = self._fleet(max_wait), Done()
        try:
            with host_errors():
                # Nothing is wanted of these slots: the engine reports them as absent, and removes none.
                reports = [each for each in self._converge([], check=True).absent if each.name in names]
                self._unregister_all(fleet, reports, limit, done)
        except RunnerctlError:
            for action in done.actions:
                self.context.note(f"runnerctl: {escape(action)}")
            raise
        return done

    def _unregister_all(self, fleet: Any, reports: list[Any], seconds: float, done: Done) -> None:
        busy: list[Any] = []
        for report in reports:
            try:
                self._unregister(fleet, report, 0.0, done)
            except TryAgainError:
                busy.append(report)
        ends = self.clock() + seconds
        late: list[TryAgainError] = []
        for report in busy:
            try:
                self._unregister(fleet, report, max(ends - self.clock(), 0.0), done)
            except TryAgainError as error:
                late.append(error)
        if late:
            raise late[0]

    def _unregister(self, fleet: Any, report: Any, seconds: float, done: Done) -> None:
        local = self._retired(report)
        if local.agent_id is not None or local.registering:  # cut off: only GitHub knows the id, if any
            fleet.remove_record(local, seconds=seconds)
            record = "a record without id" if local.agent_id is None else f"record {local.agent_id}"
            done.actions.append(f"{record} of slot {local.name} removed from GitHub")
        unit = unit_of(self.layout, local.name)
        with exclusive(str(self.layout.path(LOCK)), seconds=LOCK_SECONDS):  # a converge may be under way
            if report.active or local.agent_id is not None:
                self.system.systemctl("disable", "--now", "--quiet", unit, seconds=STOP_SECONDS)
                self.system.forget_failure(unit)  # its record goes first, so it may end badly
                done.actions.append(f"{unit} stopped and disabled")
            slot = SlotSpec(local.name, runner_name=local.agent_name or "", url=local.url or "", version="")
            forget_registration(self.layout, slot)
            self._note_unregistered(self.layout.state("slots", local.name))
        if local.mode == "ephemeral":
            sweep(fleet.registry(local.url or ""), local.agent_name or "")
            Holds(self.layout, self.system).drop(local.name, RETIRED)
        done.slots.append({"slot": local.name, "agent_id": None, "status": "absent"})

    def _retired(self, report: Any) -> LocalSlot:
        """The slot as it is once no registration follows the one that is deleted."""
        if report.mode == "ephemeral":
            retire(self.layout, self.system, report.name)
            now = self._converge([], check=True).absent
            report = next((each for each in now if each.name == report.name), report)
        return _local(report)

    def _note_unregistered(self, path: Path) -> None:
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            return
        state = {**state, "agent_id": None, "registering": False}
        atomic_write(str(path), (json.dumps(state, indent=2) + "\n").encode())

    # -- adopt -------------------------------------------------------------------------------------------

    def has_release(self) -> bool:
        """Whether any runner release is installed."""
        return bool(versions(self.layout.release("x").parent))

    def converge(self, slot: Slot) -> Any:
        """Bring one slot to its spec, without GitHub; what it claims is taken over. The engine's outcome."""
        return self._converge([self._slot_spec(slot)])

    # -- restart -----------------------------------------------------------------------------------------

    def restart(self, name: str, *, when_idle: bool, seconds: float | None) -> Done:
        """Restart a slot's unit as soon as no job runs on it."""
        self._known(name)
        unit = unit_of(self.layout, name)
        limit = seconds if when_idle else 0.0
        with host_errors():
            self._await_idle(name, seconds=limit, when_idle=when_idle)
            # A converge marks a restart as due and then writes what makes it due: not in between.
            with exclusive(str(self.layout.path(LOCK)), seconds=LOCK_SECONDS):
                self._await_idle(name, seconds=0.0, when_idle=when_idle)
                self.system.systemctl(*at_once(self.layout, name, "restart"), seconds=STOP_SECONDS)
                self.layout.state("pending", name).unlink(missing_ok=True)
        return Done(slots=[{"slot": name, "unit": unit}], actions=[f"restart {unit}"])

    def _await_idle(self, name: str, *, seconds: float | None, when_idle: bool) -> None:
        """Poll until idle. Raises TryAgainError when the slot is still busy after ``seconds``."""
        deadline = None if seconds is None else self.clock() + seconds
        while self.system.busy(unit_of(self.layout, name)):
            if deadline is not None and self.clock() >= deadline:
                remedy = "try again later" if when_idle else "wait for it with --when-idle"
                raise TryAgainError("runs a job", where=f"slot {name}", remedy=remedy)
            self.context.sleep(POLL_SECONDS)

    # -- helpers -----------------------------------------------------------------------------------------

    def _fleet(self, max_wait: str | None) -> Fleet:
        from runnerctl.cli.host_network import host_network
        from runnerctl.reconcile import Fleet

        env = host_network(self.spec, self.context.env)
        return Fleet(self.spec, env, max_wait=max_wait, sleep=self.context.sleep)

    def _wanted(self, name: str | None) -> list[Slot]:
        slots = list(self.spec.github_runner.slots)
        found = [slot for slot in slots if name in (None, slot.name)]
        if not found:
            known = ", ".join(slot.name for slot in slots) or "none"
            raise ConfigError("no such slot in host.json", where=str(name), remedy=f"slots there: {known}")
        return found

    def _known(self, name: str | None) -> list[str]:
        if name is None:
            return known_slots(self.layout)
        require_slot(self.context.paths, None, name)
        return [name]

    def _slot_spec(self, slot: Slot) -> SlotSpec:
        from runnerctl.reconcile import desired_slot

        return SlotSpec.from_dict(desired_slot(self.spec, slot, self._version(slot)))

    def _version(self, slot: Slot) -> str:
        """The release a slot runs: the pinned one, the one it had, or the newest that is installed."""
        folder = self.layout.release("x").parent
        installed = versions(folder)
        had = self._state(slot.name).get("version")
        for version in (self.spec.github_runner.version, had, *installed[-1:]):
            if version in installed:
                return str(version)
        raise ConfigError("no runner release is installed", where=str(folder), remedy=PROVISION_FIRST)

    def _state(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads(self.layout.state("slots", name).read_text())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def _converge(
        self, specs: list[SlotSpec], *, enrolments: dict[str, Enrolment] | None = None, check: bool = False
    ) -> Any:
        converger = Converger(self.layout, self.system, check=check)
        return converger.run(specs, enrolments=enrolments or {}, remove=[])


def _local(report: Any) -> LocalSlot:
    import msgspec

    local: LocalSlot = msgspec.convert(report, LocalSlot, from_attributes=True)
    return local


@contextmanager
def host_errors() -> Iterator[None]:
    """The engine's errors, and the system's, in our tree."""
    try:
        yield
    except HostError as error:
        raise UnavailableError(error.what, where=error.where, remedy=error.remedy) from None
    except OSError as error:
        where = str(error.filename or "this host")
        raise UnavailableError(
            error.strerror or str(error), where=where, remedy="mend it and run again"
        ) from None
