"""Whether the store of environments is there: its units."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import msgspec

from runnerctl.core.snapshot import Unavailable
from runnerctl.core.store_readings import StoreState
from runnerctl.probes.bounded import Outcome, Report

__all__ = ["parse_store", "read_store"]

_UNITS = ("runnerctl-env.service", "runnerctl-env.socket")


def read_store(report: Report, *, environ: Mapping[str, str], timeout_seconds: float) -> dict[str, Any]:
    """The state of its units. Raises OSError."""
    report.stage("systemctl show of the store of environments")
    done = subprocess.run(
        ["systemctl", "show", "--no-pager", "--property=Id,ActiveState", *_UNITS],
        env={**environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_seconds,
        check=False,
    )
    found = {}
    for block in done.stdout.decode("utf-8", "replace").strip().split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        found[fields.get("Id", "")] = fields.get("ActiveState", "")
    service, listening = (found.get(unit, "") for unit in _UNITS)
    if not service and not listening:
        raise OSError("systemctl does not tell of the store's units")
    state: dict[str, Any] = msgspec.to_builtins(StoreState(service, listening))
    return state


def parse_store(outcome: Outcome) -> StoreState | Unavailable:
    """The reading, or why there is none."""
    if outcome.failure is not None:
        return outcome.failure
    return msgspec.convert(outcome.value, StoreState)
