"""What every step of the driver's installation shares: where to write, what was done, what to say.

A step reads first. With ``check`` it writes nothing and says what it would do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .atomic import Change, atomic_write
from .errors import HostError
from .lock import exclusive
from .packages_apt import apt_error
from .process import Result, run
from .receipt import Receipt
from .slot_files import Layout
from .slot_system import System

__all__ = ["MANAGED", "ROLE", "Run", "Work"]

ROLE = "nvidia_driver"
MANAGED = "# Managed by runnerctl: changes here are undone by the next converge.\n"
LOCK = "/var/lib/runnerctl/driver.lock"
LOCK_SECONDS = 900.0
QUERY_SECONDS = 60.0
Run = Callable[..., Result]


@dataclass
class Work:
    """One pass over a host. ``actions``, ``changes`` and ``notes`` are for people."""

    layout: Layout = field(default_factory=Layout)
    system: System = field(default_factory=System)
    receipt: Receipt = field(default_factory=Receipt)
    check: bool = False
    run: Run = run
    actions: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reboot: list[str] = field(default_factory=list)  # reasons why the host has to be rebooted

    def path(self, absolute: str) -> Path:
        """A path of the host."""
        return self.layout.path(absolute)

    def alone(self, *, seconds: float = LOCK_SECONDS) -> AbstractContextManager[Any]:
        """A run that lost its controller goes on by itself: the next one waits for it. Raises HostError."""
        return nullcontext() if self.check else exclusive(str(self.path(LOCK)), seconds=seconds)

    def note(self, text: str) -> None:
        """Something a person should know; once."""
        if text not in self.notes:
            self.notes.append(text)

    def write(self, absolute: str, text: str, *, kind: str = "path") -> bool:
        """Give a file of ours this content; noted in the receipt first. Returns whether it differed."""
        target = self.path(absolute)
        change = atomic_write(target, text.encode(), check=True)
        if not change.changed:
            return False
        if not self.check:
            self.receipt.record(kind, absolute, role=ROLE)
            atomic_write(target, text.encode())
        self.changes.append(change)
        if f"wrote {absolute}" not in self.actions:  # a later step may know more of the same file
            self.actions.append(f"wrote {absolute}")
        return True

    def remove(self, absolute: str, *, kind: str = "path") -> bool:
        """Take a file of ours away. Returns whether it was there."""
        target = self.path(absolute)
        if not os.path.lexists(target):
            return False
        before = target.read_text(encoding="utf-8", errors="replace") if target.is_file() else ""
        if not self.check:
            target.unlink()
            self.receipt.forget(kind, absolute)
        self.changes.append(Change(absolute, True, before=before))
        self.actions.append(f"removed {absolute}")
        return True

    def read(self, absolute: str) -> str | None:
        """The text of a file without white space around it; None when it cannot be read."""
        try:
            return self.path(absolute).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def ask(self, *argv: str, seconds: float = QUERY_SECONDS) -> Result:
        """Run a command that changes nothing; one that is missing answers with status 127."""
        try:
            return self.run(list(argv), timeout=seconds)
        except HostError as error:
            return Result(127, "", str(error))

    def do(self, argv: Sequence[str], *, seconds: float, remedy: str = "") -> None:
        """Run a command that must succeed. Raises HostError with the line that says why."""
        done = self.run(list(argv), timeout=seconds)
        if done.rc:
            raise HostError(f"failed: {apt_error(done)}", where=" ".join(argv), remedy=remedy)
