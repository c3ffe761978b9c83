"""What an upgrade needs beyond `runnerctl.rollout.ports`: a host's notes of releases, and GitHub's view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from runnerctl.rollout.ports import HostPort, SlotNow

__all__ = ["BY", "HostNotes", "Pace", "Refusal", "Result", "Routes", "Seen", "SlotResult", "UpgradeHost"]

BY = "upgrade"  # the name under which an upgrade holds slots

Result = Literal[
    "upgraded", "current", "rolled back", "busy", "refused", "skipped", "failed", "stranded", "would upgrade"
]


class Refusal(msgspec.Struct, frozen=True):
    """A release that was rolled back on this host; ``refused_at`` is RFC 3339, UTC."""

    version: str
    reason: str
    refused_at: str = ""


class HostNotes(msgspec.Struct, frozen=True):
    """What a host remembers.

    ``installed``: complete releases; ``refused``: those that did not work here; ``previous``: for each slot
    whose upgrade is not proven yet, the release it ran before.
    """

    installed: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    previous: dict[str, str] = {}

    def refusal(self, version: str) -> Refusal | None:
        """Why ``version`` is refused here, or None."""
        return next((each for each in self.refused if each.version == version), None)


class UpgradeHost(HostPort, Protocol):
    """A host with its notes. Every method may be repeated after a crash."""

    def notes(self) -> HostNotes:
        """What the host remembers, now."""
        ...

    def begin(self, slots: Mapping[str, str]) -> None:
        """Note the release that each slot goes back to; a note that is there already stays."""
        ...

    def finish(self, slots: Sequence[str]) -> None:
        """Forget those notes: the slots are proven."""
        ...

    def refuse(self, version: str, reason: str) -> None:
        """Remember that a release does not work here."""
        ...

    def allow(self, version: str) -> None:
        """Forget that."""
        ...


class Seen(msgspec.Struct, frozen=True):
    """GitHub's record of a slot. ``version`` is None where the server tells none; ``cut``: out of routing."""

    online: bool
    busy: bool
    cut: bool = False
    version: str | None = None


class Routes(Protocol):
    """GitHub, as an upgrade acts on it. Methods raise RunnerctlError."""

    def look(self, slot: SlotNow) -> Seen | None:
        """The slot's record, now; None when there is none."""
        ...

    def take(self, slots: Sequence[SlotNow]) -> tuple[str, ...]:
        """Cut slots from routing, as many as the circuit breaker allows at this moment; their names.

        Slots that are out of service already cost nothing. Nobody else takes any in between.
        """
        ...

    def restore(self, slots: Sequence[SlotNow]) -> None:
        """Give slots the labels and the group of their spec again."""
        ...


class Pace(msgspec.Struct, frozen=True):
    """How long everything may take, in seconds.

    ``quiet``: between the cut and the stop (GitHub hands a job out for up to 60 s); ``wait``: for running
    jobs, and for the breaker; ``online``: for GitHub to show a started runner; ``settle``: how long it must
    stay so, since a refused listener connects before it ends; ``begin``: how long a worker must have been
    seen, since a hold fails a job that has only just begun; ``look`` and ``poll``: between two questions to
    the host and to GitHub.
    """

    quiet: float = 75.0
    wait: float = 3600.0
    online: float = 120.0
    settle: float = 10.0
    begin: float = 10.0
    look: float = 5.0
    poll: float = 1.0


class SlotResult(msgspec.Struct, frozen=True):
    """What became of one slot. ``was`` and ``now`` are releases, ``seconds`` it was out of service.

    ``busy``: whether a job ran when it was last looked at.
    """

    slot: str
    result: Result
    was: str | None = None
    now: str | None = None
    seconds: float = 0.0
    note: str = ""
    busy: bool = False
