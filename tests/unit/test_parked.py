"""When GitHub removes the record of a parked runner, from what was seen of it."""

from __future__ import annotations

import pytest

from runnerctl.core.parked import DAY_SECONDS, Sighting, sight, window

DAY = DAY_SECONDS


def seen(*states: tuple[float, bool], runner_id: int = 1) -> Sighting:
    """Look on these days: (day, whether it was online)."""
    found: Sighting | None = None
    for day, online in states:
        found = sight(found, runner_id, online=online, now=day * DAY)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("states", "least", "most"),
    [
        (((0, False),), None, 14.0),  # at the latest then: it may have been offline for long
        (((0, False), (5, False)), None, 9.0),
        (((0, True), (3, False)), 11.0, 14.0),
        (((0, True), (3, False), (10, False)), 4.0, 7.0),
        (((0, True), (3, False), (10, True), (12, False)), 12.0, 14.0),
        (((0, False), (20, False)), None, 0.0),
    ],
)
def test_days_left(states: tuple[tuple[float, bool], ...], least: float | None, most: float) -> None:
    """The least and the most, on the day of the last look."""
    found = window(seen(*states))
    assert found is not None
    assert found.days_left(states[-1][0] * DAY) == (least, most)


def test_online_another_id_and_ephemeral() -> None:
    """An online runner loses nothing; a new registration begins anew; an ephemeral one has a day."""
    assert window(seen((0, False), (1, True))) is None
    again = sight(seen((0, True), (5, False)), 2, online=False, now=9 * DAY)
    assert again == Sighting(2, 9 * DAY, offline_at=9 * DAY)
    found = window(seen((0, True), (0.5, False)), ephemeral=True)
    assert found is not None and found.days_left(0.5 * DAY) == (0.5, 1.0)
    # A clock that was set back makes nothing younger.
    assert sight(seen((9, False)), 1, online=False, now=0).offline_at == 0
