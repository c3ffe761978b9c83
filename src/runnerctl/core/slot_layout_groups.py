"""Which GPUs belong together: groups of one size that NVLink, the PCI bus and NUMA nodes hold best.

Up to `EXACT` GPUs the best division is found, beyond it a good one. Of equally good ones the first in the
order of the GPUs is taken, so that the same host always gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations

from runnerctl.core.hardware import Gpu

__all__ = ["EXACT", "bond", "division", "worth"]

EXACT = 16  # GPUs; a second of work at most
# One active NVLink outweighs everything the PCI bus can offer, a shared NUMA node any nearness on the bus.
PER_LINK, PER_PEER, SAME_NODE = 1000, 900, 100
FARTHEST = 50  # NVML_TOPOLOGY_SYSTEM: across sockets


def bond(one: Gpu, other: Gpu) -> int:
    """How well two GPUs are connected: more is better; the same both ways."""
    links = _links(one, other)
    score = PER_LINK * links
    if not links and (other.uuid in one.nvlink_peers or one.uuid in other.nvlink_peers):
        score += PER_PEER
    if one.numa_node is not None and one.numa_node == other.numa_node:
        score += SAME_NODE
    level = one.levels.get(other.uuid, other.levels.get(one.uuid))
    return score + (max(FARTHEST - level, 0) if level is not None else 0)


def _links(one: Gpu, other: Gpu) -> int:
    """NVLinks from one to the other: straight ones, or through switches that both are linked to."""
    straight = max(
        one.links.get(other.pci_bus_id or "", 0),
        other.links.get(one.pci_bus_id or "", 0),
    )
    if straight:
        return straight
    return sum(min(count, other.links.get(place, 0)) for place, count in one.links.items())


def worth(group: Sequence[int], bonds: Mapping[tuple[int, int], int]) -> int:
    """The sum of the bonds within a group of indices."""
    return sum(bonds[pair] for pair in combinations(sorted(group), 2))


def division(gpus: Sequence[Gpu], *, size: int, count: int) -> list[tuple[int, ...]]:
    """``count`` groups of ``size`` GPUs each, as indices into ``gpus``, whose bonds are worth most together.

    There must be enough GPUs. Groups come in the order of their first GPU.
    """
    bonds = {(i, j): bond(gpus[i], gpus[j]) for i, j in combinations(range(len(gpus)), 2)}
    if size == 1 and count == len(gpus):
        return [(index,) for index in range(count)]
    if len(gpus) <= EXACT:
        return _best(len(gpus), size, count, bonds)
    return _greedy(len(gpus), size, count, bonds)


def _best(total: int, size: int, count: int, bonds: Mapping[tuple[int, int], int]) -> list[tuple[int, ...]]:
    """The first GPU that is left either opens a group, or is one of those that stay over."""

    @cache
    def best(left: tuple[int, ...], groups: int) -> tuple[int, tuple[tuple[int, ...], ...]]:
        if groups == 0:
            return 0, ()
        first, rest = left[0], left[1:]
        found: tuple[int, tuple[tuple[int, ...], ...]] | None = None
        for others in combinations(rest, size - 1):
            group = (first, *others)
            more, after = best(tuple(index for index in rest if index not in others), groups - 1)
            score = worth(group, bonds) + more
            if found is None or score > found[0]:
                found = score, (group, *after)
        if len(rest) >= groups * size:
            without = best(rest, groups)
            if found is None or without[0] > found[0]:
                found = without
        assert found is not None  # the caller has counted
        return found

    return list(best(tuple(range(total)), count)[1])


def _greedy(total: int, size: int, count: int, bonds: Mapping[tuple[int, int], int]) -> list[tuple[int, ...]]:
    """Group by group: the first GPU that is left, and always the one that fits what is there best."""
    left = list(range(total))
    groups: list[tuple[int, ...]] = []
    for _ in range(count):
        group = [left.pop(0)]
        while len(group) < size:
            gains = [sum(bonds[min(a, b), max(a, b)] for b in group) for a in left]
            group.append(left.pop(gains.index(max(gains))))
        groups.append(tuple(sorted(group)))
    return _swapped(groups, bonds)


def _swapped(groups: list[tuple[int, ...]], bonds: Mapping[tuple[int, int], int]) -> list[tuple[int, ...]]:
    """Exchange GPUs between groups as long as that gains something."""
    better = True
    while better:
        better = False
        for one, other in combinations(range(len(groups)), 2):
            swap = _best_swap(groups[one], groups[other], bonds)
            if swap is not None:
                groups[one], groups[other] = swap
                better = True
    return sorted(groups)


def _best_swap(
    one: tuple[int, ...], other: tuple[int, ...], bonds: Mapping[tuple[int, int], int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    best, before = None, worth(one, bonds) + worth(other, bonds)
    for mine in one:
        for yours in other:
            new = tuple(sorted({*one, yours} - {mine})), tuple(sorted({*other, mine} - {yours}))
            after = worth(new[0], bonds) + worth(new[1], bonds)
            if after > before:
                best, before = new, after
    return best
