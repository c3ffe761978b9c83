"""Distribution packages, asked for and installed with the distribution's own tools.

``dpkg`` and ``rpm`` are asked directly, so that check mode works on a bare host, without python3-apt. An item
is a package name, or alternatives ``a|b|c`` of which the first available one is meant.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from .errors import HostError
from .packages_apt import Apt
from .packages_rpm import Rpm
from .receipt import Receipt

__all__ = ["Outcome", "PackageError", "Packages", "package_system", "release_fields"]

INSTALL_SECONDS = 1800.0


class PackageError(HostError):
    """Packages cannot be queried, installed or removed."""


class _NoSuchVersionError(PackageError):
    """No repository has the version that a package must have."""


class PackageSystem(Protocol):
    """What a family of distributions offers. Every call is bounded and raises HostError."""

    name: str
    python_packages: tuple[str, ...]  # that bring a Python >= 3.10 with its venv module

    def installed(self, names: Sequence[str]) -> set[str]:
        """Those of ``names`` that are installed, or provided by an installed package."""

    def left(self, names: Sequence[str]) -> set[str]:
        """Those of ``names`` of which anything is there, be it half removed or its settings alone."""

    def refresh_if_old(self, items: Sequence[Sequence[str]]) -> None:
        """Fetch the package lists when there are none, they are old, or know no alternative of an item."""

    def available(self, names: Sequence[str]) -> set[str] | None:
        """Those of ``names`` that could be installed; None when there are no lists to say so."""

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """The versions of those of ``names`` that are installed."""

    def offered(self, name: str) -> list[str]:
        """The versions of a package that could be installed, the preferred one first."""

    def exactly(self, name: str, version: str) -> str:
        """How ``install`` and ``brings`` are told a version."""

    def brings(self, names: Sequence[str]) -> list[str]:
        """Every package that installing ``names`` would add, dependencies included."""

    def pushes_out(self, names: Sequence[str]) -> list[str]:
        """Every package that installing ``names`` would remove; what cannot be installed removes nothing."""

    def install(self, names: Sequence[str], *, seconds: float, replacing: bool = False) -> None:
        """Install them, without recommended packages and without a question.

        ``replacing``: whether packages may go for it; otherwise that is an error.
        """

    def removable(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that can go without taking any other package along."""

    def remove(self, names: Sequence[str], *, seconds: float) -> None:
        """Remove them and their settings."""

    def unfinished(self) -> bool:
        """Whether an interrupted run left something half done."""

    def finish(self, *, seconds: float) -> None:
        """Finish what an interrupted run left half done, on whatever package."""


