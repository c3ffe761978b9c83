"""CPUs and memory of slots: each NUMA node is shared among the slots whose GPUs hang on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from runnerctl.core.hardware import Hardware, NumaNode

__all__ = ["Claim", "cpu_list", "cpu_shares", "memory_shares", "usable_memory"]

# What stays for the host itself: system, drivers, page cache of the runners' own files.
LEAST_RESERVE_BYTES, RESERVE_PERCENT, MOST_RESERVE_PERCENT = 2 << 30, 5, 25
STEP_BYTES = 64 << 20  # limits are whole multiples of it
TOLERANCE_PERCENT = 2  # a kernel update moves MemTotal a little: no reason to restart every slot


class Claim(msgspec.Struct, frozen=True):
    """A slot that wants a share. ``nodes``: where its GPUs hang, none for anywhere; ``weight``: GPUs."""

    name: str
    nodes: tuple[int, ...] = ()
    weight: float = 1.0


def cpu_list(cpus: Iterable[int]) -> str:
    """Numbers as the kernel lists them: ``0-15,32-47``."""
    parts: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _nodes(hardware: Hardware) -> list[NumaNode]:
    """Nodes with CPUs: memory of a GPU or of an expander may be a node, too."""
    return [node for node in hardware.numa if node.cores]


def _places(claim: Claim, nodes: Sequence[NumaNode]) -> list[NumaNode]:
    """The nodes that a slot takes its share of; all where its own are not known or have no CPU."""
    return [node for node in nodes if node.id in claim.nodes] or list(nodes)


def _owners(
    nodes: Sequence[NumaNode], claims: Sequence[Claim]
) -> list[tuple[NumaNode, list[tuple[Claim, float]]]]:
    """Who shares each node, and with which weight; one that no slot's GPUs hang on is everybody's."""
    found = []
    for node in nodes:
        places = {claim.name: _places(claim, nodes) for claim in claims}
        here = [(each, each.weight / len(places[each.name])) for each in claims if node in places[each.name]]
        found.append((node, here or [(claim, claim.weight) for claim in claims]))
    return found


def cpu_shares(hardware: Hardware, claims: Sequence[Claim], *, per_slot: int | None) -> dict[str, str | None]:
    """Slot -> its CPUs, None for all of them.

    Whole cores go to one slot each, as long as a node has as many as slots; else its slots share all of it.
    With ``per_slot`` each has so many CPUs: the caller has made sure that there are enough.
    """
    nodes = _nodes(hardware)
    if not nodes or (per_slot is None and len(claims) < 2):
        return {claim.name: None for claim in claims}
    found = _counted(nodes, claims, per_slot) if per_slot else _divided(nodes, claims)
    everything = {cpu for node in nodes for core in node.cores for cpu in core}
    return {name: None if cpus == everything else cpu_list(cpus) for name, cpus in found.items()}


def _divided(nodes: Sequence[NumaNode], claims: Sequence[Claim]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {claim.name: set() for claim in claims}
    for node, owners in _owners(nodes, claims):
        if len(owners) > len(node.cores):
            for claim, _ in owners:
                found[claim.name] |= {cpu for core in node.cores for cpu in core}
            continue
        at = 0
        portions = _portions(len(node.cores), [weight for _, weight in owners])
        for (claim, _), cores in zip(owners, portions, strict=True):
            found[claim.name] |= {cpu for core in node.cores[at : at + cores] for cpu in core}
            at += cores
    return found


def _portions(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to ``total``, at least one each, in proportion to ``weights``."""
    if not weights:
        return []
    spare, sum_of = total - len(weights), sum(weights)
    exact = [spare * weight / sum_of for weight in weights]
    portions = [int(each) for each in exact]
    order = sorted(range(len(weights)), key=lambda i: (portions[i] - exact[i], i))
    for index in order[: spare - sum(portions)]:
        portions[index] += 1
    return [1 + portion for portion in portions]


def _counted(nodes: Sequence[NumaNode], claims: Sequence[Claim], per_slot: int) -> dict[str, set[int]]:
    """So many CPUs each: first from the slot's own nodes, in turn, then from wherever there are any."""
    left = {node.id: [list(core) for core in node.cores] for node in nodes}
    found: dict[str, set[int]] = {}
    for claim in claims:
        own = [node.id for node in _places(claim, nodes)]
        others = [node.id for node in nodes if node.id not in own]
        taken: set[int] = set()
        for places in (own, others):
            while len(taken) < per_slot and any(left[place] for place in places):
                for place in places:
                    if left[place] and len(taken) < per_slot:
                        taken |= _core(left[place], per_slot - len(taken))
        found[claim.name] = taken
    return found


def _core(cores: list[list[int]], most: int) -> set[int]:
    """The next core of a node, or so many of its CPUs."""
    core = cores.pop(0)
    if len(core) > most:
        cores.append(core[most:])  # last: another slot gets the rest of a core only when nothing else is left
    return set(core[:most])


def usable_memory(hardware: Hardware) -> int | None:
    """Bytes that slots may have together: a part stays for the host."""
    total = hardware.memory_bytes
    if not total:
        return None
    reserve = max(LEAST_RESERVE_BYTES, total * RESERVE_PERCENT // 100)
    return total - min(reserve, total * MOST_RESERVE_PERCENT // 100)


def memory_shares(
    hardware: Hardware,
    claims: Sequence[Claim],
    *,
    per_slot_bytes: int | None,
    before: Mapping[str, int | None],
) -> dict[str, int | None]:
    """Slot -> the bytes it may use, None where the host does not say how much it has.

    ``before``: what slots had; a share that is as good as the same stays the same.
    """
    usable = usable_memory(hardware)
    if per_slot_bytes is not None or usable is None:
        return {claim.name: per_slot_bytes for claim in claims}
    nodes = _nodes(hardware)
    known = sum(node.memory_bytes or 0 for node in nodes)
    parts = {node.id: (node.memory_bytes or 0) / known if known else 1 / len(nodes) for node in nodes}
    found = dict.fromkeys((claim.name for claim in claims), 0.0)
    for node, owners in _owners(nodes, claims):
        whole = sum(weight for _, weight in owners)
        for claim, weight in owners:
            found[claim.name] += usable * parts[node.id] * weight / whole
    if not nodes:
        whole = sum(claim.weight for claim in claims)
        found = {claim.name: usable * claim.weight / whole for claim in claims}
    return {name: _settled(int(share), before.get(name)) for name, share in found.items()}


def _settled(share: int, before: int | None) -> int:
    if before and abs(share - before) * 100 <= TOLERANCE_PERCENT * before:
        return before
    return max(share // STEP_BYTES, 1) * STEP_BYTES
