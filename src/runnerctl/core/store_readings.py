"""What the probe saw of the store of environments."""

from __future__ import annotations

from runnerctl.core.reading import Taken
from runnerctl.core.spec import HostSpec

__all__ = ["StoreState", "has_store"]


class StoreState(Taken, frozen=True):
    """The store's units, as systemd calls their state; the service starts when somebody asks."""

    service: str
    socket: str


def has_store(spec: HostSpec | None) -> bool:
    """Whether a host should have a store: it has slots, and nobody switched it off."""
    return spec is not None and spec.conda.store and bool(spec.github_runner.slots)
