"""``runnerctl health --act``: put sick GPUs out of use, try to mend them, and bring them back."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import HEALTH, Cause, Holds
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.lock import exclusive
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import Result
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_modes import unit_of
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System, run

from runnerctl.cli.context import Context
from runnerctl.cli.notes import Notes
from runnerctl.cli.output import escape
from runnerctl.cli.probing import PROBE_SECONDS, Probe, Prober
from runnerctl.core.deep_readings import DeepProbe, Extent
from runnerctl.core.driver_readings import GpuEvent
from runnerctl.core.health import Health
from runnerctl.core.kernel_lines import plain_boot_id
from runnerctl.core.ladder import Decision, GpuState, SlotState, decide
from runnerctl.core.sickness import gpu_states, slot_gpus
from runnerctl.core.snapshot import Gpu, Snapshot
from runnerctl.core.spec import HostSpec
from runnerctl.core.xid import Moment
from runnerctl.errors import AccessError, TryAgainError
from runnerctl.probes import gpu_verdict

__all__ = ["Actor", "act", "act_here", "forgive"]

RESET_SECONDS = 300.0
REBOOT_SECONDS = 60.0
MIG_SECONDS = 60.0
LOCK = "/run/runnerctl/act.lock"
LOCK_SECONDS = 0.0  # who comes second has nothing to add
NVIDIA_SMI = "nvidia-smi"
# The locks of dpkg and rpm (fcntl); a boot in the middle of either leaves a host that may not start.
PACKAGE_LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/rpm/.rpm.lock")
_IN_USE = re.compile(r"in use|being used", re.IGNORECASE)
Run = Callable[[list[str], float], Result]
EventKind = Literal["reset", "reset_failed", "reboot", "taken_out", "released"]


def _run(argv: list[str], seconds: float) -> Result:
    """Run a command with a deadline. Raises HostError when it does not end."""
    return run(argv, seconds=seconds, check=False)


def act(
    snapshot: Snapshot,
    health: Health,
    *,
    layout: Layout,
    say: Callable[[str], None],
    clock: Callable[[], float],
    user_id: Callable[[], int],
    run: Run = _run,
    system: System | None = None,
    nvidia_smi: str = NVIDIA_SMI,
    probe: Probe | None = None,
) -> list[str]:
    """Do what the verdict asks for; returns what was done, which ``say`` was told as well.

    ``clock`` gives seconds since 1970. Raises AccessError unless root, TryAgainError while another run acts.
    """
    if user_id() != 0:
        raise AccessError("only root may act on a host", where="--act", remedy="run it with sudo")
    spec = snapshot.host_spec
    if spec is None:
        return []
    actor = Actor(
        snapshot,
        health,
        spec,
        layout,
        system or System(),
        run,
        nvidia_smi,
        clock,
        say,
        probe or _prober(layout),
    )
    try:
        with exclusive(str(layout.path(LOCK)), seconds=LOCK_SECONDS):
            return actor.act()
    except HostError as error:
        raise TryAgainError(error.what, where=error.where, remedy=error.remedy) from None


def _prober(layout: Layout) -> Probe:
    """What has GPUs compute, each in a child with a deadline."""

    def probe(gpus: Sequence[Gpu], extent: Extent) -> DeepProbe:
        from runnerctl.probes import deep, stuck  # most rounds probe nothing

        return deep.probe(gpus, extent=extent, guard=stuck.Guard(layout.path(stuck.DIRECTORY)))

    return probe


def act_here(context: Context, snapshot: Snapshot, health: Health) -> None:
    """Act on this host and say on stderr what was done; another run that acts already is enough."""
    layout = Layout(context.paths.root)

    def say(line: str) -> None:
        context.note(f"runnerctl: {escape(line)}")

    try:
        act(snapshot, health, layout=layout, say=say, clock=context.clock, user_id=context.user_id)
    except TryAgainError as error:
        say(str(error))


def forgive(
    layout: Layout, gpus: Sequence[str], *, clock: Callable[[], float], say: Callable[[str], None]
) -> None:
    """Note that somebody brings these GPUs back, whatever was noted before. Raises HostError."""
    now = datetime.fromtimestamp(clock(), timezone.utc).replace(microsecond=0)
    with exclusive(str(layout.path(LOCK)), seconds=RESET_SECONDS + REBOOT_SECONDS + PROBE_SECONDS):
        Notes(layout.root, say).add(
            [
                GpuEvent(now, _boot_id(layout), "released", uuid, None, "runnerctl resume --force")
                for uuid in gpus
            ]
        )


def _boot_id(layout: Layout) -> str:
    path = layout.path("/proc/sys/kernel/random/boot_id")
    return plain_boot_id(path.read_text()) if path.is_file() else ""


@dataclass(frozen=True)
class Actor:
    """One round on one host."""

    snapshot: Snapshot
    health: Health
    spec: HostSpec
    layout: Layout
    system: System
    run: Run
    nvidia_smi: str
    clock: Callable[[], float]
    say: Callable[[str], None]
    probe: Probe

    @cached_property
    def holds(self) -> Holds:
        """The holds of this host."""
        return Holds(self.layout, self.system)

    @cached_property
    def notes(self) -> Notes:
        """The host's notes about its GPUs."""
        return Notes(self.layout.root, self.say)

    @cached_property
    def moment(self) -> Moment:
        """Now, in the boot that runs."""
        now = datetime.fromtimestamp(self.clock(), timezone.utc).replace(microsecond=0)
        return Moment(now, _boot_id(self.layout))

    @cached_property
    def gpus(self) -> dict[str, GpuState]:
        """The state of every GPU by its UUID, after what was probed in this round."""
        return self._states()

    def _states(self) -> dict[str, GpuState]:
        states = gpu_states(self.snapshot, self.health, history=self.notes.history, moment=self.moment)
        return {state.uuid: state for state in states}

    def act(self) -> list[str]:
        """Probe, judge, decide, do; one thing that fails does not keep the others from being done."""
        slots = self._slots()
        self._remember_holds(slots)
        self._try(self._have_probed, [])
        self._publish()
        plan = decide(
            list(self.gpus.values()),
            slots,
            history=self.notes.history,
            limits=self.spec.runnerctl,
            moment=self.moment,
        )
        done: list[str] = []
        for decision in plan.decisions:
            self._try(partial(self._do, decision, slots), done)
        self._try(partial(self.notes.count, plan.clean_probes, now=self.moment.now), done)
        for slot in slots:
            self._try(partial(self._settle, slot), done)
        return done

    def _remember_holds(self, slots: Sequence[SlotState]) -> None:
        """Lost notes may have said that a GPU is out: what is on hold stays so until a human comes."""
        if not self.notes.lost:
            return
        why = "the notes about it were damaged"
        held = dict.fromkeys(uuid for slot in slots for uuid in slot.by_health or ())
        self.notes.add(
            [GpuEvent(self.moment.now, self.moment.boot_id, "taken_out", uuid, None, why) for uuid in held]
        )

    def _try(self, do: Callable[[], str | None], done: list[str]) -> None:
        try:
            action = do()
        except (HostError, OSError) as error:
            self.say(one_line(error))
            return
        if action:
            self.say(action)
            done.append(action)

    def _publish(self) -> None:
        """For the guard, which has no time for a judgement of its own before a job starts."""
        listed = self.snapshot.listed_gpus
        devices = {gpu.uuid: gpu.mig_uuids for gpu in listed if gpu.uuid}
        found = {
            uuid: gpu_verdict.GpuVerdict(state.status, state.reason)
            for whole, state in self.gpus.items()
            for uuid in (whole, *devices.get(whole, ()))
        }
        path = self.layout.path(gpu_verdict.PATH)
        gpu_verdict.publish(found, boot_id=self.moment.boot_id, at=self.clock(), path=path)

    def _have_probed(self) -> None:
        """Before anything is decided: who fails is held in this very round."""
        prober = Prober(self.snapshot, self._states(), self.moment, self._busy_gpus, self.probe, self.say)
        self.notes.add(prober.events())

    def _busy_gpus(self) -> set[str]:
        """The GPUs of slots that run a job at this moment."""
        slots = slot_gpus(self.snapshot).items()
        return {
            uuid for name, uuids in slots if self.system.busy(unit_of(self.layout, name)) for uuid in uuids
        }

    def _slots(self) -> list[SlotState]:
        """Every slot as it stands now, which is later than the snapshot."""
        gpus = slot_gpus(self.snapshot)
        named = {name: unit_of(self.layout, name) for name in gpus}
        units = self.system.unit_states(list(named.values()))
        running = {name: units[unit].running for name, unit in named.items()}
        return [self._slot(name, uuids, running[name]) for name, uuids in gpus.items()]

    def _slot(self, name: str, gpus: tuple[str, ...], running: bool) -> SlotState:
        hold = self.holds.get(name)
        cause = hold.cause(HEALTH) if hold else None
        return SlotState(name, gpus, running, hold is not None, cause.gpus if cause else None)

    # -- doing

    def _do(self, decision: Decision, slots: Sequence[SlotState]) -> str | None:
        if decision.kind == "hold":
            return self._hold(decision)
        if decision.kind == "release":
            return self._release(decision)
        if decision.kind == "wait":
            self.say(decision.reason)
            return None
        if decision.kind == "take_out":
            return self._take_out(decision, slots)
        if not all(slot.dry for slot in self._slots() if _concerns(slot, decision, self.gpus)):
            return None  # somebody resumed it meanwhile
        return self._reset(decision) if decision.kind == "reset" else self._reboot(decision)

    def _hold(self, decision: Decision) -> str | None:
        changed = self.holds.add(decision.slot, self._cause(decision.reason, decision.gpus))
        return f"slot {decision.slot} is put on hold: {decision.reason}" if changed else None

    def _settle(self, slot: SlotState) -> str | None:
        """Also of holds that an earlier run could not make effective."""
        if not slot.running or self.holds.get(slot.name) is None:
            return None
        stopped = self.holds.settle(slot.name) == "stopped"
        return f"slot {slot.name} is stopped: it is on hold and idle" if stopped else None

    def _release(self, decision: Decision) -> str:
        self._note("released", decision.gpus, decision.reason)
        left = self.holds.drop(decision.slot, HEALTH)
        if left is not None:
            return (
                f"slot {decision.slot} is released by the verdict ({decision.reason}); still: {left.reason}"
            )
        self.holds.start(decision.slot)
        return f"slot {decision.slot} is released: {decision.reason}"

    def _take_out(self, decision: Decision, slots: Sequence[SlotState]) -> str:
        self._note("taken_out", decision.gpus, decision.reason)
        for slot in slots:
            if set(decision.gpus) & set(slot.gpus):
                hold = self.holds.get(slot.name)
                old = hold.cause(HEALTH) if hold else None
                if old and decision.reason in old.reason:
                    continue  # this round's hold says it already, of all the slot's GPUs
                gpus = dict.fromkeys((*(old.gpus if old else ()), *decision.gpus))
                self.holds.add(slot.name, self._cause(decision.reason, tuple(gpus)))
        return f"taken out of service: {decision.reason}"

    def _reset(self, decision: Decision) -> str:
        name = self.gpus[decision.gpus[0]].name
        self._note("reset", decision.gpus, decision.reason)
        self.say(f"{name} is being reset: {decision.reason}")
        try:
            done = self.run([self.nvidia_smi, "--gpu-reset", "-i", ",".join(decision.gpus)], RESET_SECONDS)
        except HostError as error:
            self._note("reset_failed", decision.gpus, one_line(error))
            raise
        if done.rc:
            why = f"nvidia-smi ended with {done.rc}{_last_line(done)}"
            if _IN_USE.search(done.out + done.err):  # then it was not tried: it neither counts nor cures
                self.notes.take_back("reset", decision.gpus, self.moment.now)
            else:
                self._note("reset_failed", decision.gpus, why)
            return f"{name} could not be reset: {why}"
        for uuid in decision.gpus:
            self._cut_again(uuid)
        return f"{name} was reset"

    def _cut_again(self, uuid: str) -> None:
        """A reset takes MIG devices away: make those of the spec's layout again, as the boot does."""
        for layout in self.spec.nvidia_driver.mig:
            if layout.profiles and (uuid in layout.gpus or not layout.gpus):
                for words in (
                    ["-i", uuid, "-mig", "1"],
                    ["mig", "-i", uuid, "-cgi", ",".join(layout.profiles), "-C"],
                ):
                    done = self.run([self.nvidia_smi, *words], MIG_SECONDS)
                    if done.rc:
                        self.say(
                            f"{self.gpus[uuid].name} could not be cut into MIG devices{_last_line(done)}"
                        )
                        return

    def _reboot(self, decision: Decision) -> str | None:
        if _packages_change(self.layout):
            self.say(f"the reboot waits until packages are installed: {decision.reason}")
            return None
        self._note("reboot", decision.gpus, decision.reason)
        self.say(f"the host is being booted: {decision.reason}")
        self.run(["systemctl", "reboot"], REBOOT_SECONDS)
        return "the host was told to reboot"

    # -- writing down

    def _cause(self, reason: str, gpus: tuple[str, ...]) -> Cause:
        return Cause(HEALTH, reason, f"{self.moment.now:%Y-%m-%dT%H:%M:%SZ}", gpus)

    def _note(self, kind: EventKind, gpus: Sequence[str], reason: str) -> None:
        """Before it is done: a kill in between never causes it a second time unnoticed."""
        pci = {uuid: state.pci for uuid, state in self.gpus.items()}
        now, boot = self.moment
        self.notes.add([GpuEvent(now, boot, kind, uuid, pci.get(uuid), reason) for uuid in gpus])


def _last_line(done: Result) -> str:
    lines = (done.out.strip() or done.err.strip()).splitlines()
    return f": {lines[-1].strip()}" if lines else ""


def _packages_change(layout: Layout) -> bool:
    """Whether a package manager is at work."""
    return any(_is_locked(layout.path(path)) for path in PACKAGE_LOCKS)


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _concerns(slot: SlotState, decision: Decision, gpus: dict[str, GpuState]) -> bool:
    """Whether a slot must have run dry before this is done."""
    if decision.kind == "reboot":
        return True
    touched = {uuid for each in decision.gpus for uuid in (each, *gpus[each].together)}
    return bool(touched & set(slot.gpus))
