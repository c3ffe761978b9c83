"""The verdict of ``runnerctl doctor``: credential, reach and records at GitHub. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

import msgspec

from runnerctl.core import doctor_credential, doctor_fleet, doctor_reach
from runnerctl.core.doctor_readings import ScopeReading, Site
from runnerctl.core.findings import Check, Finding, Status, Verdict
from runnerctl.core.health import worst

__all__ = ["CHECKS", "SCHEMA", "Doctor", "examine"]

SCHEMA = "runnerctl.doctor/1"
INVENTORY = "inventory"  # the subject of what concerns no single scope
# In the order in which findings are listed. The judge of one over "scopes" gets each scope, then the site.
CHECKS: tuple[Check, ...] = (*doctor_credential.CHECKS, *doctor_reach.CHECKS, *doctor_fleet.CHECKS)


class Doctor(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict. ``scopes`` are the URLs that were examined."""

    schema: str = SCHEMA
    status: Status
    scopes: tuple[str, ...]
    checked_at: datetime
    duration_seconds: float
    findings: tuple[Finding, ...]


def examine(readings: Sequence[ScopeReading], site: Site, *, duration_seconds: float) -> Doctor:
    """Judge what was read. Never raises because of what was read."""
    findings = tuple(finding for check in CHECKS for finding in _check(check, readings, site))
    return Doctor(
        status=worst(findings),
        scopes=tuple(reading.scope.url for reading in readings),
        checked_at=site.time,
        duration_seconds=duration_seconds,
        findings=findings,
    )


def _check(check: Check, readings: Sequence[ScopeReading], site: Site) -> Iterator[Finding]:
    if not check.over:
        yield from _findings(check, INVENTORY, lambda: check.judge(site))
        return
    for reading in readings:

        def judged(reading: ScopeReading = reading) -> Iterable[Verdict]:
            return check.judge(reading, site)

        yield from _findings(check, reading.scope.name, judged)


def _findings(check: Check, subject: str, judge: Callable[[], Iterable[Verdict]]) -> Iterator[Finding]:
    try:
        verdicts = list(judge())
    except Exception as error:  # a judge that fails is our own mistake, and must not hide the others
        summary = " ".join(f"the check itself failed: {type(error).__name__}: {error}".split())
        verdicts = [Verdict("UNKNOWN", summary, "please report it with the output of `-o json`")]
    for verdict in verdicts:
        remedy = "" if verdict.status == "OK" else verdict.remedy or check.remedy
        yield Finding(check.id, verdict.status, subject, verdict.summary, remedy, dict(verdict.data))
