"""The toolkit's packages: all of one version, and held there. Standard library only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .errors import HostError
from .packages import Packages
from .packages_rpm import Rpm
from .process import run
from .toolkit_engine import parse_version

__all__ = ["Holds", "ToolkitPackages"]

HOLD_SECONDS = 60.0
LOCK_FILE = "etc/dnf/plugins/versionlock.list"
VARIABLE = "container_toolkit_version"


class Holds:
    """Versions that no upgrade changes: ``apt-mark hold``, or dnf's versionlock."""

    def __init__(self, *, rpm: bool, root: str = "/") -> None:
        self.rpm = rpm
        self.lock_file = os.path.join(root, LOCK_FILE)

    def held(self) -> set[str]:
        """Names held now; dnf's list is read as the plugin writes it, ``name-0:version-release.*``."""
        if not self.rpm:
            return {
                name.split(":")[0] for name in run(["apt-mark", "showhold"], timeout=HOLD_SECONDS).out.split()
            }
        try:
            with open(self.lock_file, encoding="utf-8") as file:
                lines = [line.strip() for line in file]
        except FileNotFoundError:
            return set()
        return {line.rsplit("-", 2)[0] for line in lines if line.count("-") >= 2 and line[0] not in "#!"}

    def hold(self, names: Sequence[str]) -> None:
        """Hold what is installed. Raises HostError."""
        self._run(["dnf", "-q", "-y", "versionlock", "add"] if self.rpm else ["apt-mark", "hold"], names)

    def release(self, names: Sequence[str]) -> None:
        """Let them change. Raises HostError."""
        self._run(["dnf", "-q", "-y", "versionlock", "delete"] if self.rpm else ["apt-mark", "unhold"], names)

    def _run(self, argv: list[str], names: Sequence[str]) -> None:
        done = run([*argv, *names], timeout=HOLD_SECONDS)
        if done.rc != 0:
            reason = (done.err.strip() or done.out.strip() or f"exit status {done.rc}").splitlines()[-1]
            raise HostError(f"{' '.join(names)} cannot be held: {reason}", where=" ".join(argv[:2]))


@dataclass
class ToolkitPackages:
    """Packages that must be of one version. ``version``: with or without its revision, or None for any.

    ``refresh`` fetches lists that may be out of date, and says whether there were such.
    """

    packages: Packages
    holds: Holds
    names: tuple[str, ...]
    version: str | None
    refresh: Callable[[], bool]
    actions: list[str] = field(default_factory=list)

    def apply(self, *, check: bool, sources_change: bool) -> None:
        """Install what is missing or of another version, then hold. Raises HostError."""
        try:
            self._install(check=check, sources_change=sources_change)
        except HostError:
            if check or not self.refresh():
                raise
            self._install(check=False, sources_change=False)
        missing = sorted(set(self.names) - self.holds.held())
        if missing:
            if not check:
                self.holds.hold(missing)
            self.actions.append(f"held: {', '.join(missing)}")

    def _install(self, *, check: bool, sources_change: bool) -> None:
        versions = self._versions(sources_change=check and sources_change)
        if not self.packages.missing(self.names, versions=versions):
            return
        there = sorted(self.holds.held() & set(self.names))
        with self._released([] if check else there):
            done = self.packages.present(
                self.names, versions=versions, sources_change=sources_change, check=check
            )
        self.actions += [f"package {_shown(name, versions)} installed" for name in done.installed]

    @contextlib.contextmanager
    def _released(self, names: Sequence[str]) -> Iterator[None]:
        """Holds lifted for one transaction; after one that failed they are as before."""
        if names:
            self.holds.release(names)
        try:
            yield
        except HostError:
            if names:
                self.holds.hold(names)
            raise

    def installed_version(self) -> tuple[int, ...] | None:
        """Of the first package, as numbers."""
        return parse_version(self.packages.system.versions(self.names[:1]).get(self.names[0], ""))

    def _versions(self, *, sources_change: bool) -> dict[str, str]:
        """Name -> version or glob of it; nothing where only the real run can tell."""
        system = self.packages.system
        if self.version:
            glob = self.version if "-" in self.version else f"{self.version}-*"
            return dict.fromkeys(self.names, glob)
        there = system.versions(self.names)
        if len(there) == len(self.names) and len(set(there.values())) == 1:
            return dict.fromkeys(self.names, next(iter(there.values())))
        offered = [system.offered(name) for name in self.names]
        common = [version for version in offered[0] if all(version in each for each in offered[1:])]
        # A half-done upgrade is finished with the version that was under way.
        common.sort(key=lambda version: version not in there.values())
        if common:
            return dict.fromkeys(self.names, common[0])
        if sources_change or not any(offered):
            return {}
        what = f"no repository has {', '.join(self.names)} in one common version"
        raise HostError(what, where=VARIABLE, remedy="check the mirror, or name a version that it has")


def _shown(name: str, versions: dict[str, str]) -> str:
    return f"{name} {versions[name]}" if name in versions else name


def is_rpm(packages: Packages) -> bool:
    """Whether the host is of Enterprise Linux' kind."""
    return isinstance(packages.system, Rpm)
