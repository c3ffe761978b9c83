"""What of the slots' disk use goes: the plan, and the timer that carries it out."""

from __future__ import annotations

from runnerctl.core.clean import GIB, Kind, Thing, plan
from runnerctl.core.sections import Runnerctl

NOW = 1_800_000_000.0
DAY = 86400.0


def _thing(kind: Kind, name: str, gib: float, days: float, *, slot: str = "a", in_use: bool = False) -> Thing:
    return Thing(kind, slot, name, int(gib * GIB), NOW - days * DAY, in_use)


def _names(things: list[Thing], **settings: int) -> list[str]:
    return [each.thing.name for each in plan(things, Runnerctl(**settings), now=NOW)]  # type: ignore[arg-type]


def test_the_oldest_go_until_the_rest_fits() -> None:
    """And not one more; a budget is a slot's own."""
    things = [_thing("work", "new", 60, 1), _thing("work", "old", 60, 9), _thing("work", "older", 50, 10)]
    other = [_thing("work", "neighbour", 90, 99, slot="b")]
    assert _names(things + other, clean_work_gib=100) == ["older", "old"]
    assert _names(things + other, clean_work_gib=120) == ["older"]
    assert _names(things + other, clean_work_gib=170) == []


def test_what_is_in_use_stays_and_counts() -> None:
    """A budget that a running container takes alone is not made up for by nothing."""
    images = [_thing("image", "used", 90, 300, slot="", in_use=True), _thing("image", "idle", 20, 1, slot="")]
    assert _names(images, clean_images_gib=100) == ["idle"]
    assert _names(images, clean_images_gib=110) == []


def test_trash_and_what_root_left_go_at_once_and_logs_by_age() -> None:
    """Whatever room there is."""
    things = [_thing("log", "old", 0, 31), _thing("log", "new", 0, 29), _thing("trash", "t", 0, 0)]
    things.append(_thing("leftover", "_work/x", 0, 0))
    assert _names(things) == ["t", "_work/x", "old"]


def test_a_budget_of_nothing_and_nothing_to_remove() -> None:
    """Both ends."""
    assert _names([]) == []
    assert _names([_thing("tool", "node", 0.1, 0)], clean_tools_gib=0) == ["node"]
