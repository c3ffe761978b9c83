"""One pass over a host's slots: how it reads, acts and remembers. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import slot_register
from .adoption import Claim, stock_busy
from .atomic import atomic_write
from .hold import read_hold
from .receipt import Receipt
from .slot_app import App
from .slot_files import Layout, SlotSpec, read_runner_file
from .slot_modes import EPHEMERAL, is_ephemeral, mode_of, slot_state, unit_of
from .slot_report import Outcome, Report
from .slot_spare import spare
from .slot_system import System, UnitState, read_text

__all__ = [
    "ROOT_GID",
    "ROOT_UID",
    "Changes",
    "Pass",
    "directory_is",
    "file_is",
    "is_text",
    "known_slots",
    "own",
]


def known_slots(layout: Layout) -> list[str]:
    """The names of all slots this host has, wanted or not."""
    folder = layout.path("/var/lib/runnerctl/slots")
    return sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []


@dataclass(frozen=True)
class Changes:
    """What a run may do besides.

    ``switch``: slots that may leave their mode, since no record of theirs is left at GitHub; ``retire``:
    ephemeral ones that are to begin no further job; ``app``: who mints for those that there are.
    """

    switch: tuple[str, ...] = ()
    retire: tuple[str, ...] = ()
    app: App | None = None


@dataclass
class Pass:
    """One pass over a host. With ``check`` it only reads."""

    layout: Layout
    system: System
    check: bool = False
    outcome: Outcome = field(default_factory=Outcome)
    changes: Changes = field(default_factory=lambda: Changes())
    _reload: bool = False
    _due: set[str] = field(default_factory=set)  # slots that need a restart
    _receipt: Receipt | None = None

    def _state_now(self, slot: SlotSpec, units: dict[str, UnitState]) -> UnitState:
        """The unit's state after what was done; in check mode nothing was."""
        return units[slot.unit] if self.check else self.system.unit_states([slot.unit])[slot.unit]

    def _act(
        self, action: str, do: Callable[[], object], *, diff: tuple[str, str, str] | None = None
    ) -> None:
        self.outcome.actions.append(action)
        if diff is not None:
            path, before, after = diff
            header = {"before_header": path, "after_header": path}
            self.outcome.diff.append({**header, "before": before, "after": after})
        if not self.check:
            do()

    @property
    def receipt(self) -> Receipt:
        """The host's receipt, opened when first needed."""
        if self._receipt is None:
            self._receipt = Receipt(self.layout.path("/var/lib/runnerctl/receipt.json"))
        return self._receipt

    def _file(self, action: str, path: Path, text: str, *, mode: int = 0o644) -> bool:
        """Write a root-owned file when it differs; True when it did."""
        before = read_text(path) if path.is_file() else ""
        same = path.is_file() and before == text and _mode(path) == mode and path.stat().st_uid == ROOT_UID
        if same:
            return False

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(str(path), text.encode(), mode=mode)

        self._act(action, write, diff=(str(path), before, text))
        return True

    def _mark_pending(self, slot: SlotSpec) -> None:
        """Note that a restart is due *before* what makes it due: a kill in between loses nothing."""
        self._due.add(slot.name)
        path = self.layout.state("pending", slot.name)
        if not self.check and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o644)

    def _spare(self, slot: SlotSpec) -> None:
        """Let the slot's running job end as it began, whatever its unit's files say by then."""
        if not self.check:
            spare(self.layout, self.system, slot.name, slot.unit)

    def _report(self, name: str, unit: UnitState, claim: Claim | None = None) -> Report:
        state, ephemeral = self._state(name), is_ephemeral(self.layout, name)
        runner = {} if ephemeral else read_runner_file(self.layout.slot_root(name) / ".runner") or {}
        if claim:
            runner = {"agentid": claim.agent_id, "agentname": claim.agent_name, "githuburl": claim.url}
        agent_id = state.get("agent_id") if ephemeral else runner.get("agentid")
        hold = read_hold(self.layout.state("hold", name))
        return Report(
            name=name,
            mode=mode_of(self.layout, name),
            agent_id=agent_id if isinstance(agent_id, int) else None,
            agent_name=runner.get("agentname") or state.get("runner_name"),
            url=runner.get("githuburl") or state.get("url"),
            exit_status=0 if unit.running else unit.exit_status,
            incomplete=claim is None and bool(runner) and not slot_register.can_sign_in(self.layout, name),
            adopted=bool(claim) or (state.get("adopted") is not None and state.get("adopted") == agent_id),
            registering=bool(state.get("registering")),
            busy=self.system.busy(unit_of(self.layout, name))
            or (claim is not None and stock_busy(self.system, claim.unit)),
            active=unit.running,
            hold=hold.reason if hold else None,
            hold_by=[cause.by for cause in hold.causes] if hold else [],
            pending_restart=self.layout.state("pending", name).exists(),
        )

    def _state(self, name: str) -> dict[str, Any]:
        return slot_state(self.layout, name)

    def _write_state(self, slot: SlotSpec, *, agent_id: int | None, registering: bool) -> None:
        before = self._state(slot.name)
        adopted, agent_name = before.get("adopted"), before.get("runner_name")
        data = {
            "name": slot.name,
            "url": slot.url,
            "runner_name": slot.runner_name,
            "agent_id": agent_id,
            "version": slot.version,
            "registering": registering,
        }
        if slot.mode == EPHEMERAL:
            data["mode"] = EPHEMERAL
        if agent_id is not None and adopted == agent_id:
            data |= {"runner_name": agent_name, "adopted": agent_id}
        path = self.layout.state("slots", slot.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(str(path), (json.dumps(data, indent=2) + "\n").encode())


ROOT_UID, ROOT_GID = os.geteuid(), os.getegid()


def is_text(path: Path, text: str) -> bool:
    return path.is_file() and read_text(path) == text


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def directory_is(path: Path, owner: int, group: int, mode: int) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    stat = path.stat()
    return (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (owner, group, mode)


def file_is(path: Path, group: int, mode: int) -> bool:
    stat = path.stat()
    return (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (ROOT_UID, group, mode)


def own(path: Path, group: int) -> None:
    os.chown(path, ROOT_UID, group, follow_symlinks=False)
    path.chmod(0o640)
