"""What the service's loop itself does with the store: it never waits, solves, parses or starts anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runnerctl.core.sections import Conda
from runnerctl.envs.ensure import Asked, hit
from runnerctl.envs.key import text_key
from runnerctl.envs.leases import Holder
from runnerctl.envs.model import HostFacts, Ready, Request
from runnerctl.envs.service_asks import Payload
from runnerctl.envs.store import Store, boot_id
from runnerctl.envs.store_use import Clock, keep
from runnerctl.errors import DataError

if TYPE_CHECKING:
    from runnerctl.envs.service import Sight

__all__ = ["FactsFound", "StoreShelf", "WorkOrder"]

FACTS_SECONDS = 300.0  # after which a driver that came or went is seen
_DRIVER = Path("/proc/driver/nvidia/version")


class WorkOrder(msgspec.Struct, frozen=True):
    """What a child is to do. ``root``: of the store; ``everything``: root asks, who may see all."""

    op: str
    payload: Payload
    root: str
    conda: Conda
    owner: str | None = None
    everything: bool = False
    credentials: str | None = None


class FactsFound(msgspec.Struct, frozen=True):
    """What a child found out about this host, and for which ``cuda`` of a request."""

    cuda: str
    driver: str
    facts: HostFacts


@dataclass
class StoreShelf:
    """The store at ``root``; facts of the host come from children, as a sick driver may hang who asks it."""

    root: Path
    say: Callable[[str], None] = lambda _text: None
    clock: Callable[[], float] = time.monotonic
    _facts: dict[str, tuple[FactsFound, float]] = field(default_factory=dict)
    _boot: str = field(default_factory=boot_id)

    def find(self, request: Request, sight: Sight, holder: Holder | None) -> Ready | None:
        """What is there for this very text, with a lease; None when a child must look."""
        found = self._facts.get(request.cuda)
        if found is None or self.clock() - found[1] > FACTS_SECONDS or found[0].driver != driver_line():
            return None
        channels = sight.policy.channels
        asked = Asked(
            request, found[0].facts, channels, owner=sight.owner, everything=sight.asker.kind == "root"
        )
        if not self._is_checked(asked, sight):
            return None
        return hit(Store(self.root), asked, holder=holder, clock=self._clock())

    def _is_checked(self, asked: Asked, sight: Sight) -> bool:
        """Whether what may be there was looked at in this boot: to look at it takes a while."""
        name = text_key(asked.request, asked.facts, asked.policy.fingerprint())
        for store in self._visible(sight):
            text = store.text(name)
            solved = store.solved(text.key) if text else None
            found = store.published(solved.digest) if solved else None
            if found is not None:
                return (
                    found.boot_id == self._boot or _line(store.root / "checked" / found.digest) == self._boot
                )
        return False

    def _visible(self, sight: Sight) -> tuple[Store, ...]:
        store = Store(self.root)
        if sight.owner is None:
            return store.all() if sight.asker.kind == "root" else (store,)
        return store, store.owned(sight.owner)

    def _clock(self) -> Clock:
        return Clock(now=time.time, ticks=time.monotonic, boot=self._boot)

    def keep(self, digest: str, sight: Sight, holder: Holder) -> bool:
        """Keep an environment while a process lives; False when it is not there for this asker."""
        return any(
            store.published(digest) is not None and keep(store, digest, holder, self._clock())
            for store in self._visible(sight)
        )

    def order(self, op: str, payload: Payload, sight: Sight) -> bytes:
        """The line that a child gets."""
        work = WorkOrder(
            op=op,
            payload=payload,
            root=str(self.root),
            conda=sight.policy.conda,
            owner=sight.owner,
            everything=sight.asker.kind == "root",
            credentials=sight.policy.channels.credentials,
        )
        return msgspec.json.encode(work) + b"\n"

    def learn(self, facts: dict[str, Any]) -> None:
        """What a child found out about this host."""
        try:
            found = msgspec.convert(facts, FactsFound)
        except msgspec.ValidationError:
            raise DataError("a child told facts that are none", where="environment store") from None
        if len(self._facts) >= 64:  # versions are the askers' to choose
            self._facts.clear()
        self._facts[found.cuda] = (found, self.clock())


def driver_line() -> str:
    """Which NVIDIA driver is loaded, in its own words; empty without one."""
    return _line(_DRIVER)


def _line(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(4096).strip()
    except OSError:
        return ""
