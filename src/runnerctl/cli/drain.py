"""``runnerctl drain`` and ``runnerctl resume``: take a slot out of use by hand, and bring it back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption
from runnerctl.errors import TryAgainError

if TYPE_CHECKING:
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import Cause, Hold, Holds

    from runnerctl.cli.host import Done

__all__ = ["app", "drain", "resume"]

DRAIN_EXAMPLE = """
runnerctl drain main --reason "a new power supply"
runnerctl drain main --wait --timeout 3600
"""
RESUME_EXAMPLE = """
runnerctl resume main
runnerctl resume main --force
"""
app = new_app()
SlotArgument = Annotated[str, typer.Argument(metavar="SLOT", help="The slot's name, as in `runnerctl list`.")]


@app.command("drain", cls=Command, epilog=DRAIN_EXAMPLE)
def drain(
    context: typer.Context,
    slot: SlotArgument,
    reason: Annotated[
        str | None,
        typer.Option("--reason", metavar="TEXT", help="Why, for `list` and for jobs.", show_default=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the running job has ended.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0, help="How long to wait.", show_default=False),
    ] = None,
    held: Annotated[
        bool, typer.Option("--held", help="Only wait and stop, for the hold that is there already.")
    ] = False,
    output: OutputOption = None,
) -> int:
    """Put a slot on hold; the job that runs is left alone.

    The listener is stopped at once when it is idle, and otherwise when its job has ended; a job that slips in
    fails with the reason. The hold stays over reboots and converges, until `runnerctl resume`. It needs root.
    """
    from runnerctl.cli.slots import tell

    command: Context = context.obj
    desk = _desk(command, slot)
    done = desk.finish(timeout) if held else desk.drain(reason, seconds=timeout, wait=wait)
    return tell(command, done, output)


@app.command("resume", cls=Command, epilog=RESUME_EXAMPLE)
def resume(
    context: typer.Context,
    slot: SlotArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Lift a hold of the health verdict as well.")
    ] = False,
    output: OutputOption = None,
) -> int:
    """Take a slot's hold away and start it.

    A hold that the health verdict set ends by itself when the GPUs are well again; --force ends it now, and
    brings GPUs back that were taken out. It needs root.
    """
    from runnerctl.cli.slots import tell

    command: Context = context.obj
    return tell(command, _desk(command, slot).resume(force=force), output)


def _desk(context: Context, slot: str) -> Desk:
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import Holds

    from runnerctl.cli.host import Slots
    from runnerctl.cli.local import require_slot
    from runnerctl.hostfile import load_host_spec

    slots = Slots(context)
    require_slot(context.paths, load_host_spec(context.paths.host_file), slot)
    return Desk(context, slot, Holds(slots.layout, slots.system))


@dataclass(frozen=True)
class Desk:
    """One slot and its holds."""

    context: Context
    slot: str
    holds: Holds

    def drain(self, reason: str | None, *, seconds: float | None, wait: bool) -> Done:
        """Hold the slot; with ``wait``, until it has run dry. Raises TryAgainError after ``seconds``."""
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import OPERATOR, Cause

        from runnerctl.cli.host import Done, host_errors

        done = Done()
        with host_errors():
            cause = Cause(OPERATOR, reason or self._who(), f"{self._now():%Y-%m-%dT%H:%M:%SZ}")
            if (reason or self._by(OPERATOR) is None) and self.holds.add(self.slot, cause):
                done.actions.append(f"slot {self.slot} is on hold")
            ended = self.holds.settle(self.slot)
        if ended == "stopped":
            done.actions.append(f"slot {self.slot} is stopped")
        elif ended == "waits" and wait:
            done.actions += self.finish(seconds).actions
        elif ended == "waits":
            self.context.note(f"runnerctl: slot {self.slot} runs a job, and stops when it has ended")
        return self._shown(done)

    def finish(self, seconds: float | None) -> Done:
        """Wait for the job of a held slot and stop it. Raises TryAgainError after ``seconds``."""
        from runnerctl.cli.host import Done, host_errors

        with host_errors():
            ended = self.holds.finish(self.slot, seconds=seconds)
        if not ended:
            remedy = "it stops when its job has ended; `runnerctl list` shows it"
            raise TryAgainError("still runs a job", where=f"slot {self.slot}", remedy=remedy)
        stopped = self.holds.get(self.slot) is not None
        return self._shown(Done(actions=[f"slot {self.slot} is stopped"] if stopped else []))

    def resume(self, *, force: bool) -> Done:
        """Lift the operator's hold, with ``force`` every hold, and start the slot. Raises TryAgainError."""
        from runnerctl.cli.host import Done, host_errors

        done = Done()
        with host_errors():
            hold = self.holds.get(self.slot)
            if hold is None:
                return self._shown(done)
            left = self._lift(hold, done, force=force)
            if left is None and self.holds.start(self.slot):
                done.actions.append(f"slot {self.slot} is started")
        if left is not None:
            remedy = "it ends by itself when the cause has gone; --force ends it now"
            by = " and ".join(cause.by for cause in left.causes)
            raise TryAgainError(f"is held by {by}: {left.reason}", where=f"slot {self.slot}", remedy=remedy)
        return self._shown(done)

    def _lift(self, hold: Hold, done: Done, *, force: bool) -> Hold | None:
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import HEALTH, OPERATOR

        from runnerctl.cli.act import forgive

        sick = hold.cause(HEALTH)
        if force and sick:
            forgive(self.holds.layout, sick.gpus, clock=self.context.clock, say=self.context.note)
        for cause in hold.causes:
            if force or cause.by == OPERATOR:
                self.holds.drop(self.slot, cause.by)
                done.actions.append(f"the hold by {cause.by} is lifted: {cause.reason}")
        return self.holds.get(self.slot)

    def _by(self, who: str) -> Cause | None:
        hold = self.holds.get(self.slot)
        return hold.cause(who) if hold else None

    def _shown(self, done: Done) -> Done:
        hold = self.holds.get(self.slot)
        done.slots = [{"slot": self.slot, "hold_reason": hold.reason if hold else None}]
        return done

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.context.clock(), timezone.utc)

    def _who(self) -> str:
        """Without a reason the name of whom sudo knows is better than none."""
        user = self.context.env.get("SUDO_USER")
        return f"drained by {user}" if user else "drained by hand"
