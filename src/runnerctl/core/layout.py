"""Which part of a host's hardware each slot has: part of the spec once the hardware has been looked at."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Layout", "SlotShare", "layout_of"]


class SlotShare(msgspec.Struct, frozen=True):
    """What one slot has of its host.

    ``gpus``: UUIDs, whole or MIG, in the order that jobs see them. ``labels``: derived ones, for GitHub.
    ``cpus``: as the kernel lists them (``0-15,32-47``), None for all. ``memory_bytes``: None for no limit.
    ``numa_nodes``: those that the GPUs hang on; none where that is not known.
    ``origin``: whether inventory says it all, names the slot and leaves its GPUs to the layout (``filled``),
    or the slot itself is the layout's (``made``, by gpus_per_slot or mig_profile).
    """

    name: str
    gpus: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    cpus: str | None = None
    memory_bytes: int | None = None
    numa_nodes: tuple[int, ...] = ()
    origin: Literal["inventory", "filled", "made"] = "inventory"


class Layout(msgspec.Struct, frozen=True):
    """The shares of all slots of a host, in the order of its slots."""

    slots: tuple[SlotShare, ...] = ()

    def share(self, name: str) -> SlotShare | None:
        """What the slot of that name has."""
        return next((share for share in self.slots if share.name == name), None)

    def spelt(self, uuid: str) -> str:
        """The UUID as the driver wrote it when a slot got it; inventory may write it in another case."""
        known = {each.lower(): each for share in self.slots for each in share.gpus}
        return known.get(uuid.lower(), uuid)


def layout_of(host_json: str | None) -> Layout | None:
    """The layout in the text of a ``host.json``; None where there is none, or it cannot be understood."""
    if host_json is None:
        return None
    try:
        data = msgspec.json.decode(host_json.encode(), type=dict)
        return msgspec.convert(data.get("layout"), Layout | None)
    except (msgspec.DecodeError, UnicodeEncodeError):  # a ValidationError is a DecodeError
        return None
