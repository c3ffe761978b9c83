"""Whether the store of environments is there: its units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerctl.core.snapshot import Unavailable
from runnerctl.core.store_readings import StoreState
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.unit_states import unit_states

__all__ = ["parse_store", "read_store"]

_UNITS = ("runnerctl-env.service", "runnerctl-env.socket")


def read_store(report: Report, *, environ: Mapping[str, str], timeout_seconds: float) -> dict[str, Any]:
    """The state of its units. Raises OSError."""
    report.stage("systemctl show of the store of environments")
    service, listening = unit_states(_UNITS, environ=environ, timeout_seconds=timeout_seconds)
    if not service and not listening:
        raise OSError("systemctl does not tell of the store's units")
    state: dict[str, Any] = msgspec.to_builtins(StoreState(service, listening))
    return state


def parse_store(outcome: Outcome) -> StoreState | Unavailable:
    """The reading, or why there is none."""
    if outcome.failure is not None:
        return outcome.failure
    return msgspec.convert(outcome.value, StoreState)
