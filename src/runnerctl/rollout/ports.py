"""What a rollout needs of a host: the one interface between deciding and doing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = ["Cause", "HostPort", "SlotNow"]


class Cause(msgspec.Struct, frozen=True):
    """Why a slot is on hold; ``by`` is ``operator``, ``health``, ``driver`` or ``upgrade``."""

    by: str
    reason: str


class SlotNow(msgspec.Struct, frozen=True):
    """One slot as its host sees it at this moment.

    ``active``: the listener's unit runs; ``busy``: a job runs in it; ``version``: the release whose copy is
    bound into the slot (what a start would run); ``agent_id``, ``runner_name`` and ``url`` are the
    registration's, None without one.
    """

    name: str
    active: bool
    busy: bool
    causes: tuple[Cause, ...] = ()
    agent_id: int | None = None
    runner_name: str | None = None
    url: str | None = None
    version: str | None = None

    @property
    def held(self) -> bool:
        """Whether anything keeps the slot from starting."""
        return bool(self.causes)


class HostPort(Protocol):
    """One host, as a rollout acts on it.

    Every method is bounded by a deadline of its own, may be repeated after a crash, and raises
    RunnerctlError. None of them ends a running job.
    """

    @property
    def host(self) -> str:
        """The name in the inventory."""
        ...

    def observe(self) -> tuple[SlotNow, ...]:
        """Every slot of the host, now."""
        ...

    def hold(self, slots: Sequence[str], cause: Cause) -> None:
        """Add the cause. An idle listener stops at once, a busy one when its job has ended."""
        ...

    def release(self, slots: Sequence[str], *, by: str) -> None:
        """Take away the causes that ``by`` gave, and start what nothing else holds."""
        ...

    def install(self, *, version: str, url: str, sha256: str, token: str | None = None) -> None:
        """Bring a verified copy of a runner release to the host, beside those that are there."""
        ...

    def switch(self, slots: Sequence[str], version: str) -> None:
        """Let slots that do not run start with another installed release."""
        ...
