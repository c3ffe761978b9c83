"""Does a started slot really run the release? Host and GitHub are asked until both agree, or time is up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from runnerctl.errors import RunnerctlError
from runnerctl.rollout.ports import HostPort, SlotNow
from runnerctl.rollout.upgrade_ports import Pace, Routes

__all__ = ["Proof", "prove"]


class Proof(msgspec.Struct):
    """Slots that run the release, those that do not with the reason, and those nobody could judge."""

    good: list[str] = []
    bad: dict[str, str] = {}
    unjudged: list[str] = []
    note: str = ""

    def with_bad(self, more: Mapping[str, str]) -> Proof:
        """The same, with slots that failed before they could be asked."""
        return msgspec.structs.replace(self, bad={**more, **self.bad})


class _Watch:
    """One slot under proof. ``since``: when GitHub first said yes; ``asked``: whether it answered at all."""

    def __init__(self, slot: SlotNow) -> None:
        self.slot = slot
        self.since: float | None = None
        self.asked = False
        self.said = "GitHub does not show it online"
        self.blind = False  # this server tells no versions


def prove(
    host: HostPort,
    routes: Routes,
    *,
    slots: Sequence[SlotNow],
    version: str,
    pace: Pace,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> Proof:
    """Wait until the slots are online with ``version``, and stay so for ``pace.settle`` seconds.

    A listener that is refused connects, prints that it listens, and ends: one look proves nothing. Where
    the server gives no version (GitHub Enterprise Server), the host's word for it counts. An unanswering
    GitHub is no fault of the release: such slots are ``unjudged``. Raises RunnerctlError when the host
    cannot be asked.
    """
    proof, watches = Proof(), {slot.name: _Watch(slot) for slot in slots}
    start = looked = clock()
    while watches:
        for watch in watches.values():
            _ask(watch, routes, version, proof, now=clock())
        now = clock()
        due = any(watch.since is not None and now - watch.since >= pace.settle for watch in watches.values())
        late = now - start >= pace.online
        if due or late or now - looked >= pace.look:
            looked = now
            _look(host, watches, version, pace, proof, now=now)
        if late:
            _expire(watches, pace, proof)
        if watches:
            sleep(pace.poll)
    return proof


def _ask(watch: _Watch, routes: Routes, version: str, proof: Proof, *, now: float) -> None:
    try:
        seen = routes.look(watch.slot)
    except RunnerctlError as error:
        proof.note = f"GitHub cannot be asked: {error}"
        watch.asked = False  # what it said before is too old to judge by
        return
    watch.asked = True
    if seen is None or not seen.online:
        watch.since, watch.said = None, "GitHub does not show it online"
    elif seen.version not in (version, None):
        watch.since, watch.said = None, f"GitHub shows it online with {seen.version}"
    elif watch.since is None:
        watch.since = now
    watch.blind = seen is not None and seen.version is None


def _look(
    host: HostPort, watches: dict[str, _Watch], version: str, pace: Pace, proof: Proof, *, now: float
) -> None:
    for slot in host.observe():
        watch = watches.get(slot.name)
        if watch is None:
            continue
        if slot.held:  # somebody took it out meanwhile: their business, and no fault of the release
            proof.good.append(slot.name)
            del watches[slot.name]
        elif not slot.active:
            proof.bad[slot.name] = f"its listener ended with {version}"
            del watches[slot.name]
        elif slot.version != version:
            watch.since, watch.said = None, f"the host starts it with {slot.version}"
        elif watch.since is not None and now - watch.since >= pace.settle:
            proof.good.append(slot.name)
            if watch.blind:
                proof.note = "the version is the host's word: GitHub does not tell it"
            del watches[slot.name]


def _expire(watches: dict[str, _Watch], pace: Pace, proof: Proof) -> None:
    for name, watch in list(watches.items()):
        if watch.since is not None:
            continue  # it is online: only the settling is left
        if watch.asked:
            proof.bad[name] = f"{watch.said} after {pace.online:.0f} s"
        else:
            proof.unjudged.append(name)
        del watches[name]
