"""``runnerctl slots apply``: bring this host's slots to the layout that its hardware asks for now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.atomic import atomic_write
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot import Converger
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_register import Enrolment

from runnerctl.cli.host import Done, Slots, host_errors
from runnerctl.cli.layout_plan import Seen, of_host
from runnerctl.cli.output import escape
from runnerctl.core.plan import LocalSlot, SlotPlan
from runnerctl.core.spec import HostSpec
from runnerctl.errors import AccessError, ConfigError, TryAgainError

if TYPE_CHECKING:
    from runnerctl.reconcile import Fleet

__all__ = ["Applying"]

LAYOUT = "the layout in /etc/runnerctl/host.json"


class Applying(Slots):
    """The slots of this host, brought to a new layout. Raises AccessError unless run as root."""

    def apply(self, *, seconds: float, max_wait: str | None = None) -> Done:
        """Plan, ask GitHub where it must know, write host.json, remove, converge.

        ``seconds``: how long jobs of slots that go are waited for. Raises ConfigError for a layout that
        cannot be, AccessError without a credential where registrations change: before anything is changed.
        """
        seen = of_host(self.context.paths, saved=None, per_slot=None)
        after = self._sound(seen)
        before, self.spec = self.spec, after
        specs = [self._slot_spec(slot) for slot in after.github_runner.slots]
        with host_errors():
            now = self._converge(specs, check=True)
            fleet = self._fleet_needed(before, now, max_wait)
            return self._act(before, specs, now, fleet, seconds)

    def _sound(self, seen: Seen) -> HostSpec:
        for note in seen.notes:
            self.context.note(f"runnerctl: {escape(note)}")
        if seen.after is not None:
            return seen.after
        for problem in seen.problems[:-1]:
            self.context.note(f"runnerctl: {escape(problem.line(seen.before.host))}")
        last = seen.problems[-1]
        raise ConfigError(last.message, where=f"{seen.before.host}: {last.variable}", remedy=last.remedy)

    def _fleet_needed(self, before: HostSpec, now: Any, max_wait: str | None) -> Fleet | None:
        """GitHub, where it has to know of something; None where nothing changes there.

        Labels alone can wait for the next converge: without a credential that is said, and no error.
        """
        # An ephemeral slot registers by itself, for each job.
        registered = all(report.agent_id is not None or report.mode == "ephemeral" for report in now.reports)
        gone = [report for report in now.absent if report.agent_id is not None or report.registering]
        if registered and not gone and not self._labels_change(before):
            return None
        fleet = self._fleet(max_wait)
        try:
            for scope in fleet.scopes():
                fleet.registry(scope.url)
        except AccessError as error:
            if not registered or gone:
                raise
            self.context.note(f"runnerctl: labels at GitHub stay as they are: {escape(str(error))}")
            return None
        return fleet

    def _labels_change(self, before: HostSpec) -> bool:
        old = {slot.name: before.slot_labels(slot) for slot in before.github_runner.slots}
        slots = self.spec.github_runner.slots
        return any(self.spec.slot_labels(slot) != old.get(slot.name) for slot in slots)

    # -- acting ------------------------------------------------------------------------------------------

    def _act(
        self, before: HostSpec, specs: list[SlotSpec], now: Any, fleet: Fleet | None, seconds: float
    ) -> Done:
        done = Done()
        plans = self._plans(fleet, list(self.spec.github_runner.slots), now.reports) if fleet else []
        register = [plan for plan in plans if plan.registration is not None]
        # Every token first: a refusal must not come after the first change.
        enrolments = {plan.name: Enrolment(**fleet.enrolment(plan)) for plan in register} if fleet else {}
        self._write(before, done)
        if fleet is not None:
            for plan in register:
                fleet.delete_before(plan)
        remove, after = self._removed(fleet, now.absent, seconds, done), now
        if now.actions or enrolments or remove:
            converger = Converger(self.layout, self.system)
            after = converger.run(specs, enrolments=enrolments, remove=remove)
        done.actions += after.actions
        done.waiting += after.waiting
        self._finish(fleet, plans, after, done)
        return done

    def _write(self, before: HostSpec, done: Done) -> None:
        """The new truth comes first: a run that is cut off here is carried on by the next one."""
        if self.spec == before:
            return
        text = msgspec.json.format(msgspec.json.encode(self.spec), indent=2) + b"\n"
        atomic_write(str(self.context.paths.host_file), text)
        done.actions.append(LAYOUT)

    def _removed(self, fleet: Fleet | None, absent: list[Any], seconds: float, done: Done) -> list[str]:
        """Take the records of slots that go from GitHub; those with a job stay, and are told."""
        names = []
        for report in absent:
            local: LocalSlot = msgspec.convert(report, LocalSlot, from_attributes=True)
            try:
                if fleet is not None:
                    fleet.remove_record(local, seconds=seconds)
                names.append(local.name)
            except TryAgainError:
                done.waiting.append(f"slot {local.name} runs a job: run this again when it has ended")
        return names

    def _finish(self, fleet: Fleet | None, plans: list[SlotPlan], after: Any, done: Done) -> None:
        if fleet is None:
            done.slots = [
                {"slot": report.name, "agent_id": report.agent_id, "status": None} for report in after.reports
            ]
            return
        held_up = {text.partition(":")[0] for text in after.waiting}
        plans = [plan for plan in plans if plan.name not in held_up]
        self._repair(fleet, plans, done)
        self._wait(fleet, plans, [each for each in after.reports if each.name not in held_up], done)
