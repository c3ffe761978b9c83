"""The engine: a snapshot in, a health verdict out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from runnerctl.core.findings import SEVERITY, Check, Finding, Status, Verdict
from runnerctl.core.snapshot import Gpu, SlotReading, Snapshot, Unavailable
from runnerctl.errors import DataError

__all__ = ["EXIT_CODES", "SCHEMA", "Health", "decode", "encode", "exit_code", "judge", "worst"]

SCHEMA = "runnerctl.health/1"
# The check's own remedy is for what it finds, and nothing was found yet.
_UNTAKEN: Mapping[str, str] = {
    "denied": "run it as root",
    "timeout": "see what it waits for (`ps -eo pid,stat,wchan:32,args`, `dmesg`), and ask again",
    "slow": "give it more time with --deadline, and see what keeps the host busy",
}
EXIT_CODES = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one host."""

    schema: str = SCHEMA
    status: Status
    host: str
    checked_at: datetime
    duration_seconds: float
    findings: tuple[Finding, ...]


def judge(snapshot: Snapshot, checks: Sequence[Check] | None = None) -> Health:
    """Judge a snapshot by ``checks`` (all of them unless given). Never raises because of what was read."""
    if checks is None:
        from runnerctl.core.checks import CHECKS

        checks = CHECKS
    findings = tuple(finding for check in checks for finding in _check(check, snapshot))
    return Health(
        status=worst(findings),
        host=snapshot.host.name or (snapshot.host_spec.host if snapshot.host_spec else "") or "unknown",
        checked_at=snapshot.time,
        duration_seconds=snapshot.duration_seconds,
        findings=findings,
    )


def worst(findings: Sequence[Finding]) -> Status:
    """CRITICAL > UNKNOWN > WARNING > OK; nothing found at all is UNKNOWN."""
    return max((finding.status for finding in findings), key=SEVERITY.__getitem__, default="UNKNOWN")


def exit_code(status: Status) -> int:
    """The exit code of a verdict, as monitoring plugins have it: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."""
    return EXIT_CODES[status]


def encode(health: Health) -> bytes:
    """The verdict as indented JSON with a final line break."""
    return msgspec.json.format(msgspec.json.encode(health), indent=2) + b"\n"


def decode(data: bytes, *, where: str = "health") -> Health:
    """Read a verdict back. Raises DataError when it is none."""
    try:
        health = msgspec.json.decode(data, type=Health)
    except msgspec.MsgspecError as error:
        raise DataError(f"is not a health verdict: {error}", where=where) from None
    if health.schema != SCHEMA:
        raise DataError(f"has schema {health.schema[:40]!r}, not {SCHEMA!r}", where=where)
    return health


def _check(check: Check, snapshot: Snapshot) -> Iterator[Finding]:
    if not check.when(snapshot):
        return
    if not check.over:
        yield from _judge(check, snapshot, item=None)
        return
    items = getattr(snapshot, check.over)
    if isinstance(items, Unavailable):
        yield _not_taken(check, items, "host")
        return
    for item in items or ():
        yield from _judge(check, snapshot, item=item)


def _judge(check: Check, snapshot: Snapshot, *, item: Any) -> Iterator[Finding]:
    subject = _subject(item)
    readings = [] if item is None else [item]
    for need in check.needs:
        name = need.rstrip("?")
        reading = getattr(item, name[1:]) if name.startswith(".") else getattr(snapshot, name)
        if isinstance(reading, Unavailable) and need.endswith("?"):
            reading = None
        if isinstance(reading, Unavailable):
            yield _not_taken(check, reading, subject)
            return
        readings.append(reading)
    try:
        verdicts = list(check.judge(*readings, spec=snapshot.host_spec))
    except Exception as error:  # a judge that fails is our own mistake, and must not hide the other checks
        summary = f"the check itself failed: {type(error).__name__}: {error}"
        remedy = "please report it with the output of `runnerctl snapshot -o json`"
        verdicts = [Verdict("UNKNOWN", " ".join(summary.split()), remedy)]
    yield from (_finding(check, verdict, subject) for verdict in verdicts)


def _finding(check: Check, verdict: Verdict, subject: str) -> Finding:
    remedy = "" if verdict.status == "OK" else verdict.remedy or check.remedy
    return Finding(
        check.id, verdict.status, verdict.subject or subject, verdict.summary, remedy, dict(verdict.data)
    )


def _not_taken(check: Check, reading: Unavailable, subject: str) -> Finding:
    where = reading.call + (f" (GPU {reading.gpu})" if reading.gpu is not None else "")
    data = {"kind": reading.kind, "call": reading.call, "gpu": reading.gpu}
    summary = f"not known: {reading.reason}"
    if where and where not in reading.reason and reading.call not in reading.reason:
        summary += f" [{where}]"
    remedy = reading.remedy or _UNTAKEN.get(reading.kind) or check.remedy
    return Finding(check.id, "UNKNOWN", subject, summary, remedy, data)


def _subject(item: Any) -> str:
    if isinstance(item, SlotReading):
        return item.name
    if isinstance(item, Gpu):
        return f"GPU {item.index}"
    return getattr(item, "url", None) or (item.paths[0] if getattr(item, "paths", None) else "host")
