"""The circuit breaker of a fleet: how much of it may be out of service at once. Pure.

It is judged on the controller before a rollout touches its first host, and again before each batch. Of ``n``
runners at most ``max(1, n * percent // 100)`` may be out. One host may always go first: while every runner of
the fleet is in service, a single host may be taken with all its slots, even where it is a larger share than
that, since a fleet of two hosts could never be maintained otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

__all__ = ["Judgement", "allowance", "judge"]


class Judgement(msgspec.Struct, frozen=True):
    """Whether a fleet can spare the runners that are to be taken; counts of runners.

    ``out`` are out of service already, ``taken`` those to be taken that are in service still.
    """

    allowed: bool
    total: int
    limit: int
    out: int
    taken: int
    percent: int

    def line(self) -> str:
        """The numbers in one line."""
        after = self.out + self.taken
        return (
            f"{after} of the fleet's {self.total} runners would be out of service "
            f"({self.out} are already, {self.taken} more), and {self.limit} may be "
            f"(runnerctl_fleet_max_held_percent: {self.percent})"
        )


def allowance(total: int, percent: int) -> int:
    """How many of ``total`` runners may be out of service at once: at least one."""
    return max(1, total * percent // 100)


def judge(
    fleet: Collection[str], *, out: Collection[str], take: Mapping[str, Collection[str]], percent: int
) -> Judgement:
    """Judge whether the runners in ``take``, by host, may go out of service.

    All names are of one kind, unique in the fleet; those in ``out`` that are not of the fleet do not count.
    Runners that are out already cost nothing: a rollout that was cut off can always be taken up again.
    """
    everyone = set(fleet)
    gone = set(out) & everyone
    hosts = [host for host, names in take.items() if set(names) - gone]
    new = {name for host in hosts for name in take[host]} - gone
    limit = allowance(len(everyone), percent)
    first = not gone and len(hosts) <= 1
    allowed = not new or first or len(gone) + len(new) <= limit
    return Judgement(allowed, len(everyone), limit, len(gone), len(new), percent)
