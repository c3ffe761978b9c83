"""A host and GitHub as an upgrade sees them, in memory and in a time that only sleeping moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runnerctl.errors import UnavailableError
from runnerctl.reconcile import Release
from runnerctl.rollout.ports import Cause, SlotNow
from runnerctl.rollout.upgrade import Upgrade
from runnerctl.rollout.upgrade_ports import HostNotes, Pace, Refusal, Seen, SlotResult

OLD, NEW = "2.336.0", "2.337.0"
HOOK_SECONDS = 8.0  # a job has passed the hook by then
PACE = Pace(quiet=75, wait=3600, online=120, settle=10, look=5, poll=1)


class Killed(BaseException):
    """SIGKILL of the controller."""


@dataclass
class ModelSlot:
    """One slot. ``job_begins``, ``job_ends``: those of its job; ``began``: when its listener was started."""

    name: str
    version: str = OLD
    active: bool = True
    began: float = -1000.0
    job_ends: float = -1.0
    job_begins: float = -1000.0
    cut: bool = False
    causes: list[Cause] = field(default_factory=list)
    registered: bool = True


class Model:
    """`UpgradeHost` and `Routes` in one. ``bad``: release -> exits, refused, silent; ``dead``: network down.

    ``before`` is called with the name of each operation; ``most`` slots may be cut at once.
    """

    def __init__(self, *slots: ModelSlot, bad: Mapping[str, str] | None = None, most: int = 99) -> None:
        self.slots = {slot.name: slot for slot in slots}
        self.bad = dict(bad or {})
        self.most = most
        self.now = 0.0
        self.remembered = HostNotes(installed=(OLD,))
        self.before: Callable[[str], None] = lambda _: None
        self.log: list[str] = []
        self.killed_jobs = 0
        self.dead: set[str] = set()
        self.blind = False
        self.most_cut = 0
        self.host = "h1"

    # -- time

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._settle()

    def _settle(self) -> None:
        for slot in self.slots.values():
            lifetime = {"exits": 0.0, "refused": 3.0}.get(self.bad.get(slot.version, ""))
            if slot.active and lifetime is not None and self.now - slot.began > lifetime:
                slot.active = False
            if slot.active and slot.causes and not self._busy(slot):
                slot.active = False

    def _busy(self, slot: ModelSlot) -> bool:
        return slot.active and slot.job_begins <= self.now < slot.job_ends

    def _do(self, operation: str) -> None:
        self.before(operation)
        self.log.append(operation)

    # -- the host

    def observe(self) -> tuple[SlotNow, ...]:
        self.before("observe")
        self._settle()
        return tuple(
            SlotNow(
                slot.name,
                active=slot.active,
                busy=self._busy(slot),
                causes=tuple(slot.causes),
                agent_id=7 if slot.registered else None,
                version=slot.version,
            )
            for slot in self.slots.values()
        )

    def hold(self, slots: Sequence[str], cause: Cause) -> None:
        self._do(f"hold {','.join(slots)}")
        for name in slots:
            slot = self.slots[name]
            # The hook turns a job away that has not passed it yet.
            self.killed_jobs += self._busy(slot) and self.now - slot.job_begins < HOOK_SECONDS
            slot.causes = [each for each in slot.causes if each.by != cause.by] + [cause]
        self._settle()

    def release(self, slots: Sequence[str], *, by: str) -> None:
        self._do(f"release {','.join(slots)}")
        for name in slots:
            slot = self.slots[name]
            slot.causes = [each for each in slot.causes if each.by != by]
            if not slot.causes and not slot.active:
                slot.active, slot.began = True, self.now

    def install(self, *, version: str, url: str, sha256: str, token: str | None = None) -> None:
        self._do(f"install {version} {bool(url and sha256 and not token)}")

    def switch(self, slots: Sequence[str], version: str) -> None:
        self._do(f"switch {','.join(slots)} {version}")
        for name in slots:
            self.killed_jobs += self._busy(self.slots[name])
            assert not self.slots[name].active, "a listener runs"
            self.slots[name].version = version

    def notes(self) -> HostNotes:
        self.before("notes")
        return self.remembered

    def _remember(self, refused: Sequence[Refusal], previous: dict[str, str]) -> None:
        self.remembered = HostNotes(self.remembered.installed, tuple(refused), previous)

    def begin(self, slots: Mapping[str, str]) -> None:
        self._do("begin")
        self._remember(self.remembered.refused, {**slots, **self.remembered.previous})

    def finish(self, slots: Sequence[str]) -> None:
        self._do("finish")
        left = {name: old for name, old in self.remembered.previous.items() if name not in slots}
        self._remember(self.remembered.refused, left)

    def refuse(self, version: str, reason: str) -> None:
        self._do("refuse")
        self._remember([Refusal(version, reason)], self.remembered.previous)

    def allow(self, version: str) -> None:
        self._do(f"allow {version}")
        self._remember([], self.remembered.previous)

    # -- GitHub

    def look(self, slot: SlotNow) -> Seen | None:
        self.before("look")
        self._settle()
        mine = self.slots[slot.name]
        online = mine.active and self.bad.get(mine.version) != "silent" and mine.name not in self.dead
        version = None if self.blind else mine.version
        return Seen(online, self._busy(mine), mine.cut, version)

    def take(self, slots: Sequence[SlotNow]) -> tuple[str, ...]:
        self._do("take")
        taken = []
        for slot in slots:
            if self.slots[slot.name].cut or sum(each.cut for each in self.slots.values()) < self.most:
                self.slots[slot.name].cut = True
                taken.append(slot.name)
        self.most_cut = max(self.most_cut, sum(each.cut for each in self.slots.values()))
        return tuple(taken)

    def restore(self, slots: Sequence[SlotNow]) -> None:
        self._do(f"restore {','.join(slot.name for slot in slots)}")
        for slot in slots:
            self.slots[slot.name].cut = False

    # -- a run

    def engine(self, *, retry: bool = False, target: str = NEW, pace: Pace = PACE) -> Upgrade:
        """The engine over this model."""
        release = Release(target, url="https://example.org/r.tar.gz", sha256="a" * 64)
        return Upgrade(self, self, release, pace=pace, retry=retry, sleep=self.sleep, clock=self.clock)

    def run(self, *, retry: bool = False, pace: Pace = PACE) -> dict[str, SlotResult]:
        """One run of the engine."""
        return {each.slot: each for each in self.engine(retry=retry, pace=pace).run()}

    def plan(self) -> tuple[SlotResult, ...]:
        """What it would do."""
        return self.engine().plan()

    def well(self, version: str) -> list[str]:
        """What is not as it should be after all: nothing on hold or cut, all active with ``version``."""
        wrong = [f"left: {self.remembered.previous}"] if self.remembered.previous else []
        for slot in self.slots.values():
            state = (slot.version, slot.active, slot.cut, slot.causes)
            wrong += [] if state == (version, True, False, []) else [f"{slot.name}: {state}"]
        return wrong + ([f"{self.killed_jobs} jobs killed"] if self.killed_jobs else [])


def fails(*operations: str, times: int = 10**6) -> Callable[[str], None]:
    """A ``before`` that lets operations fail whose name begins so."""
    left = iter(range(times))

    def before(operation: str) -> None:
        if operation.startswith(operations) and next(left, None) is not None:
            raise UnavailableError("no answer", where=operation)

    return before


def dies_at(number: int) -> Callable[[str], None]:
    """A ``before`` that kills the controller ahead of operation ``number``."""
    calls = iter(range(10**6))

    def before(operation: str) -> None:
        if next(calls) == number:
            raise Killed(operation)

    return before