@dataclass(frozen=True)
class Outcome:
    """What changed, or in check mode would change."""

    installed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the host differs from before."""
        return bool(self.installed or self.removed)


def package_system(os_release: str = "/etc/os-release") -> PackageSystem:
    """The package system of this host. Raises PackageError on a distribution that is not supported."""
    fields = release_fields(os_release)
    family = {fields.get("ID", ""), *fields.get("ID_LIKE", "").split()}
    name = fields.get("PRETTY_NAME") or fields.get("ID") or "an unknown distribution"
    if family & {"debian", "ubuntu"}:
        return Apt(name)
    if family & {"rhel", "fedora", "centos"}:
        return Rpm(name)
    remedy = "use a Debian, Ubuntu, Fedora or Enterprise Linux host"
    raise PackageError(f"{name} is not supported", remedy=remedy)


class Packages:
    """Make packages present or absent, and keep the receipt of what that added."""

    def __init__(
        self,
        system: PackageSystem,
        receipt: Receipt,
        *,
        role: str,
        variable: str | None = None,
        seconds: float = INSTALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.system = system
        self.receipt = receipt
        self.role = role
        self.variable = variable
        self._clock = clock
        self._end = clock() + seconds

    def present(
        self,
        items: Sequence[str],
        *,
        versions: Mapping[str, str] | None = None,
        sources_change: bool = False,
        check: bool = False,
    ) -> Outcome:
        """Install what is missing. Raises HostError; the message names the package and the variable.

        ``versions``: exact versions, or globs of them, that packages must have. ``sources_change``: with
        ``check``, that the repositories of the real run are not all there yet.
        """
        wanted = [_alternatives(item, self._where()) for item in items]
        pins = versions or {}
        missing = self._missing(wanted, pins)
        if not missing:
            return Outcome()
        if not check:
            self.system.refresh_if_old(missing)
        available = self.system.available(_flat(missing))
        chosen = self._choose(missing, available, doubtful=check and sources_change)
        if not check:
            self._install(chosen, pins)
        elif available is not None and (not sources_change or pins.keys() >= set(chosen)):
            # Which version a name stands for may change with the sources; what a version does, hardly.
            with contextlib.suppress(_NoSuchVersionError):  # the real run may fetch newer lists
                self._replaced(chosen, [self._exactly(name, pins) for name in chosen])
        return Outcome(installed=tuple(chosen))

    def _install(self, chosen: Sequence[str], pins: Mapping[str, str]) -> None:
        exact = [self._exactly(name, pins) for name in chosen]
        if self.system.unfinished():  # else nothing could be foretold
            self.system.finish(seconds=self._left())
        replaced = self._replaced(chosen, exact)
        self.receipt.record("package", self.system.brings(exact) or chosen, role=self.role)
        self.system.install(exact, seconds=self._left(), replacing=bool(replaced))
        left = self._missing([[name] for name in chosen], pins)
        if left:
            names = ", ".join(_flat(left))
            raise PackageError(f"{names}: still missing after the installation", where=self._where())

    def _replaced(self, chosen: Sequence[str], exact: Sequence[str]) -> list[str]:
        """What goes for it. Raises PackageError when that is more than this role itself brought.

        Another branch of a driver takes the place of the one before; nobody else's package goes unasked.
        """
        going = self.system.pushes_out(exact)
        own = {entry.name for entry in self.receipt.entries("package", role=self.role)} if going else set()
        foreign = [name for name in going if name.split(":")[0] not in own and name not in own]
        if foreign:
            what = f"{', '.join(foreign)} would be removed for {', '.join(chosen)}"
            remedy = "remove it yourself if nothing on the host needs it"
            raise PackageError(what, where=self._where(), remedy=remedy)
        return going

    def missing(self, items: Sequence[str], *, versions: Mapping[str, str] | None = None) -> bool:
        """Whether `present` has anything to do. Raises HostError."""
        return bool(self._missing([_alternatives(item, self._where()) for item in items], versions))

    def absent(self, names: Sequence[str], *, check: bool = False) -> Outcome:
        """Remove the named packages, but none that another package needs: those are kept and reported."""
        there = self.system.left(names)
        targets = [name for name in dict.fromkeys(names) if name in there]
        going = self.system.removable(targets) if targets else []
        if going and not check:
            self.system.remove(going, seconds=self._left())
        if names and not check:
            self.system.finish(seconds=self._left())  # a run killed in its middle leaves more than these
            self.receipt.forget("package", names)
        kept = tuple(name for name in targets if name not in going)
        return Outcome(removed=tuple(going), kept=kept)

    def _missing(
        self, wanted: Iterable[Sequence[str]], pins: Mapping[str, str] | None = None
    ) -> list[Sequence[str]]:
        """The items of which no alternative is installed, in the version it must have."""
        wanted = list(wanted)
        there = self.system.installed(_flat(wanted))
        pinned = [name for name in _flat(wanted) if name in there and name in (pins or {})]
        if pinned:
            found = self.system.versions(pinned)
            there -= {name for name in pinned if not fnmatchcase(found.get(name, ""), (pins or {})[name])}
        return [alternatives for alternatives in wanted if not there.intersection(alternatives)]

    def _choose(
        self, missing: Sequence[Sequence[str]], available: set[str] | None, *, doubtful: bool
    ) -> list[str]:
        chosen, unknown = [], []
        for alternatives in missing:
            found = [name for name in alternatives if available is None or name in available]
            if found or doubtful:
                chosen.append((found or alternatives)[0])
            else:
                unknown.append(" or ".join(alternatives))
        if unknown:
            remedy = "check the name, or add the repository that has it"
            what = f"no repository of this host ({self.system.name}) has package {', '.join(unknown)}"
            raise PackageError(what, where=self._where(), remedy=remedy)
        return list(dict.fromkeys(chosen))

    def _exactly(self, name: str, pins: Mapping[str, str]) -> str:
        """The package with the version it must have: the preferred one of those that fit."""
        if name not in pins:
            return name
        offered = self.system.offered(name)
        for version in offered:
            if fnmatchcase(version, pins[name]):
                return self.system.exactly(name, version)
        what = f"no repository of this host has {name} {pins[name]}; there is {', '.join(offered) or 'none'}"
        raise _NoSuchVersionError(what, where=self._where(), remedy="name a version that is there")

    def _left(self) -> float:
        return max(1.0, self._end - self._clock())

    def _where(self) -> str:
        return self.variable or ""


def _alternatives(item: str, where: str) -> list[str]:
    names = [name.strip() for name in item.split("|")]
    for name in names:
        if not name or name.startswith("-") or any(char in name for char in " \t\n/=*"):
            remedy = "give package names, or alternatives as a|b"
            raise PackageError(f"{item!r} is no package name", where=where, remedy=remedy)
    return names


def _flat(items: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in items for name in names))


def release_fields(path: str = "/etc/os-release") -> Mapping[str, str]:
    """Read ``os-release(5)``: shell-like assignments."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise PackageError(f"cannot be read: {reason}", where=path) from error
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}
