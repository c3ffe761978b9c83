"""Units of the toolkit's own on one host: written, enabled, running as they are on disk, and taken away.

Standard library only. What a unit says and when it is wanted is its own module's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from .atomic import Change, atomic_write
from .receipt import Receipt
from .slot_system import System

__all__ = ["UNITS", "OwnUnits", "Timer", "section_of"]

UNITS = "/etc/systemd/system"


@dataclass(frozen=True)
class OwnUnits:
    """Some units of one host. ``done`` is told of every change, which check mode only predicts.

    ``wants``: the units that are enabled, and the target each is wanted by; ``others``: those that only they
    start; ``main``: the one that actions are told of.
    """

    main: ClassVar[str]
    wants: ClassVar[Mapping[str, str]]
    others: ClassVar[tuple[str, ...]] = ()
    role: ClassVar[str] = "runnerctl"

    root: str
    receipt: Receipt
    system: System
    check: bool
    done: Callable[[str, Change], None]

    def place(self, path: str) -> str:
        """A path of the host."""
        return os.path.join(self.root, path.lstrip("/"))

    def path(self, unit: str) -> str:
        """A unit's file."""
        return self.place(f"{UNITS}/{unit}")

    def link(self, unit: str) -> str:
        """What starts a unit at boot."""
        return self.path(f"{self.wants[unit]}.wants/{unit}")

    @property
    def names(self) -> tuple[str, ...]:
        """All of the units."""
        return (*self.wants, *self.others)

    @property
    def booted(self) -> bool:
        """Whether systemd runs this root (sd_booted(3)): not while an image is built."""
        return os.path.isdir(self.place("run/systemd/system"))

    def write(self, texts: Mapping[str, str]) -> bool:
        """Give the units these texts; whether one was another. Raises HostError."""
        changed = [self._file(unit, text) for unit, text in texts.items()]
        return any(changed)

    def _file(self, unit: str, text: str) -> bool:
        if not self.check:
            self.receipt.record("unit", f"{UNITS}/{unit}", role=self.role)
        change = atomic_write(self.path(unit), text.encode(), check=self.check)
        if change.changed:
            self.done(f"wrote {change.path}", change)
        return change.changed

    def run(self, *, changed: bool, renewed: bool = False) -> None:
        """Enabled, so that they come back at boot, and running now as they are on disk. Raises HostError.

        ``renewed``: what they run is another program than before.
        """
        unlinked = [unit for unit in self.wants if not os.path.islink(self.link(unit))]
        if not self.booted:
            for unit in unlinked:
                self.act(f"enabled {unit}", partial(_link, self.link(unit), unit))
            return
        states = self.system.unit_states(list(self.names))
        masked = [unit for unit, state in states.items() if state.load == "masked"]
        running = all(states[unit].running for unit in self.wants)
        running = running and not any(state.needs_reload for state in states.values())
        if running and not (unlinked or masked or changed or renewed):
            return
        self.act(f"started {self.main}", lambda: self._start(masked, changed=changed or not running))

    def _start(self, masked: list[str], *, changed: bool) -> None:
        if masked:
            self.system.systemctl("unmask", *masked)
        self.system.systemctl("daemon-reload")
        self.system.systemctl("enable", "--quiet", *self.wants)
        self.restart(changed=changed)

    def restart(self, *, changed: bool) -> None:
        """Make them run; ``changed``: they did not, or not with these texts. Raises HostError."""
        del changed
        self.system.systemctl("restart", *self.wants)

    def remove(self) -> bool:
        """Take them away; whether there was something to take. Raises HostError."""
        paths = [self.path(unit) for unit in self.names]
        there = any(os.path.lexists(path) for path in paths)
        if there:
            self.act(f"removed {self.main}", lambda: self._take_away(paths))
        return there

    def _take_away(self, paths: list[str]) -> None:
        """The files go before what they started stops: who looks for one does not ask any more."""
        if self.booted:
            self.system.systemctl("disable", "--quiet", *self.wants)
        for path in [*map(self.link, self.wants), *paths]:
            if os.path.lexists(path):
                os.unlink(path)
        if self.booted:
            self.stop()
            self.system.systemctl("daemon-reload")
        self.clear()
        self.receipt.forget("unit", [f"{UNITS}/{unit}" for unit in self.names])

    def stop(self) -> None:
        """Stop them, the one that others need last. Raises HostError."""
        self.system.systemctl("stop", *reversed(list(self.wants)))

    def clear(self) -> None:
        """Remove what the units left; they are stopped."""

    def act(self, action: str, do: Callable[[], None]) -> None:
        """Do it, unless changes are only predicted, and tell of it."""
        if not self.check:
            do()
        self.done(action, Change(self.path(self.main), True, after=f"{action}\n"))


@dataclass(frozen=True)
class Timer(OwnUnits):
    """A timer and the service of the same name that it starts."""

    def have(self, texts: Mapping[str, str] | None) -> None:
        """Make the host have the timer with these texts, or none at all. Raises HostError."""
        if texts is None:
            self.remove()
        else:
            self.run(changed=self.write(texts))


def section_of(spec: str, section: str = "runnerctl") -> dict[str, Any]:
    """A section of ``host.json``, given its text; empty when it has none."""
    found = json.loads(spec).get(section)
    return found if isinstance(found, dict) else {}


def _link(link: str, unit: str) -> None:
    os.makedirs(os.path.dirname(link), 0o755, exist_ok=True)
    os.symlink(f"../{unit}", link)
