"""The command line on a runner host: a virtual environment of its own, and the spec it reads.

Every wheel gets a directory of its own, ``/opt/runnerctl/venv-<digest>``, which counts only when its marker
is there (written last); ``/opt/runnerctl/bin`` is a link into the current one and is switched in one step.
What a killed run left is cleared by the next one, and an older environment goes when no process uses it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .atomic import Change, atomic_link, atomic_write, sync_file_system
from .clean_units import CleanTimer
from .cli_venv import Source, build, find_python, probe
from .env_store import EnvStore
from .errors import HostError
from .first_baseline import FirstBaseline
from .guard_units import GuardService
from .health_units import HealthTimer
from .lock import exclusive
from .network import converge_ca, has_system_bundle
from .own_units import section_of
from .packages import Packages, package_system
from .process import in_use, run
from .receipt import Receipt
from .slot_system import System

__all__ = ["ROLE", "CliInstall", "Layout", "Outcome", "Wanted"]

ROLE = "runnerctl"
LOCK_SECONDS = 900
HOST_SCHEMA = re.compile(r"runnerctl\.host/(\d+)")


@dataclass(frozen=True)
class Layout:
    """Where things are on a host, or under a directory that holds a host's files."""

    root: str = "/"

    def path(self, path: str) -> str:
        """A path of the host."""
        return os.path.join(self.root, path.lstrip("/"))

    @property
    def home(self) -> str:
        """The directory of the environments."""
        return self.path("/opt/runnerctl")

    @property
    def bin(self) -> str:
        """The link into the current environment."""
        return os.path.join(self.home, "bin")

    @property
    def command(self) -> str:
        """The command for everybody."""
        return self.path("/usr/local/bin/runnerctl")

    @property
    def completion(self) -> str:
        """Where bash looks for the command's completion."""
        return self.path("/usr/share/bash-completion/completions/runnerctl")

    @property
    def host_file(self) -> str:
        """The spec."""
        return self.path("/etc/runnerctl/host.json")


@dataclass(frozen=True)
class Wanted:
    """What should be installed, and the spec as the text of ``host.json``."""

    version: str
    sha256: str
    spec: str
    source: Source | None = None  # None: the wheel is not on the host yet
    ca: str | None = None  # the site's own certificates, in PEM form
    owners: tuple[str, ...] = ()  # those at GitHub whose jobs run here
    credentials: str | None = None  # of conda channels, as JSON

    @property
    def extras(self) -> tuple[str, ...]:
        """What of the package's extras this host needs."""
        return ("env",) if section_of(self.spec, "conda").get("store") else ()

    @property
    def directory(self) -> str:
        """The name of this wheel's environment."""
        return "-".join(("venv", self.sha256[:12], *self.extras))


