"""A reading, or the reason why there is none. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Taken", "Unavailable", "UnavailableKind"]

UnavailableKind = Literal["error", "timeout", "slow", "crash", "denied"]


class Unavailable(msgspec.Struct, frozen=True, tag_field="reading", tag="unavailable"):
    """A reading that could not be taken; ``call`` names what was being asked, ``gpu`` an NVML index.

    ``timeout``: a call did not return; ``slow``: every call returned, and together they took too long.
    ``remedy`` beats that of the checks that needed it.
    """

    reason: str
    call: str = ""
    gpu: int | None = None
    kind: UnavailableKind = "error"
    remedy: str = ""


class Taken(msgspec.Struct, frozen=True, tag_field="reading", tag="taken"):
    """Base of every reading that stands where an `Unavailable` may stand."""
