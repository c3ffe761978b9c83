"""What the host's notes say of probes and treatments of one GPU. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runnerctl.core.driver_readings import GpuEvent
from runnerctl.core.kernel_lines import plain_boot_id

__all__ = ["FailedProbe", "failed_probe", "in_effect"]


class FailedProbe(NamedTuple):
    """A probe that failed and that none has made up for. ``treated``: the GPU was reset or booted since."""

    event: GpuEvent
    treated: bool

    @property
    def sentence(self) -> str:
        """It in words."""
        why = f": {self.event.reason}" if self.event.reason else ""
        return f"its probe failed{why}" + ("; treated since, and not probed again" if self.treated else "")


def in_effect(events: Sequence[GpuEvent]) -> tuple[GpuEvent, ...]:
    """One GPU's events without resets that failed: they are noted before they are tried, and cure nothing."""
    kept: list[GpuEvent] = []
    for event in events:
        if event.kind == "reset_failed" and kept and kept[-1].kind == "reset":
            kept.pop()
        kept.append(event)
    return tuple(kept)


def failed_probe(events: Sequence[GpuEvent], boot_id: str) -> FailedProbe | None:
    """The probe of one GPU that failed last, unless a later one passed or somebody brought the GPU back.

    ``events`` are `in_effect`; ``boot_id`` is of the boot that runs.
    """
    treated = False
    for event in reversed(events):
        if event.kind in ("probe_passed", "released"):
            return None
        if event.kind == "probe_failed":
            now, then = plain_boot_id(boot_id), plain_boot_id(event.boot_id)
            return FailedProbe(event, treated or bool(now and then and now != then))
        treated = treated or event.kind == "reset"
    return None
