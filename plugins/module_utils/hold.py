"""Slots on hold: the file that says why, and a listener that stops when it is idle. Standard library only.

``/var/lib/runnerctl/hold/<slot>`` keeps the slot's unit from starting. Its first line is the reason, for
people and for the job that hits it; below stands one block of ``key: value`` lines for each cause, since an
operator and the health verdict may both have theirs: the file goes when the last cause has gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .atomic import atomic_write, sync_directory
from .lock import exclusive
from .slot_files import Layout
from .slot_modes import at_once, is_ephemeral, unit_of
from .slot_system import System

__all__ = [
    "HEALTH",
    "OPERATOR",
    "Cause",
    "Hold",
    "Holds",
    "hold_reason",
    "hold_text",
    "parse_hold",
    "read_hold",
    "told",
]

HEALTH = "health"
OPERATOR = "operator"
LONGEST_REASON = 400
LARGEST_BYTES = 65536
LOCK_SECONDS = 400.0  # above STOP_SECONDS: another process may be stopping the listener
STOP_SECONDS = 360.0  # above the unit's TimeoutStopSec
POLL_SECONDS = 5.0
NO_REASON = "no reason given"
JOURNAL = "/run/systemd/journal/socket"


@dataclass(frozen=True)
class Cause:
    """Why a slot is on hold: ``by`` health, operator, driver or upgrade, ``since`` (RFC 3339), which GPUs."""

    by: str
    reason: str
    since: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hold:
    """All causes of a slot's hold, oldest first; at least one."""

    causes: tuple[Cause, ...]

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(cause.reason for cause in self.causes)

    def cause(self, by: str) -> Cause | None:
        """The cause that ``by`` gave, if any."""
        return next((cause for cause in self.causes if cause.by == by), None)

    def without(self, by: str) -> tuple[Cause, ...]:
        """The other causes."""
        return tuple(cause for cause in self.causes if cause.by != by)


def one_line(text: str) -> str:
    """A reason as it may stand in a file, a terminal and a job's log: one short printable line."""
    words = "".join(character if character.isprintable() else " " for character in text).split()
    line = " ".join(words)
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 3]}..."


def hold_text(hold: Hold) -> str:
    """The file's text."""
    blocks = [hold.reason + "\n"]
    for cause in hold.causes:
        lines = [f"by: {cause.by}", f"since: {cause.since}", f"reason: {cause.reason}"]
        lines += [f"gpus: {', '.join(cause.gpus)}"] if cause.gpus else []
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def parse_hold(text: str) -> Hold:
    """Read the file's text. One that somebody wrote by hand, or that is damaged, is an operator's."""
    head, *blocks = text.strip().split("\n\n")
    causes = []
    for block in blocks:
        pairs = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if {"by", "reason"} <= set(pairs):
            gpus = tuple(gpu for gpu in pairs.get("gpus", "").split(", ") if gpu)
            causes.append(Cause(pairs["by"], one_line(pairs["reason"]), pairs.get("since", ""), gpus))
    first = one_line((head.splitlines() or [""])[0])
    return Hold(tuple(causes) or (Cause(OPERATOR, first or NO_REASON),))


def hold_reason(path: Path) -> str | None:
    """Why the slot of this hold file is on hold, as one line; None when it is not."""
    hold = read_hold(path)
    return hold.reason if hold else None


def read_hold(path: Path) -> Hold | None:
    """The hold of this file; None when there is none."""
    try:
        with path.open("rb") as file:
            return parse_hold(file.read(LARGEST_BYTES).decode("utf-8", "replace"))
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return Hold((Cause(OPERATOR, NO_REASON),))  # it holds the unit all the same


def told(unit: str, message: str) -> None:
    """Write a line into the journal of another unit, so that its own log tells; nothing depends on it.

    ``journalctl -u`` shows what root says of a unit in OBJECT_SYSTEMD_UNIT (journalctl(1)).
    """
    fields = {
        "MESSAGE": message,
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "runnerctl",
        "OBJECT_SYSTEMD_UNIT": unit,
    }
    data = "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(1.0)
        journal.sendto(data, JOURNAL)


