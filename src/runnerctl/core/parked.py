"""How long GitHub still keeps the record of a runner that is offline.

GitHub deletes the record of a runner that has not connected for 14 days, of an ephemeral one after a day
(GitHub's documentation, "Removing self-hosted runners"), and tells nobody when a runner was last connected.
What we saw ourselves gives a window: it was offline at the latest when we first saw it so, and at the
earliest right after we last saw it online.
"""

from __future__ import annotations

import msgspec

__all__ = ["DAY_SECONDS", "KEPT_DAYS", "KEPT_DAYS_EPHEMERAL", "Sighting", "Window", "sight", "window"]

DAY_SECONDS = 86400.0
KEPT_DAYS = 14
KEPT_DAYS_EPHEMERAL = 1


class Sighting(msgspec.Struct, frozen=True):
    """What we saw of one record, in seconds since the epoch.

    ``online_at`` is when it was last seen online, ``offline_at`` when it was first seen offline after that,
    ``seen_at`` when it was last seen at all. None: never.
    """

    id: int
    seen_at: float
    online_at: float | None = None
    offline_at: float | None = None


class Window(msgspec.Struct, frozen=True):
    """When GitHub removes the record, in seconds since the epoch: ``earliest`` is None where nobody knows."""

    earliest: float | None
    latest: float

    def days_left(self, now: float) -> tuple[float | None, float]:
        """The least and the most days that are left; never below 0: the record is still there."""
        most = max(0.0, (self.latest - now) / DAY_SECONDS)
        least = None if self.earliest is None else max(0.0, (self.earliest - now) / DAY_SECONDS)
        return least, most


def sight(old: Sighting | None, runner_id: int, *, online: bool, now: float) -> Sighting:
    """What is known after seeing the record now. Another id is another registration: it begins anew."""
    if old is not None and old.id != runner_id:
        old = None
    if online:
        return Sighting(runner_id, now, online_at=now)
    before = old.offline_at if old else None
    return Sighting(
        runner_id,
        now,
        online_at=old.online_at if old else None,
        offline_at=now if before is None else min(before, now),
    )


def window(sighting: Sighting, *, ephemeral: bool = False) -> Window | None:
    """When the record goes; None for a runner that is online."""
    if sighting.offline_at is None:
        return None
    kept = (KEPT_DAYS_EPHEMERAL if ephemeral else KEPT_DAYS) * DAY_SECONDS
    earliest = None if sighting.online_at is None else sighting.online_at + kept
    return Window(earliest, sighting.offline_at + kept)