@dataclass
class Outcome:
    """What was done, or in check mode would be; ``needs_wheel`` asks to be called again with the wheel."""

    needs_wheel: bool = False
    python: str | None = None
    actions: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class CliInstall:
    """Converge one host. Raises HostError with one line."""

    def __init__(
        self, layout: Layout, receipt: Receipt, *, check: bool, system: System | None = None
    ) -> None:
        self.layout = layout
        self.receipt = receipt
        self.system = system or System()
        self.check = check
        self.outcome = Outcome()
        self._baseline = FirstBaseline(layout.root, self._done)

    def converge(self, wanted: Wanted) -> Outcome:
        """Make the host have this wheel's command line and this spec."""
        self._refuse_newer(wanted)
        sound = self._sound(wanted)
        if not sound and not self.check and wanted.source is None:
            python = find_python()
            self.outcome.needs_wheel, self.outcome.python = True, python.version if python else None
            return self.outcome
        if self.check:
            self._apply(wanted, sound=sound, check=True)
            return self.outcome
        if sound:
            self._apply(wanted, sound=True, check=True)
            if not self.outcome.actions:
                return self.outcome
            self.outcome = Outcome()
        with exclusive(self.layout.path("/run/runnerctl/cli.lock"), seconds=LOCK_SECONDS) as lock:
            # Another run may have been at it while we waited.
            self._apply(wanted, sound=sound or self._sound(wanted), check=False, lock=lock)
        return self.outcome

    def _apply(self, wanted: Wanted, *, sound: bool, check: bool, lock: int = -1) -> None:
        if not sound:
            self._install(wanted, check=check, lock=lock)
        if not check:
            paths = [self.layout.command, self.layout.host_file, self.layout.completion]
            self.receipt.record("path", paths, role=ROLE)
        self._authorities(wanted, check=check)
        self._link(self.layout.bin, f"{wanted.directory}/bin", check=check)
        self._link(self.layout.command, os.path.join(self.layout.bin, "runnerctl"), check=check)
        self._host_file(wanted, check=check)
        self._completion(wanted, check=check, renew=not sound)
        self._units(wanted, check=check, renewed=not sound)
        self._clear_old(wanted, check=check)  # the guard runs in the new one by now
        command = os.path.join(self.layout.home, wanted.directory, "bin", "runnerctl")
        self._baseline.converge(wanted.spec, command, check=check, installed=sound or not check)

    def _units(self, wanted: Wanted, *, check: bool, renewed: bool) -> None:
        place = (self.layout.root, self.receipt, self.system, check, self._done)
        HealthTimer(*place).converge(wanted.spec)
        CleanTimer(*place).converge(wanted.spec)
        GuardService(*place).converge(wanted.spec, renewed=renewed)
        EnvStore(*place, warn=self.outcome.warnings.append).converge(
            wanted.spec, owners=wanted.owners, credentials=wanted.credentials, renewed=renewed
        )

    def _done(self, action: str, change: Change) -> None:
        self.outcome.actions.append(action)
        self.outcome.changes.append(change)

    # -- the environment

    def _sound(self, wanted: Wanted) -> bool:
        """Whether this wheel's environment is whole and its Python still runs it."""
        directory = os.path.join(self.layout.home, wanted.directory)
        marked = _read_marker(directory)
        return marked.get("sha256") == wanted.sha256 and probe(directory, wanted.extras)

    def _install(self, wanted: Wanted, *, check: bool, lock: int) -> None:
        before = _read_marker(os.path.join(self.layout.home, os.path.dirname(_target(self.layout.bin))))
        if not check:
            self._build(wanted, lock)
        elif find_python() is None:
            self._python_packages(check=True)
        was = f"runnerctl {before['version']}, {before['sha256'][:12]}\n" if before else ""
        change = Change(self.layout.home, True, was, f"runnerctl {wanted.version}, {wanted.sha256[:12]}\n")
        self._done(f"installed runnerctl {wanted.version}", change)

    def _build(self, wanted: Wanted, lock: int) -> None:
        if wanted.source is None:
            raise HostError("the wheel did not reach the host", remedy="run again")
        python = find_python()
        if python is None:
            self._python_packages(check=False)
            python = find_python()
        if python is None:
            remedy = "install one, or use a newer distribution"
            raise HostError("runnerctl needs Python 3.10 or newer with its venv module", remedy=remedy)
        directory = os.path.join(self.layout.home, wanted.directory)
        self.receipt.record("path", self.layout.home, role=ROLE)
        os.makedirs(self.layout.home, 0o755, exist_ok=True)
        if os.path.lexists(directory):
            shutil.rmtree(directory)  # left by a killed run, or broken
        build(directory, python, replace(wanted.source, extras=wanted.extras), lock=lock)
        sync_file_system(directory)
        marker = {"version": wanted.version, "sha256": wanted.sha256, "python": python.version}
        atomic_write(_marker_path(directory), (json.dumps(marker, indent=2) + "\n").encode())

    def _python_packages(self, *, check: bool) -> None:
        self._packages(package_system().python_packages, check=check)

    def _packages(self, names: Sequence[str], *, check: bool) -> None:
        packages = Packages(package_system(), self.receipt, role=ROLE)
        installed = packages.present(names, check=check).installed
        for name in installed:
            self._done(f"installed package {name}", Change("packages", True, after=f"{name}\n"))

    def _clear_old(self, wanted: Wanted, *, check: bool) -> None:
        for name in _listing(self.layout.home):
            path = os.path.join(self.layout.home, name)
            if name.startswith("venv-") and name != wanted.directory and not in_use(path):
                if not check:
                    shutil.rmtree(path)
                self._done(f"removed {path}", Change(path, True, before="an older environment\n"))

    # -- what points to it

    def _link(self, path: str, target: str, *, check: bool) -> None:
        if not check:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        change = atomic_link(path, target, check=check)
        if change.changed:
            self._done(f"linked {path}", change)

    def _authorities(self, wanted: Wanted, *, check: bool) -> None:
        """The files that the jobs' environment names when the site has certificates of its own."""
        if wanted.ca and not has_system_bundle(self.layout.root):
            self._packages(["ca-certificates"], check=check)
        for change in converge_ca(wanted.ca, self.receipt, check=check, root=self.layout.root):
            self._done(f"{'wrote' if change.after else 'removed'} {change.path}", change)

    def _completion(self, wanted: Wanted, *, check: bool, renew: bool) -> None:
        """bash's completion, as the installed command writes it; nothing depends on it."""
        path = self.layout.completion
        if not renew and os.path.exists(path):
            return
        text = "" if check else _completion_text(os.path.join(self.layout.home, wanted.directory))
        if check:
            change = Change(path, not os.path.exists(path), after="completion of runnerctl\n")
        else:
            change = atomic_write(path, text.encode(), mode=0o644)
        if change.changed:
            self._done(f"wrote {path}", change)

    # -- the spec

    def _host_file(self, wanted: Wanted, *, check: bool) -> None:
        """Whatever was there, an older schema or a file cut short, is replaced in one step."""
        change = atomic_write(self.layout.host_file, wanted.spec.encode(), mode=0o644, check=check)
        if change.changed:
            self._done(f"wrote {self.layout.host_file}", change)

    def _refuse_newer(self, wanted: Wanted) -> None:
        try:
            with open(self.layout.host_file, encoding="utf-8") as file:
                found = _schema_number(json.load(file))
        except (OSError, ValueError):
            return  # none, or one that cannot be read: it is written again
        ours = _schema_number(json.loads(wanted.spec))
        if found > ours:
            what = (
                f"has the newer schema runnerctl.host/{found}; this controller writes runnerctl.host/{ours}"
            )
            raise HostError(what, where=self.layout.host_file, remedy="upgrade runnerctl on the controller")


def _schema_number(data: Any) -> int:
    schema = data.get("schema") if isinstance(data, dict) else None
    found = HOST_SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    return int(found[1]) if found else 0


def _marker_path(directory: str) -> str:
    return os.path.join(directory, "installed.json")


def _read_marker(directory: str) -> dict[str, str]:
    try:
        with open(_marker_path(directory), encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) and {"version", "sha256"} <= set(data) else {}


def _completion_text(directory: str) -> str:
    command = os.path.join(directory, "bin", "runnerctl")
    done = run([command], timeout=30, env={"_RUNNERCTL_COMPLETE": "source_bash"})
    return done.out.strip() + "\n"


def _target(link: str) -> str:
    return os.readlink(link) if os.path.islink(link) else ""


def _listing(path: str) -> list[str]:
    return sorted(os.listdir(path)) if os.path.isdir(path) else []
