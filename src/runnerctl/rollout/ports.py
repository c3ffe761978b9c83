"""What a rollout needs of a host: the one interface between deciding and doing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from runnerctl.errors import DataError

__all__ = ["Cause", "HostPort", "SlotNow", "SlotsPort", "slots_now"]


class Cause(msgspec.Struct, frozen=True):
    """Why a slot is on hold; ``by`` is ``operator``, ``health``, ``driver`` or ``upgrade``."""

    by: str
    reason: str


class SlotNow(msgspec.Struct, frozen=True):
    """One slot as its host sees it at this moment.

    ``active``: the listener's unit runs; ``busy``: a job runs in it; ``version``: the release whose copy is
    bound into the slot (what a start would run); ``agent_id``, ``runner_name`` and ``url`` are the
    registration's, None without one; with ``ephemeral`` that of its last one: each job has another.
    """

    name: str
    active: bool
    busy: bool
    causes: tuple[Cause, ...] = ()
    agent_id: int | None = None
    runner_name: str | None = None
    url: str | None = None
    version: str | None = None
    ephemeral: bool = False

    @property
    def registered(self) -> bool:
        """Whether the slot has a registration, or gets one whenever it starts."""
        return self.ephemeral or self.agent_id is not None

    @property
    def held(self) -> bool:
        """Whether anything keeps the slot from starting."""
        return bool(self.causes)


class SlotsPort(Protocol):
    """The slots of one host and their holds, as a drain acts on them.

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


class HostPort(SlotsPort, Protocol):
    """One host, as every rollout acts on it; what `SlotsPort` says of its methods is true of these too."""

    def install(self, *, version: str, url: str, sha256: str, token: str | None = None) -> None:
        """Bring a verified copy of a runner release to the host, beside those that are there."""
        ...

    def switch(self, slots: Sequence[str], version: str) -> None:
        """Let slots that do not run start with another installed release."""
        ...


def slots_now(reports: Sequence[dict[str, Any]], *, where: str) -> tuple[SlotNow, ...]:
    """What module ``runner_drain`` says of a host's slots. Raises DataError: a host may report anything."""
    try:
        return tuple(_slot_now(report) for report in reports)
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise DataError(
            f"the report of the host cannot be understood: {error}",
            where=where,
            remedy="look at .runner in the slots' directories on the host",
        ) from None


def _slot_now(report: dict[str, Any]) -> SlotNow:
    known = {name: report.get(name) for name in ("name", "active", "busy", "agent_id", "url", "version")}
    causes = [{"by": each["by"], "reason": each["reason"]} for each in report["causes"]]
    known |= {"runner_name": report.get("agent_name"), "ephemeral": report.get("mode") == "ephemeral"}
    return msgspec.convert({**known, "causes": causes}, SlotNow)
