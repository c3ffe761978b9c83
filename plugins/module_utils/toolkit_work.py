"""Docker and the NVIDIA container toolkit, brought to what the controller planned. Standard library only.

The order is chosen so that an Engine installed now starts with its settings, and so that a killed run is
taken up by the next one: whatever a running Engine still owes is noted before it falls due.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from .atomic import Change, atomic_write
from .errors import HostError
from .lock import exclusive
from .packages import Packages, package_system
from .receipt import Receipt
from .repository import Repository, ensure, refresh
from .toolkit_config import merged_daemon, merged_toml, needs_restart, parse_daemon
from .toolkit_devices import Devices
from .toolkit_engine import Due, DueFile, Engine, parse_version
from .toolkit_packages import Holds, ToolkitPackages, is_rpm

__all__ = ["ToolkitPlan", "ToolkitWork"]

ROLE = "container_toolkit"
DAEMON_JSON = "/etc/docker/daemon.json"
CONFIG_TOML = "/etc/nvidia-container-runtime/config.toml"
LOCK_PLUGIN = "python3-dnf-plugin-versionlock"
LOCK = "/var/lib/runnerctl/toolkit.lock"
LOCK_SECONDS = 900.0
CDI_FROM, CDI_BY_DEFAULT_FROM = (25,), (28, 3)  # Docker Engine release notes


@dataclass(frozen=True)
class ToolkitPlan:
    """What the controller wants (see `runnerctl.core.toolkit_plan`). Packages may be alternatives ``a|b``."""

    repositories: tuple[Repository, ...]
    toolkit: tuple[str, ...]
    version: str | None
    engine: tuple[str, ...]
    engine_conflicts: tuple[str, ...]
    extras: tuple[str, ...]
    runtime: bool
    cdi: bool
    daemon: Mapping[str, Any]
    config: Mapping[str, str]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolkitPlan:
        """From the module's argument. Raises HostError for a plan of another release."""
        values: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in data.items()
        }
        try:
            values["repositories"] = tuple(Repository.from_dict(each) for each in values["repositories"])
            return cls(**values)
        except (TypeError, KeyError) as error:
            remedy = "use one release of the collection and of its package"
            raise HostError(f"the plan cannot be understood: {error}", remedy=remedy) from error


