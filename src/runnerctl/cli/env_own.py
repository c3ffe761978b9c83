"""A store that the user owns: the same functions as the host's service has, called in this process.

Solving and building happen in a child all the same: it may be ended, and what a solver does to its process
stays there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runnerctl.envs.model import EngineName, Event, Request
from runnerctl.envs.store import Store

if TYPE_CHECKING:
    from runnerctl.cli.context import Context
    from runnerctl.cli.env_shown import Asked, Progress
    from runnerctl.envs.ensure import Asked as Question
    from runnerctl.envs.leases import Holder
    from runnerctl.envs.ports import Engine, Tell

__all__ = ["OwnStore"]


class OwnStore:
    """A store at ``place``, made when it is first written to. See `env_access.Access`."""

    def __init__(self, place: str, context: Context) -> None:
        self.place = place
        self._context = context
        self._store = Store(Path(place))

    def ensure(self, asked: Asked, progress: Progress) -> dict[str, Any]:
        """See `env_access.Access`."""
        from runnerctl.envs.ensure import ensure

        tell = _teller(progress)
        ready = ensure(self._store, self._question(asked), _engine(asked), tell=tell, holder=_holder())
        return _plain(ready)

    def lock(self, asked: Asked, progress: Progress) -> dict[str, Any]:
        """See `env_access.Access`."""
        from runnerctl.envs.locking import lock_of

        return _plain(lock_of(self._store, self._question(asked), _engine(asked), tell=_teller(progress)))

    def environments(self) -> list[dict[str, Any]]:
        """See `env_access.Access`."""
        from runnerctl.envs.listed import listed

        return listed(self._store.all(), now=self._context.clock())

    def verify(self, digest: str | None, *, full: bool, progress: Progress) -> list[dict[str, Any]]:
        """See `env_access.Access`."""
        from runnerctl.envs.verifying import verified

        return verified(self._store.all(), digest, full=full, tell=_teller(progress))

    def gc(self, budget_bytes: int | None, keep_seconds: float | None, *, dry_run: bool) -> dict[str, Any]:
        """See `env_access.Access`."""
        from runnerctl.envs.gc import Limits, collect

        limits = Limits(budget_bytes=budget_bytes, keep_seconds=keep_seconds)
        return _plain(collect(self._store, limits, now=self._context.clock(), dry_run=dry_run))

    def _question(self, asked: Asked) -> Question:
        from runnerctl.cli.env_shown import request_of
        from runnerctl.envs.ensure import Asked as Question
        from runnerctl.envs.facts import host_facts
        from runnerctl.envs.policy import Policy

        request = msgspec.convert(request_of(asked), Request)
        facts = host_facts(asked.cuda, cache=Path(self.place) / "cuda.json", environ=self._context.env)
        return Question(request, facts, Policy(anyway=True), everything=True)


def _engine(asked: Asked) -> Engine:
    from runnerctl.envs.engine_child import ChildEngine

    return ChildEngine(msgspec.convert(asked.engine, EngineName))


def _holder() -> Holder | None:
    from runnerctl.envs.leases import job_holder

    return job_holder(os.getpid())


def _teller(progress: Progress) -> Tell:
    def tell(event: Event) -> None:
        progress(msgspec.to_builtins(event))

    return tell


def _plain(value: Any) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(value)
    return made
