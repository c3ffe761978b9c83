"""From a request to an environment that is there: found, linked or built, and never half of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runnerctl.envs.key import digest as digest_of
from runnerctl.envs.key import input_key, text_key
from runnerctl.envs.leases import Holder
from runnerctl.envs.model import (
    Activation,
    EnvironmentFile,
    Event,
    HostFacts,
    Ready,
    Request,
    Solution,
    Solved,
)
from runnerctl.envs.policy import Policy, Resolved
from runnerctl.envs.ports import Engine, Order, Tell
from runnerctl.envs.store import Store, boot_id
from runnerctl.envs.store_build import Build, build
from runnerctl.envs.store_locks import silent
from runnerctl.envs.store_room import make_room
from runnerctl.envs.store_use import Clock, Use
from runnerctl.errors import DataError, UnavailableError

__all__ = ["Asked", "Needed", "ensure", "hit", "peek"]

WAIT_SECONDS = 7200.0


class Asked(msgspec.Struct, frozen=True):
    """A request and everything that decides what it means here.

    ``owner``: for whom it is asked (the slot's owner at GitHub); ``everything``: root asks, who may see all.
    """

    request: Request
    facts: HostFacts
    policy: Policy
    owner: str | None = None
    everything: bool = False


class Needed(msgspec.Struct, frozen=True):
    """What is not there yet: the key to build, and whose store it would go to."""

    key: str
    owner: str | None = None


class _Meant(msgspec.Struct, frozen=True):
    """A request that was read. ``request`` has just the files that its pip section leads to."""

    request: Request
    file: EnvironmentFile
    resolved: Resolved
    key: str


def hit(
    store: Store, asked: Asked, *, holder: Holder | None = None, clock: Clock | None = None
) -> Ready | None:
    """What is there for this very text; None when somebody must read it. No parser is loaded."""
    use = _use(holder, clock, silent)
    name = text_key(asked.request, asked.facts, asked.policy.fingerprint())
    for each in _visible(store, asked):
        text = each.text(name)
        if text is None:
            continue
        refresh = asked.request.refresh_seconds
        ready = use.solved(each, text.key, refresh_seconds=refresh, name=text.name)
        if ready is not None:
            return ready
    return None


def peek(
    store: Store, asked: Asked, *, holder: Holder | None = None, clock: Clock | None = None
) -> Ready | Needed:
    """What is there for what the text means; or what would have to be built. Builds nothing.

    Raises what `ensure` raises for a file that cannot be used.
    """
    use = _use(holder, clock, silent)
    meant = _read(asked)
    mine = _mine(store, meant)
    ready = _known(mine, asked, meant, use)
    return ready or Needed(meant.key, meant.resolved.owner)


def ensure(
    store: Store,
    asked: Asked,
    engine: Engine,
    *,
    tell: Tell = silent,
    holder: Holder | None = None,
    activate: Callable[[Path], Activation] | None = None,
    clock: Clock | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> Ready:
    """The environment of a request. Who asks for the same meanwhile waits, at most ``wait_seconds``.

    ``activate``: what activating a prefix would do, for an engine that does not say so itself. Raises
    DataError (the file), AccessError (another owner's channel), UnavailableError (a channel, the disk),
    TryAgainError (no space, another build takes too long), ConfigError (an extra is missing).
    """
    found = hit(store, asked, holder=holder, clock=clock)
    if found is not None:
        return found
    use = _use(holder, clock, tell)
    meant = _read(asked)
    mine = _mine(store, meant)
    mine.prepare()
    ready = _known(mine, asked, meant, use)
    if ready is not None:
        return ready
    run = _Run(store, mine, asked, meant, engine, use, wait_seconds, activate)
    with mine.lock(f"s-{meant.key}", seconds=wait_seconds, what=run.what, tell=tell):
        return _known(mine, asked, meant, use) or run.solve_and_build()


@dataclass(frozen=True)
class _Run:
    """One solve and build, under the lock of its key. ``mine``: the store that it goes to."""

    store: Store
    mine: Store
    asked: Asked
    meant: _Meant
    engine: Engine
    use: Use
    wait_seconds: float
    activate: Callable[[Path], Activation] | None

    @property
    def what(self) -> str:
        return f"solving and building {self.meant.file.where}"

    def solve_and_build(self) -> Ready:
        file, tell = self.meant.file, self.use.tell
        tell(Event("solve", file.where))
        order = self._order()
        solution = self.engine.solve(order, tell)
        digest = digest_of(solution, file, self.meant.request, pip_index=order.pip_index)
        solved = Solved(self.meant.key, digest, self.use.clock.now(), file.variables, file.name)
        with self.mine.lock(f"e-{digest}", seconds=self.wait_seconds, what=self.what, tell=tell):
            ready = self.use.digest(self.mine, solved, name=file.name, status="linked", locked=True)
            ready = ready or self._build(order, solution, solved)
        self.mine.remember_solved(solved)
        _remember(self.mine, self.asked, self.meant)
        return ready

    def _build(self, order: Order, solution: Solution, solved: Solved) -> Ready:
        clock, tell = self.use.clock, self.use.tell
        make_room(self.store, self.mine, solution, policy=self.asked.policy, clock=clock)
        build(
            Build(
                store=self.mine,
                digest=solved.digest,
                engine=self.engine,
                order=order,
                solution=solution,
                engine_name=self.asked.request.engine,
                boot=clock.boot,
                now=clock.now,
                tell=tell,
                activate=self.activate,
            )
        )
        ready = self.use.digest(self.mine, solved, name=self.meant.file.name, status="built", locked=True)
        if ready is None:
            remedy = "see who else changes files in the store"
            raise UnavailableError(
                "an environment vanished as it was built", where=str(self.mine.root), remedy=remedy
            )
        return ready

    def _order(self) -> Order:
        policy, resolved = self.asked.policy, self.meant.resolved
        # Credentials go with an owner's own channels only: a channel of somebody else on the same server
        # would be given them too.
        secret = Path(policy.credentials) if policy.credentials and resolved.owner else None
        return Order(
            file=self.meant.file,
            channels=resolved.channels,
            facts=self.asked.facts,
            caches=self.mine.caches,
            lock=self.meant.request.lock,
            files=self.meant.request.files,
            credentials=secret,
            pip_index=policy.pip_index,
            anyway=policy.anyway,
        )


def _use(holder: Holder | None, clock: Clock | None, tell: Tell) -> Use:
    clock = clock or Clock(now=time.time, ticks=time.monotonic, boot=boot_id())
    return Use(clock=clock, began=clock.ticks(), holder=holder, tell=tell)


def _visible(store: Store, asked: Asked) -> tuple[Store, ...]:
    """Everybody's, and one's own: nobody finds what another owner's channels made."""
    if asked.everything and asked.owner is None:
        return store.all()
    return (store, store.owned(asked.owner)) if asked.owner else (store,)


def _mine(store: Store, meant: _Meant) -> Store:
    return store.owned(meant.resolved.owner) if meant.resolved.owner else store


def _read(asked: Asked) -> _Meant:
    """Read the file and everything that it leads to. Raises DataError, AccessError, ConfigError."""
    from runnerctl.envs.file import parse
    from runnerctl.envs.file_pip import check_files

    request = asked.request
    file = parse(request.text, request.where)
    names = check_files(file.pip, request.files, file.where)
    request = msgspec.structs.replace(request, files={name: request.files[name] for name in names})
    if file.platforms and asked.facts.subdir not in file.platforms:
        what = f"is for {', '.join(file.platforms)}, and this host is {asked.facts.subdir}"
        raise DataError(what, where=file.where, remedy=f"add {asked.facts.subdir} to platforms")
    resolved = asked.policy.resolve(file, owner=asked.owner, everything=asked.everything)
    index = asked.policy.pip_index
    key = input_key(file, resolved.channels, asked.facts, request, pip_index=index)
    return _Meant(request, file, resolved, key)


def _known(mine: Store, asked: Asked, meant: _Meant, use: Use) -> Ready | None:
    refresh = asked.request.refresh_seconds
    ready = use.solved(mine, meant.key, refresh_seconds=refresh, name=meant.file.name)
    if ready is not None:
        _remember(mine, asked, meant)
    return ready


def _remember(mine: Store, asked: Asked, meant: _Meant) -> None:
    """Next time this text is a hit without a parser; who may only read the store does without."""
    name = text_key(asked.request, asked.facts, asked.policy.fingerprint())
    with contextlib.suppress(OSError):
        mine.remember_text(name, meant.key, meant.file.name)