@dataclass
class ToolkitWork:
    """One pass. ``actions`` is what changed; ``pending`` what has to wait, and why."""

    plan: ToolkitPlan
    check: bool = False
    root: str = "/"
    engine: Engine = field(default_factory=Engine)
    packages: Packages | None = None
    devices: Devices | None = None
    holds: Holds | None = None
    receipt: Receipt = field(default_factory=Receipt)
    actions: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    _sources_change: bool = False
    _cached: list[Repository] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Do it all. Raises HostError, after which another run goes on where this one stopped."""
        with self._locked():
            self._repositories()
            toolkit = self._toolkit()
            self._config()
            present = bool(self.plan.engine) or self.engine.version() is not None
            if present:
                self._daemon()
                self._engine_packages()
                self._settle()
            self._devices(toolkit)
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "pending": self.pending,
            "diff": [change.diff() for change in self.changes if change.changed],
        }

    def _locked(self) -> AbstractContextManager[Any]:
        """A run that lost its controller goes on by itself: the next one waits for it."""
        path = os.path.join(self.root, LOCK.lstrip("/"))
        return nullcontext() if self.check else exclusive(path, seconds=LOCK_SECONDS)

    @property
    def _packages(self) -> Packages:
        if self.packages is None:
            self.packages = Packages(package_system(), self.receipt, role=ROLE, variable=ROLE)
        return self.packages

    def _repositories(self) -> None:
        for repository in self.plan.repositories:
            outcome = ensure(repository, receipt=self.receipt, role=ROLE, check=self.check, root=self.root)
            self.actions += outcome.actions
            self.changes += outcome.changes
            self._sources_change |= outcome.changed
            if not outcome.fetched:
                self._cached.append(repository)

    def _refresh(self) -> bool:
        """Lists of an earlier day may name packages that are gone, and not know newer ones."""
        for repository in self._cached:
            refresh(repository, root=self.root)
        found, self._cached = bool(self._cached), []
        return found

    def _toolkit(self) -> ToolkitPackages:
        holds = self.holds or Holds(rpm=is_rpm(self._packages), root=self.root)
        if holds.rpm:
            done = self._packages.present([LOCK_PLUGIN], check=self.check)
            self.actions += [f"package {name} installed" for name in done.installed]
        toolkit = ToolkitPackages(self._packages, holds, self.plan.toolkit, self.plan.version, self._refresh)
        toolkit.apply(check=self.check, sources_change=self._sources_change)
        self.actions += toolkit.actions
        return toolkit

    def _config(self) -> None:
        path = self._path(CONFIG_TOML)
        text = _text(path)
        self._write(CONFIG_TOML, text, merged_toml(text, self.plan.config))

    def _daemon(self) -> None:
        path = self._path(DAEMON_JSON)
        before = _text(path)
        cdi = self.plan.cdi and self._cdi_is_off_by_default()
        after, changed = merged_daemon(
            before, wishes=self.plan.daemon, runtime=self.plan.runtime, cdi=cdi, where=DAEMON_JSON
        )
        if not changed:
            return
        if not self.check:
            self._validate(path, after)
            self._note(before, after, sorted(changed))
        self._write(DAEMON_JSON, before, after)

    def _cdi_is_off_by_default(self) -> bool:
        """For an Engine that is not there yet: of the one that would be installed."""
        version = self.engine.version() or self._candidate()
        return version is not None and CDI_FROM <= version < CDI_BY_DEFAULT_FROM

    def _candidate(self) -> tuple[int, ...] | None:
        names = [name for item in self.plan.engine[:1] for name in item.split("|")]
        if names and not self.check:
            self._packages.system.refresh_if_old([names])
        offered = [self._packages.system.offered(name) for name in names]
        first = next((versions[0] for versions in offered if versions), "")
        return parse_version(first.split(":")[-1])

    def _validate(self, path: str, text: str) -> None:
        trial = f"{path}.runnerctl"
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        atomic_write(trial, text.encode(), mode=0o600)  # the file itself may be root's alone, for a password
        try:
            self.engine.validate(trial)
        finally:
            os.unlink(trial)

    def _note(self, before: str, after: str, keys: list[str]) -> None:
        """What a running Engine will owe, before it does."""
        identity = self.engine.identity()
        if identity:
            old, new = (parse_daemon(text, where=DAEMON_JSON) for text in (before, after))
            act = "restart" if needs_restart(old, new) else "reload"
            DueFile(self.root).write(Due(act, identity, f"{DAEMON_JSON}: {', '.join(keys)}"))

    def _engine_packages(self) -> None:
        items = [*self.plan.engine, *self.plan.extras]
        if not items or not self._packages.missing(items):
            return
        if self.plan.engine and self._packages.missing(self.plan.engine):
            self._refuse_to_push_out()
        done = self._packages.present(items, sources_change=self._sources_change, check=self.check)
        self.actions += [f"package {name} installed" for name in done.installed]

    def _refuse_to_push_out(self) -> None:
        """apt would remove what stands in the way, and whatever runs in it, without a question."""
        there = sorted(self._packages.system.versions(self.plan.engine_conflicts))
        if there:
            what = f"{', '.join(there)} is installed, which the Engine's packages would push out"
            remedy = "remove it first, or give the other container_toolkit_docker_source"
            raise HostError(what, remedy=remedy)

    def _settle(self) -> None:
        """Have the Engine run with the settings of now, without harm to a job."""
        if self.plan.engine and not self.engine.active():
            self.actions.append("docker.service started")
            if not self.check:
                self.engine.start()
        note = DueFile(self.root)
        due = note.read()
        if due is None or (self.check and due.engine != self.engine.identity()):
            return
        if due.engine != self.engine.identity():
            note.clear()  # it has started anew since
        elif due.act == "reload":
            self._reload(note, due)
        else:
            self._restart(note, due)

    def _reload(self, note: DueFile, due: Due) -> None:
        self.actions.append("docker.service reloaded")
        if self.check:
            return
        self.engine.reload()
        if self.plan.runtime and not self.engine.knows_runtime("nvidia"):
            due = Due("restart", due.engine, f"{due.reason} (a reload did not suffice)")
            note.write(due)
            self._restart(note, due)
        else:
            note.clear()

    def _restart(self, note: DueFile, due: Due) -> None:
        if not self.check:
            self.engine.reload()  # what can be taken over now is: live-restore among it
            if self._wants_live_restore():
                self.engine.keeps_containers()
        reason = self.engine.disturbed_by_restart()
        if reason:
            self.pending.append(f"restart of docker.service for {due.reason} waits: {reason}")
            return
        self.actions.append("docker.service restarted")
        if not self.check:
            self.engine.restart()
            note.clear()

    def _wants_live_restore(self) -> bool:
        try:
            with open(self._path(DAEMON_JSON), encoding="utf-8") as file:
                settings = json.load(file)
        except (OSError, ValueError):
            return False
        return isinstance(settings, dict) and settings.get("live-restore") is True

    def _devices(self, toolkit: ToolkitPackages) -> None:
        devices = self.devices or Devices(root=self.root, receipt=self.receipt)
        devices.check = self.check
        given = self.plan.version or ""
        numbers = tuple(int(part) for part in given.split("-")[0].split(".") if part.isdigit())
        devices.apply(cdi=self.plan.cdi, version=toolkit.installed_version() or numbers or None)
        self.actions += devices.actions
        self.changes += devices.changes
        self.pending += devices.pending

    def _write(self, name: str, before: str, after: str) -> None:
        """A file of somebody else's that we add to: its mode stays, and so does a link to it."""
        if before == after:
            return
        path = self._path(name)
        if not self.check and name == DAEMON_JSON:
            self.receipt.record("path", path, role=ROLE)  # ours only where there is none yet
        mode = os.stat(path).st_mode & 0o7777 if os.path.exists(path) else 0o644
        self.changes.append(atomic_write(os.path.realpath(path), after.encode(), mode=mode, check=self.check))
        self.actions.append(f"{name} written")

    def _path(self, absolute: str) -> str:
        return os.path.join(self.root, absolute.lstrip("/"))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise HostError("is no text", where=path, remedy="mend it: it is never overwritten") from error
