"""What ``runnerctl list`` knows of each slot or runner, and which of them are asked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from runnerctl.core.labels import DRAINED, READ_ONLY

if TYPE_CHECKING:
    from runnerctl.cli.local import LocalSlot
    from runnerctl.github.models import Deprecation, Runner

__all__ = ["EXPIRING_DAYS", "SORTS", "STATES", "Expiry", "GpuState", "Row", "Wanted", "sort_rows"]

STATES = ("online", "offline", "absent", "busy", "idle", "held", "drained", "expiring")
SORTS = ("name", "host", "status", "busy", "group", "version", "expiry")
EXPIRING_DAYS = 14  # where no host says otherwise (runnerctl_health_version_expiry_warning_days)
DAY_SECONDS = 86400.0
_PARTS = re.compile(r"([^0-9]*)([0-9]*)")


@dataclass(frozen=True)
class Expiry:
    """When GitHub stops giving jobs to a version: ``ends`` is None where GitHub names no day."""

    ends: datetime | None
    days: int | None

    @staticmethod
    def of(answer: Deprecation | None, *, now: float) -> Expiry | None:
        """From GitHub's answer; None where it gave none. ``now``: seconds since 1970."""
        if answer is None:
            return None
        ends = answer.runtime_deprecates_at
        days = None if ends is None else int((ends.timestamp() - now) // DAY_SECONDS)
        return Expiry(ends, days)

    @property
    def text(self) -> str:
        """``43 d``, ``expired`` or ``no end``."""
        if self.days is None:
            return "no end"
        return "expired" if self.days < 0 else f"{self.days} d"

    @property
    def rfc3339(self) -> str | None:
        """The end as RFC 3339 in UTC."""
        return f"{self.ends.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}" if self.ends else None


@dataclass(frozen=True)
class GpuState:
    """The GPUs of a slot as the last round of the health verdict left them.

    ``out``: UUIDs that it took out of service; ``known``: whether there was a round lately.
    """

    count: int
    out: tuple[str, ...] = ()
    known: bool = False

    @property
    def text(self) -> str:
        """``2 in service``, ``1 of 2 out``, ``2 not known`` or ``none``."""
        if not self.count:
            return "none"
        if self.out:
            return f"{min(len(self.out), self.count)} of {self.count} out"
        return f"{self.count} {'in service' if self.known else 'not known'}"


@dataclass(frozen=True)
class Row:
    """One slot or runner; None: not known. ``asked``: GitHub was asked about it."""

    runner: str | None
    slot: str | None = None
    host: str | None = None
    local: LocalSlot | None = None
    record: Runner | None = None
    asked: bool = False
    group: str | None = None
    expiry: Expiry | None = None
    gpus: GpuState | None = None

    @property
    def status(self) -> str | None:
        """As GitHub sees it; ``absent`` where it has no record."""
        return self.record.status if self.record else "absent" if self.asked else None

    @property
    def busy(self) -> bool | None:
        """Whether a job runs: the host's own word first, since GitHub's lags behind."""
        if self.local is not None and self.local.busy is not None:
            return self.local.busy
        return self.record.busy if self.record else None

    @property
    def version(self) -> str | None:
        """The version that runs as GitHub knows it, else the one the host starts."""
        return (self.record.version if self.record else None) or (self.local.version if self.local else None)

    @property
    def custom(self) -> tuple[str, ...]:
        """The labels that people gave; without a record those that the spec wants."""
        if self.record:
            return tuple([label.name for label in self.record.labels if label.type == "custom"])
        return tuple(label for label in self.local.labels if label not in READ_ONLY) if self.local else ()

    @property
    def all_labels(self) -> frozenset[str]:
        """Every label, lower-cased."""
        if self.record:
            return self.record.all_labels()
        return frozenset(label.lower() for label in self.local.labels) if self.local else frozenset()

    @property
    def drained(self) -> bool | None:
        """Whether it was cut from routing."""
        return DRAINED in self.record.custom_labels() if self.record else None

    @property
    def held(self) -> bool | None:
        """Whether something keeps its listener from starting; only the host knows."""
        return self.local.hold_reason is not None if self.local else None

    @property
    def quarantine(self) -> str | None:
        """``held``, ``drained``, both, or ``no``; None where only the host could tell, and was not asked."""
        states = [word for word, state in (("held", self.held), ("drained", self.drained)) if state]
        if states:
            return ",".join(states)
        return "no" if self.held is False else None

    @property
    def states(self) -> frozenset[str]:
        """All that ``--status`` may ask for and that holds."""
        found = {self.status or "", *(self.quarantine or "").split(",")} - {"", "no"}
        if self.busy is not None:
            found.add("busy" if self.busy else "idle")
        return frozenset(found)


@dataclass(frozen=True)
class Wanted:
    """Which rows are asked for: all of ``labels``, and patterns (``*``, ``?``) compared without case."""

    labels: frozenset[str] = frozenset()
    status: str | None = None
    name: str | None = None
    host: str | None = None
    group: str | None = None
    version: str | None = None
    expiring_days: int = EXPIRING_DAYS

    def keeps(self, row: Row) -> bool:
        """Whether the row is one of them."""
        return (
            (not self.labels or self.labels <= row.all_labels)
            and (self.status is None or self._has_state(row))
            and (self.name is None or _match(self.name, row.runner) or _match(self.name, row.slot))
            and (self.host is None or self._is_of_host(row))
            and (self.group is None or _match(self.group, row.group))
            and (self.version is None or _match(self.version, row.version))
        )

    def _has_state(self, row: Row) -> bool:
        if self.status != "expiring":
            return self.status in row.states
        days = row.expiry.days if row.expiry else None
        return days is not None and days <= self.expiring_days

    def _is_of_host(self, row: Row) -> bool:
        """Without an inventory a runner's host is what its name begins with: ``<host>-<slot>``."""
        if row.host is not None:
            return _match(self.host, row.host)
        return _match(f"{self.host}-*", row.runner)


def _match(pattern: str | None, text: str | None) -> bool:
    return text is not None and fnmatchcase(text.casefold(), (pattern or "").casefold())


def sort_rows(rows: Iterable[Row], by: str) -> list[Row]:
    """In the order asked for, equal ones by name; numbers count as numbers, what is not known comes last."""
    named = sorted(rows, key=lambda row: _natural(row.runner or row.slot or ""))
    if by == "name":
        return named
    return sorted(named, key=lambda row: _key(row, by))


def _key(row: Row, by: str) -> tuple[int, Sequence[tuple[str, int]]]:
    if by == "expiry":
        if row.expiry is None:
            return 2, ()
        return (1, ()) if row.expiry.days is None else (0, [("", row.expiry.days)])
    if by == "busy":
        return (1, ()) if row.busy is None else (0, [("", not row.busy)])
    text: str | None = getattr(row, by)
    if text is None:
        return 1, ()
    return 0, _natural(text)


def _natural(text: str) -> list[tuple[str, int]]:
    """``gpu-2`` before ``gpu-10``: words, each with the number behind it."""
    return [(word, int(number or -1)) for word, number in _PARTS.findall(text.lower())]
