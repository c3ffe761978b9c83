"""Bring parked slots of one host online for a moment, so that GitHub keeps their records.

A record lives only while its runner connects now and then. Each slot is cut from routing first, started
although it is on hold, seen online by GitHub, stopped, and given back the labels and the group it had. Its
hold stays all the while. No job is ended: one that comes all the same runs to its end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import msgspec

from runnerctl.core.plan import Record
from runnerctl.errors import RunnerctlError
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.ports import SlotNow
from runnerctl.rollout.routing import is_cut, restore

__all__ = ["Touch", "TouchPort", "Touched"]

POLL_SECONDS = 1.0
ATTEMPTS = 2  # the host's own timer stops held slots that run, once a minute: it may come in between
UNDER_WORK = frozenset({"driver", "upgrade"})  # holds of work in progress, over soon


class TouchPort(Protocol):
    """One host. Every method is bounded by a deadline of its own and raises RunnerctlError."""

    def observe(self) -> tuple[SlotNow, ...]:
        """Every slot of the host, now."""
        ...

    def start(self, slot: str) -> bool:
        """Start the listener, on hold or not; False when it runs already."""
        ...

    def stop(self, slot: str) -> str:
        """Stop the listener of a held slot: ``stopped``, or ``busy`` when it runs a job, which is left alone.

        One that nothing holds, or nothing any more, is left ``running``.
        """
        ...


class Touched(msgspec.Struct, frozen=True):
    """What became of one slot.

    ``outcome``: ``touched`` (it was online), ``job_taken`` (it was online and a job came), ``not_online``,
    ``skipped`` or ``failed``; ``reason`` says why.
    """

    slot: str
    runner_name: str
    outcome: str
    reason: str = ""


class Touch:
    """The slots of one host, one after the other. ``seconds`` is how long each may take to come online."""

    def __init__(
        self,
        host: TouchPort,
        lanes: Lanes,
        *,
        seconds: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.lanes = lanes
        self.seconds = seconds
        self.sleep = sleep
        self.clock = clock

    def run(self, runners: Collection[str] = ()) -> tuple[Touched, ...]:
        """Touch the slots of these runner names, or all that do not run. Raises only when it cannot look."""
        wanted = {name.lower() for name in runners}
        done = []
        for now in self.host.observe():
            name = self.lanes.runner_name(now.name)
            if wanted and name.lower() not in wanted:
                continue
            try:
                outcome, reason = self._slot(now)
            except RunnerctlError as error:
                outcome, reason = "failed", str(error)
            done.append(Touched(now.name, name, outcome, reason))
        return tuple(done)

    def predict(self, runners: Collection[str] = ()) -> tuple[Touched, ...]:
        """The same slots, untouched."""
        wanted = {name.lower() for name in runners}
        named = [(now, self.lanes.runner_name(now.name)) for now in self.host.observe()]
        return tuple(
            Touched(now.name, name, "skipped", _why_not(now) or "would be started")
            for now, name in named
            if not wanted or name.lower() in wanted
        )

    def _slot(self, now: SlotNow) -> tuple[str, str]:
        if reason := _why_not(now):
            return "skipped", reason
        if now.active:  # on hold and idle: a controller that was killed left it so
            self.host.stop(now.name)
        record = self.lanes.record(now)
        if record is None:
            return "skipped", "GitHub has no record of it: the next converge registers it again"
        if record.online:
            return "skipped", "GitHub sees it online"
        self.lanes.prepare(now)
        with self._cut(now, record) as ended:
            online, state = self._touch(now.name, now, record.id)
            ended.append(state)
        if not online:
            return "not_online", f"was not online within {self.seconds:.0f} s: see its log on the host"
        if state == "busy":
            return (
                "job_taken",
                "a job came and is left alone; the slot stays cut from routing until resumed",
            )
        return "touched", "nothing holds it: it stays started" if state == "running" else ""

    @contextlib.contextmanager
    def _cut(self, now: SlotNow, record: Record) -> Iterator[list[str]]:
        """Out of routing, and back as it was: a slot that was drained before stays so.

        The caller adds how the slot ended; behind a job the runner stays cut, so that no second one comes.
        """
        ended: list[str] = []
        self.lanes.cut(now, record)
        try:
            yield ended
        finally:
            fresh = None if is_cut(record) or "busy" in ended else self.lanes.record(now)
            if fresh is not None:
                registry = self.lanes.fleet.registry(now.url or "")
                restore(registry, fresh, record.labels, record.group_id)

    def _touch(self, slot: str, now: SlotNow, runner_id: int) -> tuple[bool, str]:
        """Whether it was online, and how it ended. One on hold is stopped whatever happens."""
        online, state = False, "stopped"
        for _ in range(ATTEMPTS):
            try:
                self.host.start(slot)
                online = self._wait(now, runner_id)
            finally:
                state = self.host.stop(slot)
            if online or state == "busy":
                break
        return online, state

    def _wait(self, now: SlotNow, runner_id: int) -> bool:
        registry = self.lanes.fleet.registry(now.url or "")
        deadline = self.clock() + self.seconds / ATTEMPTS
        while True:
            runner = registry.runner(runner_id)
            if runner is not None and runner.online:
                return True
            if self.clock() >= deadline:
                return False
            self.sleep(POLL_SECONDS)


def _why_not(now: SlotNow) -> str | None:
    """Why a slot is left alone."""
    if now.ephemeral:
        return "is ephemeral: it gets a registration whenever it starts"
    if now.agent_id is None:
        return "is not registered: the next converge registers it"
    if now.active and (now.busy or not now.held):
        return "runs: if GitHub sees it offline, `runnerctl health` on its host says why"
    if busy_with := sorted({cause.by for cause in now.causes} & UNDER_WORK):
        return f"is held by {busy_with[0]}: work on it is in progress"
    return None
