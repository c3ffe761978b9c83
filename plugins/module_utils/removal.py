"""Take away what the receipt of a host names, and nothing else. Standard library only."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import HostError
from .lock import exclusive
from .packages import Packages, package_system
from .receipt import Entry, Receipt
from .slot import known_slots
from .slot_files import Layout
from .slot_system import System

__all__ = ["STAYING", "Removal"]

ROLE = "deprovision"
STATE = "/var/lib/runnerctl"
LOCK_SECONDS = 600.0  # purging packages takes minutes on a slow disk
# Everything the toolkit ever makes: a damaged or hostile receipt must not cost the host anything else.
OURS = re.compile(
    r"/opt/(actions-runner|runnerctl(/hooks)?|miniforge3(-[\w.+-]+)?)"
    r"|/etc/systemd/system/(gha-[\w@.-]+|runnerctl-[\w-]+\.(service|timer|path|socket))"
    r"|/var/lib/(gha-runner(/[a-z0-9-]+)?|runnerctl)|/(etc|run)/runnerctl(/host\.json|/env|/(site-)?ca\.pem|/mint|/credentials)?"
    r"|/etc/conda(/condarc\.d(/10-runnerctl\.yml)?)?|/usr/local/bin/runnerctl"
    r"|/usr/share/bash-completion/completions/runnerctl"
    # Of driver and containers: files that bear our name, and those whose names others look for.
    r"|/etc/(?:\w[\w@.-]*/)+(?:\d+-?)?runnerctl[\w.-]*|/etc/runnerctl/mig\.json"
    r"|/etc/udev/rules\.d/71-nvidia-dev-char\.rules|/etc/cdi/nvidia\.yaml|/etc/docker/daemon\.json"
)
RECEIPT_FILES = ("receipt.json", "receipt.json.lock", "slots.lock")  # the lock is held while we work
# What stays unless it is asked for by name: other things on the host may need it by now.
STAYING = ("nvidia_driver", "container_toolkit")
OUR_USER = re.compile(r"gha-[a-z0-9-]+|runnerctl-env")
# Directories that others may use too: if we made them, they go when nothing is left in them.
SHARED = ("/etc/conda/condarc.d", "/etc/conda")


@dataclass
class Removal:
    """One pass. ``removed`` and ``kept`` say what happened, or in check mode would happen."""

    layout: Layout
    system: System
    check: bool = False
    packages: Packages | None = None
    also: tuple[str, ...] = ()  # those of STAYING that go as well
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Remove units, paths, users, groups and packages, then the receipt itself. Raises HostError.

        A run that lost its controller goes on by itself: the next one waits for it.
        """
        state = self.layout.path(STATE)
        if self.check or not state.is_dir():
            self._run()
            return
        with exclusive(str(state / "slots.lock"), seconds=LOCK_SECONDS):
            self._run()

    def _run(self) -> None:
        slots = known_slots(self.layout)
        if slots and not self.check:
            remedy = "remove the slots first (module github_runner, state absent)"
            raise HostError(f"slots are still there: {', '.join(slots)}", where=STATE, remedy=remedy)
        receipt = Receipt(self.layout.path(f"{STATE}/receipt.json"))
        everything = receipt.entries()
        _refuse_what_is_never_ours(everything)
        stays = [role for role in STAYING if role not in self.also]
        entries = [entry for entry in everything if entry.role not in stays]
        steps: dict[str, Callable[[list[Entry]], None]] = {
            "unit": self._units,
            "path": self._paths,
            "user": self._users,
            "group": self._groups,
            "package": self._packages,
        }
        for kind, step in steps.items():
            mine = [entry for entry in entries if entry.kind == kind]
            if mine:
                step(mine)
                if not self.check:
                    receipt.forget(kind, [entry.name for entry in mine])
        staying = [entry for entry in everything if entry.role in stays]
        names = {entry.name for entry in staying if entry.kind == "path"}
        self._state(names | ({f"{STATE}/{name}" for name in RECEIPT_FILES} if staying else set()))
        self.kept += sorted({entry.role for entry in staying})

    def _units(self, entries: list[Entry]) -> None:
        gone = [entry.name for entry in entries if os.path.lexists(self.layout.path(entry.name))]
        for name in gone:
            if "/runnerctl-" in name and not self.check:  # else it would go on without its file
                self.system.systemctl("disable", "--now", "--quiet", os.path.basename(name))
            self._remove_path(name)
        if gone and not self.check:
            self.system.systemctl("daemon-reload")
            self.system.forget_failure("gha-*")  # and of no other unit: its owner may not have seen it yet

    def _paths(self, entries: list[Entry]) -> None:
        for entry in reversed(entries):
            if entry.name not in SHARED:
                self._remove_path(entry.name)
            elif not self.check:
                with contextlib.suppress(OSError):
                    self.layout.path(entry.name).rmdir()

    def _remove_path(self, name: str) -> None:
        target = self.layout.path(name)
        if not os.path.lexists(target):
            return
        self.removed.append(name)
        if self.check:
            return
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
            return
        target.unlink()
        if target.parent.name.endswith(".service.d"):
            with contextlib.suppress(OSError):
                target.parent.rmdir()  # of a unit that is not ours

    def _users(self, entries: list[Entry]) -> None:
        for entry in entries:
            # Its group alone is there when a run was killed while it added the user.
            if self.system.user_exists(entry.name) or self.system.group_exists(entry.name):
                self.removed.append(f"user {entry.name}")
                if not self.check:
                    self.system.kill_all_of(entry.name)
                    self.system.remove_user(entry.name)

    def _groups(self, entries: list[Entry]) -> None:
        for entry in entries:
            if self.system.group_exists(entry.name):
                self.removed.append(f"group {entry.name}")
                if not self.check:
                    self.system.remove_group(entry.name)

    def _packages(self, entries: list[Entry]) -> None:
        packages = self.packages or Packages(package_system(), Receipt(), role=ROLE)
        outcome = packages.absent([entry.name for entry in entries], check=self.check)
        self.removed += [f"package {name}" for name in outcome.removed]
        self.kept += [f"package {name}" for name in outcome.kept]

    def _state(self, staying: set[str]) -> None:
        """Our directories; of what stays on the host the receipt goes on telling."""
        for name in (STATE, "/etc/runnerctl", "/run/runnerctl"):
            folder = self.layout.path(name)
            if any(path.startswith(f"{name}/") for path in staying):
                for child in sorted(folder.iterdir()) if folder.is_dir() else []:
                    if f"{name}/{child.name}" not in staying:
                        self._remove_path(f"{name}/{child.name}")
            elif folder.exists():
                self._remove_path(name)


def _refuse_what_is_never_ours(entries: list[Entry]) -> None:
    """Before anything is removed. Raises HostError."""
    patterns = {"unit": OURS, "path": OURS, "user": OUR_USER, "group": OUR_USER}
    for entry in entries:
        if entry.kind in patterns and not patterns[entry.kind].fullmatch(entry.name):
            what = f"names {entry.kind} {entry.name!r}, which is never ours"
            raise HostError(what, where=f"{STATE}/receipt.json", remedy="correct the receipt by hand")
