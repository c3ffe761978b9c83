"""What the probe saw of root's guard."""

from __future__ import annotations

from runnerctl.core.reading import Taken
from runnerctl.core.spec import HostSpec

__all__ = ["GuardState", "is_guarded"]


class GuardState(Taken, frozen=True):
    """The guard's units, as systemd calls their state, and whether it answered.

    ``answers``: None where it was not asked: it hears root and the slots' users only. ``failure``: why not.
    """

    service: str
    socket: str
    answers: bool | None = None
    failure: str = ""


def is_guarded(spec: HostSpec | None) -> bool:
    """Whether a host should have a guard: it has slots, and nobody switched it off."""
    return spec is not None and spec.runnerctl.guard and bool(spec.github_runner.slots)
