"""The circuit breaker: how much of a fleet may be out of service at once."""

from __future__ import annotations

import pytest

from runnerctl.core.breaker import allowance, judge

FLEET = [f"h{host}-{slot}" for host in range(1, 6) for slot in "ab"]  # five hosts of two slots


def host(number: int) -> dict[str, list[str]]:
    """What draining a host takes."""
    return {f"h{number}": [f"h{number}-a", f"h{number}-b"]}


@pytest.mark.parametrize(
    ("total", "percent", "limit"),
    [(10, 34, 3), (3, 34, 1), (1, 1, 1), (0, 34, 1), (500, 34, 170), (4, 100, 4)],
)
def test_at_least_one_runner_may_always_be_out(total: int, percent: int, limit: int) -> None:
    """The share is rounded down, and one is always allowed."""
    assert allowance(total, percent) == limit


def test_what_a_fleet_can_spare_may_go() -> None:
    """Two of ten are fine; four are not."""
    assert judge(FLEET, out=[], take=host(1), percent=34).allowed
    two = judge(FLEET, out=[], take=host(1) | host(2), percent=34)
    assert (two.allowed, two.total, two.limit, two.out, two.taken) == (False, 10, 3, 0, 4)
    assert two.line() == (
        "4 of the fleet's 10 runners would be out of service (0 are already, 4 more), and 3 may be "
        "(runnerctl_fleet_max_held_percent: 34)"
    )
    assert judge(FLEET, out=[], take=host(1) | host(2), percent=40).allowed


def test_who_is_out_already_counts_and_strangers_do_not() -> None:
    """An offline runner is one that the fleet lacks; a record of another fleet is nobody's here."""
    assert not judge(FLEET, out=["h3-a", "h4-b"], take=host(1), percent=34).allowed
    assert judge(FLEET, out=["h3-a", "other-x", "other-y"], take=host(1), percent=34).allowed


def test_one_host_may_always_go_first() -> None:
    """Two hosts of two slots could never be maintained otherwise; the second has to wait for the first."""
    small = FLEET[:4]
    assert judge(small, out=[], take=host(1), percent=34).allowed
    assert not judge(small, out=["h1-a", "h1-b"], take=host(2), percent=34).allowed
    assert not judge(small, out=[], take=host(1) | host(2), percent=34).allowed


def test_a_drain_that_was_cut_off_can_be_taken_up_again() -> None:
    """What is out already costs nothing, however much it is."""
    assert judge(FLEET, out=FLEET, take=host(1), percent=34).allowed
    assert judge(FLEET[:4], out=["h1-a", "h1-b"], take=host(1), percent=34).allowed
    assert not judge(FLEET[:4], out=["h1-a"], take=host(1), percent=34).allowed
