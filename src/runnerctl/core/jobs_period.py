"""Moments as people write them: how long ago, or a date. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from runnerctl.errors import UsageError

__all__ = ["moment"]

_AGO = re.compile(r"(\d{1,6})([mhdw])")
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def moment(text: str, *, now: float, option: str) -> float:
    """Seconds since the epoch for ``7d`` (so long before ``now``) or a date with or without a time (UTC).

    Raises UsageError that names ``option``.
    """
    if found := _AGO.fullmatch(text.strip()):
        return now - int(found[1]) * _SECONDS[found[2]]
    try:
        # Python 3.10 knows no "Z"
        when = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
        aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return aware.timestamp()
    except (ValueError, OverflowError):
        remedy = "give 90m, 12h, 7d, 2w or a date like 2026-11-22 or 2026-11-22T18:00Z"
        raise UsageError(f"is {text!r}", where=option, remedy=remedy) from None
