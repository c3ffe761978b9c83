"""What a check says: a verdict on a subject, which the engine turns into a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from runnerctl.core.snapshot import Snapshot

__all__ = [
    "SEVERITY",
    "Check",
    "Finding",
    "Status",
    "Verdict",
    "always",
    "critical",
    "ok",
    "unknown",
    "warning",
]

Status = Literal["OK", "WARNING", "UNKNOWN", "CRITICAL"]
# The worst of several: known to be broken outranks not known, and that outranks a warning.
SEVERITY: Mapping[Status, int] = {"OK": 0, "WARNING": 1, "UNKNOWN": 2, "CRITICAL": 3}


class Finding(msgspec.Struct, frozen=True):
    """One line of a health verdict."""

    id: str
    status: Status
    subject: str
    summary: str
    remedy: str = ""
    data: dict[str, Any] = {}


class Verdict(msgspec.Struct, frozen=True):
    """What a judge says; the engine adds the check's id, its subject and its remedy where these are empty."""

    status: Status
    summary: str
    remedy: str = ""
    subject: str = ""
    data: dict[str, Any] = {}


def ok(summary: str, /, **data: Any) -> Verdict:
    """All is well."""
    return Verdict("OK", summary, data=data)


def warning(summary: str, remedy: str = "", /, **data: Any) -> Verdict:
    """Jobs still run; someone should look."""
    return Verdict("WARNING", summary, remedy, data=data)


def critical(summary: str, remedy: str = "", /, **data: Any) -> Verdict:
    """Jobs cannot run, or fail."""
    return Verdict("CRITICAL", summary, remedy, data=data)


def unknown(summary: str, remedy: str = "", /, **data: Any) -> Verdict:
    """It cannot be told from here."""
    return Verdict("UNKNOWN", summary, remedy, data=data)


def always(_snapshot: Snapshot) -> bool:
    """The scope of most checks."""
    return True


@dataclass(frozen=True)
class Check:
    """One check.

    ``judge(*readings, spec=HostSpec | None)`` yields verdicts and touches nothing else. ``needs`` names the
    snapshot's fields that it gets; the engine turns an `Unavailable` one into UNKNOWN, so no judge handles
    absence. With ``over`` the judge is asked once per item of that field: it gets the item first, and a need
    that begins with a dot is a field of the item. A need that ends in a question mark is one the judge can do
    without: it gets None for an `Unavailable` one. ``when`` says whether the check applies at all.
    ``docs`` and ``remedy`` are the text of its page.
    """

    id: str
    title: str
    docs: str
    remedy: str
    judge: Callable[..., Iterable[Verdict]]
    needs: tuple[str, ...] = ()
    over: str = ""
    when: Callable[[Snapshot], bool] = always
