"""Drain and resume on the host itself: its own holds, and routing on GitHub where there is a credential."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import (
    HEALTH,
    OPERATOR,
    Cause,
    Hold,
    Holds,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot import known_slots

from runnerctl.cli.context import Context
from runnerctl.cli.host import Done, Slots, host_errors
from runnerctl.cli.local import require_slot, unit_name
from runnerctl.cli.remote import has_credential
from runnerctl.errors import RunnerctlError, TryAgainError
from runnerctl.hostfile import load_host_spec

if TYPE_CHECKING:
    from runnerctl.rollout.lanes import Lanes
    from runnerctl.rollout.ports import Cause as RolloutCause
    from runnerctl.rollout.ports import SlotNow

__all__ = ["Desk", "Here", "here"]

NOT_RESTORED = (
    "there is no GitHub credential: where routing was cut it stays so, and no job comes, until a resume "
    "with one or the next provision"
)


def here(context: Context, slots: Sequence[str] | None, *, routing: bool) -> Here:
    """The slots named, or all. Raises AccessError unless run as root, ConfigError for an unknown slot."""
    host = Slots(context)
    for slot in slots or ():
        require_slot(context.paths, load_host_spec(context.paths.host_file), slot)
    names = known_slots(host.layout) if slots is None else list(dict.fromkeys(slots))
    return Here(context, host, names, routing=routing)


@dataclass
class Here:
    """Some slots of this host. ``routing``: cut and restore it, if the environment has a credential."""

    context: Context
    host: Slots
    slots: list[str]
    routing: bool

    @cached_property
    def holds(self) -> Holds:
        """The holds of this host."""
        return Holds(self.host.layout, self.host.system)

    def drain(self, reason: str | None, *, seconds: float | None, wait: bool, quiet: float | None) -> Done:
        """Hold the slots; with ``wait``, until they have run dry. Raises TryAgainError after ``seconds``."""
        if self._routes():
            return self._drain_routed(reason, seconds=seconds, wait=wait, quiet=quiet)
        if self.routing:
            self.context.note("runnerctl: routing is not cut: there is no GitHub credential")
        desks = self._desks()
        done = _each(desks, lambda desk: desk.drain(reason, seconds=0.0, wait=False))
        if wait:
            deadline = None if seconds is None else self.host.clock() + seconds
            busy = [desk for desk in desks if desk.runs()]
            done.actions += _each(busy, lambda desk: desk.finish(self._left(deadline))).actions
        return done

    def finish(self, seconds: float | None) -> Done:
        """Wait for the jobs of held slots and stop them. Raises TryAgainError after ``seconds``."""
        return _each(self._desks(), lambda desk: desk.finish(seconds))

    def _left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - self.host.clock())

    def resume(self, *, force: bool) -> Done:
        """Lift the operator's hold, with ``force`` every hold, start the slots, and route jobs to them.

        Raises TryAgainError for what something else holds, UnavailableError for what does not come online.
        """
        done, held = Done(), None
        try:
            done = _each(self._desks(), lambda desk: desk.resume(force=force))
        except RunnerctlError as error:
            held = error  # the other slots run: they are to get their jobs
        if self._routes():
            done.actions += self._restore(refused=held is None)
        elif self.routing:
            self.context.note(f"runnerctl: {NOT_RESTORED}")
        if held is not None:
            raise held
        return done

    def _restore(self, *, refused: bool) -> list[str]:
        """Wait until the slots are online and route jobs to them; what was done.

        With ``refused`` it raises TryAgainError or UnavailableError for a slot that is not back.
        """
        from runnerctl.rollout.resume import Resume
        from runnerctl.rollout.verdict import refuse

        engine = Resume(_Port(self), self._lanes(), sleep=self.context.sleep, tell=self._tell)
        with host_errors():
            states = engine.run(self.slots, seconds=self.host.spec.github_runner.online_timeout_seconds)
        if refused:
            refuse(self.host.spec.host, states)
        return engine.actions

    def _drain_routed(
        self, reason: str | None, *, seconds: float | None, wait: bool, quiet: float | None
    ) -> Done:
        from runnerctl.rollout.drain import Drain
        from runnerctl.rollout.verdict import refuse

        spec = self.host.spec
        quiet = spec.github_runner.drain_quiet_seconds if quiet is None else quiet
        engine = Drain(_Port(self), self._lanes(), quiet, sleep=self.context.sleep, tell=self._tell)
        engine.reason = reason or None
        limit = float("inf") if seconds is None else seconds
        with host_errors():
            states = engine.run(self.slots, wait=wait, seconds=limit)
        refuse(spec.host, states, seconds=limit if wait else None)
        for each in states:
            if each.state == "busy":
                self._tell(f"slot {each.slot} runs a job, and stops when it has ended")
        shown = [{"slot": each.slot, "hold_reason": each.reason} for each in states]
        return Done(slots=shown, actions=engine.actions)

    def _routes(self) -> bool:
        return self.routing and has_credential(self.context)

    def _lanes(self) -> Lanes:
        from runnerctl.cli.host_network import host_network
        from runnerctl.reconcile import Fleet
        from runnerctl.rollout.lanes import Lanes

        env = host_network(self.host.spec, self.context.env)
        fleet = Fleet(self.host.spec, env, sleep=self.context.sleep)
        return Lanes(fleet, note=self._tell)

    def _tell(self, text: str) -> None:
        from runnerctl.cli.output import escape

        self.context.note(f"runnerctl: {escape(text)}")

    def _desks(self) -> list[Desk]:
        return [Desk(self.context, slot, self.holds) for slot in self.slots]


class _Port:
    """This host, as a rollout acts on it."""

    def __init__(self, place: Here) -> None:
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.drain import Drains

        self.host = place.host.spec.host
        self.drains = Drains(place.host.layout, place.host.system, holds=place.holds)

    def observe(self) -> tuple[SlotNow, ...]:
        """Every slot of the host, now."""
        from runnerctl.rollout.ports import slots_now

        return slots_now(self.drains.observe(), where=self.host)

    def hold(self, slots: Sequence[str], cause: RolloutCause) -> None:
        """Add the cause. An idle listener stops at once, a busy one when its job has ended."""
        self.drains.hold(slots, by=cause.by, reason=cause.reason)

    def release(self, slots: Sequence[str], *, by: str) -> None:
        """Take away the causes that ``by`` gave, and start what nothing else holds."""
        self.drains.release(slots, by=by)


@dataclass(frozen=True)
class Desk:
    """One slot and its holds."""

    context: Context
    slot: str
    holds: Holds

    def drain(self, reason: str | None, *, seconds: float | None, wait: bool) -> Done:
        """Hold the slot; with ``wait``, until it has run dry. Raises TryAgainError after ``seconds``."""
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

    def runs(self) -> bool:
        """Whether the slot's listener runs. Raises UnavailableError."""
        unit = unit_name(self.context.paths, self.slot)
        with host_errors():
            return self.holds.system.unit_states([unit])[unit].running

    def finish(self, seconds: float | None) -> Done:
        """Wait for the job of a held slot and stop it. Raises TryAgainError after ``seconds``."""
        with host_errors():
            ended = self.holds.finish(self.slot, seconds=seconds)
        if not ended:
            remedy = "it stops when its job has ended; `runnerctl list` shows it"
            raise TryAgainError("still runs a job", where=f"slot {self.slot}", remedy=remedy)
        stopped = self.holds.get(self.slot) is not None
        return self._shown(Done(actions=[f"slot {self.slot} is stopped"] if stopped else []))

    def resume(self, *, force: bool) -> Done:
        """Lift the operator's hold, with ``force`` every hold, and start the slot. Raises TryAgainError."""
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


def _each(desks: Iterable[Desk], do: Callable[[Desk], Done]) -> Done:
    """What was done for several slots, as one: all are tried, and the first error is raised at the end."""
    done, errors = Done(), []
    for desk in desks:
        try:
            part = do(desk)
        except RunnerctlError as error:
            errors.append(error)
            continue
        done.slots += part.slots
        done.actions += part.actions
    if errors:
        raise errors[0]
    return done
