"""What a pass over a host's slots found and did. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Outcome", "Report"]


@dataclass
class Report:
    """What a host says of one slot, and what differs from its spec. Plain data: it travels as JSON.

    ``hold`` is the reason of its hold, ``hold_by`` who gave it: operator, health, driver, upgrade.
    ``adopted``: the registration was taken over from a stock installation, or is about to be;
    ``exit_status`` is how a listener that does not run ended;
    ``mode``: persistent, or ephemeral: registered anew for each job, so that ``agent_id`` is the last one's;
    ``incomplete``: registered, and what the listener signs in with is lost.
    """

    name: str
    mode: str = "persistent"
    agent_id: int | None = None
    agent_name: str | None = None
    url: str | None = None
    registering: bool = False
    busy: bool = False
    active: bool = False
    hold: str | None = None
    hold_by: list[str] = field(default_factory=list)
    pending_restart: bool = False
    exit_status: int = 0
    incomplete: bool = False
    adopted: bool = False
    changes: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What was done, or in check mode would be. ``needs_key``: the App's private key is not there yet."""

    reports: list[Report] = field(default_factory=list)
    absent: list[Report] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    needs_key: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The module's return values."""
        return {
            "changed": bool(self.actions),
            "slots": [asdict(report) for report in self.reports],
            "absent": [asdict(report) for report in self.absent],
            "actions": self.actions,
            "diff": self.diff,
            "waiting": self.waiting,
            "needs_key": self.needs_key,
        }
