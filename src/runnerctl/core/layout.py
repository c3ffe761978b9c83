"""Which part of a host's hardware each slot has: part of the spec once the hardware has been looked at."""

from __future__ import annotations

import msgspec

__all__ = ["Layout", "SlotShare"]


class SlotShare(msgspec.Struct, frozen=True):
    """What one slot has of its host.

    ``gpus``: UUIDs, whole or MIG, in the order that jobs see them. ``labels``: derived ones, for GitHub.
    ``cpus``: as the kernel lists them (``0-15,32-47``), None for all. ``memory_bytes``: None for no limit.
    ``numa_nodes``: those that the GPUs hang on; none where that is not known.
    """

    name: str
    gpus: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    cpus: str | None = None
    memory_bytes: int | None = None
    numa_nodes: tuple[int, ...] = ()


class Layout(msgspec.Struct, frozen=True):
    """The shares of all slots of a host, in the order of its slots."""

    slots: tuple[SlotShare, ...] = ()