@dataclass(frozen=True)
class Holds:
    """The holds of one host."""

    layout: Layout
    system: System
    log: Callable[[str, str], None] = told

    def get(self, slot: str) -> Hold | None:
        """A slot's hold, or None."""
        return read_hold(self._path(slot))

    def add(self, slot: str, cause: Cause) -> bool:
        """Give the slot this cause, in place of an older one by the same; True when the file changed.

        The reason of `settle` comes after: a job that slips in between meets the hook.
        """
        with self._locked(slot):
            hold = self.get(slot)
            old = hold.cause(cause.by) if hold else None
            cause = Cause(cause.by, one_line(cause.reason) or NO_REASON, cause.since, cause.gpus)
            if old and (old.reason, old.gpus) == (cause.reason, cause.gpus):
                return False
            kept = hold.without(cause.by) if hold else ()
            since = old.since if old and old.since else cause.since
            self._write(slot, (*kept, Cause(cause.by, cause.reason, since, cause.gpus)))
        self.log(self._unit(slot), f"on hold by {cause.by}: {cause.reason}")
        return True

    def drop(self, slot: str, by: str) -> Hold | None:
        """Take away the causes that ``by`` gave; returns the hold that is left."""
        with self._locked(slot):
            hold = self.get(slot)
            if hold is None or hold.cause(by) is None:
                return hold
            self._write(slot, hold.without(by))
            left = self.get(slot)
        self.log(
            self._unit(slot), f"the hold by {by} is lifted" + (f"; still: {left.reason}" if left else "")
        )
        return left

    def settle(self, slot: str) -> str | None:
        """Make a hold effective: stop an idle listener; behind a running job, leave it to `gha-hold@`.

        Returns "stopped", "waits", or None when there was nothing to do. Raises HostError.
        """
        with self._locked(slot):
            unit = self._unit(slot)
            if self.get(slot) is None or not self.system.unit_states([unit])[unit].running:
                return None
            if not self.system.busy(unit):
                self.system.systemctl("stop", unit, seconds=STOP_SECONDS)
                return "stopped"
        self.system.systemctl("start", "--no-block", f"gha-hold@{slot}.service")
        return "waits"

    def finish(
        self, slot: str, *, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> bool:
        """Wait until no job runs on a held slot, then stop its listener; False after ``seconds``.

        It ends as well when the hold is gone. Raises HostError.
        """
        unit, deadline = self._unit(slot), None if seconds is None else clock() + seconds
        ended = False
        while True:
            with self._locked(slot):
                if self.get(slot) is None:
                    return True
                # Right behind a job every millisecond counts: the listener is about to ask for the next one.
                if ended or not self.system.busy(unit):
                    self.system.systemctl("stop", unit, seconds=STOP_SECONDS)
                    return True
            left = POLL_SECONDS if deadline is None else min(POLL_SECONDS, deadline - clock())
            if left <= 0:
                return False
            ended = _await_end(self._workers(unit), left)

    def _workers(self, unit: str) -> list[int]:
        """The process of the running job; what jobs left behind may bear its name, but never that parent."""
        listener = self.system.main_pid(unit)
        found = self.system.processes_in(unit)
        return [each.pid for each in found if each.comm == "Runner.Worker" and each.parent == listener]

    def start(self, slot: str) -> bool:
        """Start a slot that is no longer on hold; False when it is not registered. Raises HostError."""
        unit = self._unit(slot)
        with self._locked(slot):
            if self.get(slot) is not None or not self.startable(slot):
                return False
            self.system.systemctl("stop", f"gha-hold@{slot}.service")
            self.system.forget_failure(unit)
            self.system.systemctl(*at_once(self.layout, slot))
        if self.layout.state("pending", slot).exists():
            self.system.systemctl("start", "--no-block", f"gha-restart@{slot}.service")
        return True

    def startable(self, slot: str) -> bool:
        """Whether the slot has a registration, or gets one whenever it starts."""
        registered = (self.layout.slot_root(slot) / ".runner").is_file()
        return registered or is_ephemeral(self.layout, slot)

    def _unit(self, slot: str) -> str:
        return unit_of(self.layout, slot)

    # -- files

    def _path(self, slot: str) -> Path:
        return self.layout.state("hold", slot)

    def _write(self, slot: str, causes: tuple[Cause, ...]) -> None:
        path = self._path(slot)
        if not causes:
            path.unlink(missing_ok=True)
            sync_directory(str(path.parent))
            return
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)  # the hook reads it as the job's user
        atomic_write(path, hold_text(Hold(causes)).encode())

    def _locked(self, slot: str) -> contextlib.AbstractContextManager[int]:
        return exclusive(str(self.layout.path(f"/run/runnerctl/hold-{slot}.lock")), seconds=LOCK_SECONDS)


def _await_end(pids: list[int], seconds: float) -> bool:
    """Wait for a process to end, at most so long; whether one did."""
    poll, opened = select.poll(), []
    try:
        for pid in pids:
            descriptor = os.pidfd_open(pid)
            opened.append(descriptor)
            poll.register(descriptor, select.POLLIN)
        if opened:
            return bool(poll.poll(seconds * 1000))
    except (OSError, AttributeError):  # it has ended already; or Linux before 5.3
        pass
    finally:
        for descriptor in opened:
            os.close(descriptor)
    time.sleep(min(seconds, 0.2))
    return False
