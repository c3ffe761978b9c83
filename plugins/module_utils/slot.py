"""Bring the slots of a host to what their specs say: read, compare, act. Standard library only.

The module ``github_runner`` and the CLI on the host call the same code. Nothing here speaks to GitHub: the
caller has asked, decided, and hands over a registration token where one is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .adoption import claim_of, forget_claim, stock_busy, take_over
from .hold import Holds
from .lock import exclusive
from .slot_app import app_changes, forget_app, install_app, key_sum, ticket_path, ticket_text
from .slot_containers_host import Engines
from .slot_disk import SlotDisk
from .slot_files import MODES, SlotSpec, env_text, read_runner_file
from .slot_gpus import waits_for
from .slot_hooks import HOOK, hook_files
from .slot_modes import EPHEMERAL, at_once, back_off_file, is_ephemeral, mode_of, unit_of
from .slot_pass import ROOT_GID, ROOT_UID, Changes, Pass, directory_is, file_is, is_text, known_slots, own
from .slot_register import CREDENTIAL_FILES, Enrolment, forget_registration, refuse_stale, register
from .slot_report import Outcome, Report
from .slot_spare import forget_runtime
from .slot_switch import RETIRED, leave_mode, retire
from .slot_system import UnitState, remove_tree
from .slot_units import CLI, limit_lines, slot_unit_text, templates
from .slot_units_ephemeral import ephemeral_templates

__all__ = ["LOCK", "LOCK_SECONDS", "Changes", "Converger", "Outcome", "Report", "known_slots"]

ROLE = "github_runner"
LOCK = "/var/lib/runnerctl/slots.lock"
LOCK_SECONDS = 600.0  # a registration has 300


@dataclass
class Converger(Pass):
    """Brings a host's slots to what they should be. With ``check`` it only reads."""

    def run(
        self,
        slots: list[SlotSpec],
        *,
        enrolments: dict[str, Enrolment],
        remove: list[str],
        changes: Changes | None = None,
    ) -> Outcome:
        """Bring ``slots`` to their specs; register those with an enrolment; remove those named.

        Only one run at a time changes a host: another one, the CLI's ``register`` say, is waited for.
        """
        self.changes = changes or Changes()
        if self.check:
            return self._run(slots, enrolments, remove)
        with exclusive(str(self.layout.path(LOCK)), seconds=LOCK_SECONDS):
            return self._run(slots, enrolments, remove)

    def _run(self, slots: list[SlotSpec], enrolments: dict[str, Enrolment], remove: list[str]) -> Outcome:
        absent = sorted(set(known_slots(self.layout)) - {slot.name for slot in slots})
        for name in self.changes.retire:
            self._act(f"slot {name} takes no more jobs", partial(retire, self.layout, self.system, name))
        if (app := self.changes.app) and any(slot.mode == EPHEMERAL for slot in slots):
            self.outcome.needs_key = key_sum(self.layout) != app.sha256  # also of slots that change yet
        slots = [slot for slot in slots if self._keeps_or_changes_mode(slot)]
        here = {name: unit_of(self.layout, name) for name in absent}
        units = self.system.unit_states([*(slot.unit for slot in slots), *here.values()])
        self._reload |= any(state.needs_reload for state in units.values())
        if slots:
            self._templates(slots, units)
        self._reload |= self._engines().host(slots)
        for slot in slots:
            self._files(slot, units[slot.unit])
        self._app(slots)
        if self._reload:
            self._act("systemd reads its units again", lambda: self.system.systemctl("daemon-reload"))
        for slot in slots:
            if not self._adoption(slot):
                continue
            if self._waits_for_gpus(slot, absent):
                self._give_up_old_gpus(slot, units[slot.unit])
                continue
            self._registration(slot, units[slot.unit], enrolments.get(slot.name))
            self._service(slot, self._state_now(slot, units))
        for name in absent:
            self._absent(name, units[here[name]], remove=name in remove)
        self._forget_app(slots, remove)
        return self.outcome

    def _waits_for_gpus(self, slot: SlotSpec, absent: list[str]) -> bool:
        """Whether a job of another slot, one that goes included, still has one of the slot's GPUs."""
        busy = [each.name for each in self.outcome.reports if each.busy and each.name != slot.name]
        reason = waits_for(slot, self.layout, self.system, [*busy, *absent]) if slot.gpus else None
        if reason:
            self.outcome.waiting.append(f"{reason}, and is started by a later run")
        return reason is not None

    def _give_up_old_gpus(self, slot: SlotSpec, unit: UnitState) -> None:
        """Others may get what its listener was started with: that takes no further job with it."""
        if unit.running and slot.name in self._due and not self.check and self.layout.path(CLI).exists():
            self.system.systemctl("start", "--no-block", f"gha-restart@{slot.name}.service")

    # -- modes -------------------------------------------------------------------------------------------

    def _keeps_or_changes_mode(self, slot: SlotSpec) -> bool:
        """Leave the mode the slot had, if it is to have another; False while that has to wait."""
        if not self.layout.state("slots", slot.name).exists() or mode_of(self.layout, slot.name) == slot.mode:
            return True
        unit = unit_of(self.layout, slot.name)
        report = self._report(slot.name, self.system.unit_states([unit])[unit])
        registered = report.agent_id is not None or report.registering
        if slot.name in self.changes.switch or not (registered or report.active or report.busy):
            do = partial(leave_mode, self.layout, self.system, slot.name, mode=slot.mode)
            self._act(f"slot {slot.name} becomes {slot.mode}", do)
            self._reload = True
            if not self.check:
                return True
        self.outcome.reports.append(report)
        return False

    def _app(self, slots: list[SlotSpec]) -> None:
        """The App's key, where a slot needs it."""
        app = self.changes.app
        if app is None or not any(slot.mode == EPHEMERAL for slot in slots):
            return
        if changes := app_changes(self.layout, app):
            self._act(" and ".join(changes), partial(install_app, self.layout, app))

    def _forget_app(self, slots: list[SlotSpec], remove: list[str]) -> None:
        """The key goes with the last ephemeral slot."""
        left = {name for name in known_slots(self.layout) if is_ephemeral(self.layout, name)} - set(remove)
        left -= {slot.name for slot in slots if slot.mode != EPHEMERAL}
        left |= {slot.name for slot in slots if slot.mode == EPHEMERAL}
        if not left and key_sum(self.layout) is not None:
            self._act("removal of the App's private key", partial(forget_app, self.layout))

    def _engines(self) -> Engines:
        """The slots' container engines, which are converged with them."""
        return Engines(self.layout, self.system, self._act, self._file)

    def _disk(self, slot: str) -> SlotDisk:
        """The file system that bounds what a slot's jobs can write, if it has one."""
        return SlotDisk(self.layout, self.system, slot, self._act, self.outcome.waiting.append)

    # -- templates of the host ---------------------------------------------------------------------------

    def _templates(self, slots: list[SlotSpec], units: dict[str, UnitState]) -> None:
        texts = templates()
        if any(slot.mode == EPHEMERAL for slot in slots):
            texts |= ephemeral_templates()
        for slot in slots:
            shared = f"{slot.unit.partition('@')[0]}@.service"
            if units[slot.unit].running and not is_text(self.layout.units / shared, texts[shared]):
                self._mark_pending(slot)
                self._spare(slot)
        if not self.check:
            hooks = self.layout.path(HOOK).parent
            self.receipt.record("path", [str(hooks.parent), str(hooks)], role=ROLE)
            self.receipt.record("unit", [str(self.layout.units / name) for name in texts], role=ROLE)
        for place, (text, mode) in hook_files().items():  # the unit names them
            self._file(f"{Path(place).stem} hook", self.layout.path(place), text, mode=mode)
        for name, text in texts.items():
            self._reload |= self._file(f"unit {name}", self.layout.units / name, text)

    # -- files of one slot -------------------------------------------------------------------------------

    def _files(self, slot: SlotSpec, unit: UnitState) -> None:
        report = self._report(slot.name, unit, claim=claim_of(self.layout, slot.name))
        self.outcome.reports.append(report)
        before = len(self.outcome.actions)
        self._user(slot)
        self._reload |= self._disk(slot.name).converge(slot, running=unit.running, busy=report.busy)
        self._directories(slot)
        self._reload |= self._engines().converge(slot, limit_lines(slot), busy=report.busy)
        drop_in, env = self.layout.drop_in(slot.name, slot.mode), self.layout.slot_root(slot.name) / ".env"
        texts = {drop_in: slot_unit_text(slot), env: env_text(slot)}
        if unit.running and any(not is_text(path, text) for path, text in texts.items()):
            self._mark_pending(slot)
            report.pending_restart = True
            self._spare(slot)
        self._reload |= self._file(f"unit of slot {slot.name}", drop_in, texts[drop_in])
        self._file(f"environment of slot {slot.name}", env, texts[env])
        if slot.mode == EPHEMERAL:
            self._file(
                f"registrations of slot {slot.name}", ticket_path(self.layout, slot.name), ticket_text(slot)
            )
        report.changes += self.outcome.actions[before:]

    def _user(self, slot: SlotSpec) -> None:
        if self.system.user_exists(slot.user):
            return

        def add() -> None:
            self.receipt.record("user", slot.user, role=ROLE)
            self.system.add_user(slot.user, str(self.layout.slot_root(slot.name) / "home"))

        self._act(f"user {slot.user}", add)

    def _directories(self, slot: SlotSpec) -> None:
        """The structure belongs to root; the job's user owns what is below ``_work``, ``_diag`` and home."""
        root = self.layout.slot_root(slot.name)
        known = self.system.user_exists(slot.user)
        uid, gid = self.system.ids(slot.user) if known else (-1, -1)
        ours = (ROOT_UID, ROOT_GID)
        wanted = [(root.parent, *ours, 0o755), (root, ROOT_UID, gid, 0o750)]
        wanted += [(root / name, *ours, 0o755) for name in ("bin", "externals")]
        wanted += [(root / name, uid, gid, 0o700) for name in ("_work", "_diag", "home")]
        wrong = [entry for entry in wanted if not directory_is(*entry)]
        if not wrong and self.layout.state("slots", slot.name).exists():
            return

        def make() -> None:
            self.receipt.record("path", [str(root.parent), str(root)], role=ROLE)
            if not self.layout.state("slots", slot.name).exists():
                self._write_state(slot, agent_id=None, registering=False)
            for path, owner, group, mode in wrong:
                path.mkdir(exist_ok=True)
                os.chown(path, owner, group, follow_symlinks=False)
                path.chmod(mode)

        self._act(f"directories of slot {slot.name}", make)

    # -- registration ------------------------------------------------------------------------------------

    def _adoption(self, slot: SlotSpec) -> bool:
        """Carry out the slot's claim to a stock installation, if it has one; False while that runs a job."""
        claim = claim_of(self.layout, slot.name)
        if claim is None:
            return True
        if stock_busy(self.system, claim.unit):
            self.outcome.waiting.append(
                f"{slot.name}: {claim.unit} runs a job, and is adopted when it has ended"
            )
            return False
        do = partial(take_over, self.layout, self.system, claim, version=slot.version)
        self._act(f"adoption of {claim.agent_name} as slot {slot.name}", do)
        return True

    def _registration(self, slot: SlotSpec, unit: UnitState, enrolment: Enrolment | None) -> None:
        if enrolment is None:
            self._settle(slot)
            return
        report = next(report for report in self.outcome.reports if report.name == slot.name)

        def do() -> None:
            refuse_stale(self.system, slot, enrolment, agent_id=report.agent_id)
            if unit.running:
                self.system.systemctl("stop", slot.unit, seconds=360)
            self.system.kill_all_of(slot.user)
            self._write_state(slot, agent_id=None, registering=True)
            forget_registration(self.layout, slot)
            report.agent_id = register(self.layout, self.system, slot, enrolment)
            report.agent_name, report.url, report.registering = slot.runner_name, slot.url, False
            self._write_state(slot, agent_id=report.agent_id, registering=False)

        self._act(f"registration of {slot.runner_name}", do)
        report.changes.append("registration")

    def _settle(self, slot: SlotSpec) -> None:
        """Note what is already true: a finished registration, the version, who owns the credential files."""
        if slot.mode == EPHEMERAL:  # whoever mints notes it
            return
        state = self._state(slot.name)
        runner = read_runner_file(self.layout.slot_root(slot.name) / ".runner") or {}
        agent_id = runner.get("agentid")
        wanted = (agent_id, slot.version, False)
        stale = (state.get("agent_id"), state.get("version"), bool(state.get("registering"))) != wanted
        if agent_id is not None and stale and not self.check:
            self._write_state(slot, agent_id=agent_id, registering=False)
        if not self.system.user_exists(slot.user):
            return
        gid = self.system.ids(slot.user)[1]
        for name in CREDENTIAL_FILES:
            path = self.layout.slot_root(slot.name) / name
            if path.is_file() and not file_is(path, gid, 0o640):
                self._act(f"owner of {name} of slot {slot.name}", partial(own, path, gid))

    # -- the service -------------------------------------------------------------------------------------

    def _service(self, slot: SlotSpec, unit: UnitState) -> None:
        report = next(report for report in self.outcome.reports if report.name == slot.name)
        before = len(self.outcome.actions)
        if unit.load == "masked":
            self._act(f"unmask {slot.unit}", lambda: self.system.systemctl("unmask", slot.unit))
        if not self.layout.wanted(slot.name, slot.mode).is_symlink():
            self._act(f"enable {slot.unit}", lambda: self.system.systemctl("enable", "--quiet", slot.unit))
        registered = report.agent_id is not None or "registration" in report.changes
        if RETIRED in report.hold_by and slot.name not in self.changes.retire:  # it is wanted after all
            drop = partial(Holds(self.layout, self.system).drop, slot.name, RETIRED)
            self._act(f"slot {slot.name} takes jobs again", drop)
            report.hold = None if report.hold_by == [RETIRED] else report.hold
        if report.hold is None and (registered or slot.mode == EPHEMERAL):
            self._run_or_restart(slot, unit, report)
        report.changes += self.outcome.actions[before:]

    def _run_or_restart(self, slot: SlotSpec, unit: UnitState, report: Report) -> None:
        pending = self.layout.state("pending", slot.name)
        due = slot.name in self._due or pending.exists()
        if not unit.running or "registration" in report.changes:

            def start() -> None:
                self.system.forget_failure(slot.unit)
                self.system.systemctl(*at_once(self.layout, slot.name))
                pending.unlink(missing_ok=True)

            self._act(f"start {slot.unit}", start)
            report.active, report.pending_restart = True, False
        elif due and not self.system.busy(slot.unit):

            def restart() -> None:
                self.system.systemctl(*at_once(self.layout, slot.name, "restart"), seconds=360)
                pending.unlink(missing_ok=True)

            self._act(f"restart {slot.unit}", restart)
            report.pending_restart = False
        elif due:
            report.pending_restart = True
            if not self.check and self.layout.path(CLI).exists():
                self.system.systemctl("start", "--no-block", f"gha-restart@{slot.name}.service")

    # -- slots that inventory no longer has --------------------------------------------------------------

    def _absent(self, name: str, unit: UnitState, *, remove: bool) -> None:
        self.outcome.absent.append(self._report(name, unit))
        if not remove:
            return
        user, unit_name = f"gha-{name}", unit_of(self.layout, name)

        def do() -> None:
            self.system.systemctl("disable", "--now", "--quiet", unit_name, seconds=360)
            self.system.kill_all_of(user)
            self._engines().remove(name)
            self._disk(name).remove()
            for mode in MODES:
                remove_tree(self.layout.drop_in(name, mode).parent)
            remove_tree(self.layout.slot_root(name))
            remove_tree(self.layout.path(f"/var/lib/runnerctl/logs/{name}"))
            for path in (ticket_path(self.layout, name), back_off_file(self.layout, name)):
                path.unlink(missing_ok=True)
            forget_runtime(self.layout, name)
            self.system.systemctl("daemon-reload")
            self.system.forget_failure(unit_name)
            if user in {entry.name for entry in self.receipt.entries("user")}:  # else it was there before
                self.system.remove_user(user)
            forget_claim(self.layout, name)
            for kind in ("pending", "hold"):
                self.layout.state(kind, name).unlink(missing_ok=True)
            self.receipt.forget("user", user)
            self.receipt.forget("path", str(self.layout.slot_root(name)))
            self.layout.state("slots", name).unlink(missing_ok=True)  # last: until then the slot is known

        self._act(f"removal of slot {name}", do)
