"""The driver's packages: sources, preferences, headers, one transaction, and what keeps upgrades away.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from . import repository as repositories
from .driver_kernels import Kernel, kernels, running_kernel
from .driver_plan import DriverPlan
from .driver_sources import add_components
from .driver_work import MANAGED, ROLE, Work
from .errors import HostError
from .packages import Outcome, Packages, PackageSystem, package_system

__all__ = ["PREFERENCES", "DriverPackages"]

PREFERENCES = "/etc/apt/preferences.d/runnerctl-nvidia-driver"
VERSION_LOCK = "/etc/dnf/plugins/versionlock.list"
VERSION_LOCK_COMMAND = ("dnf", "-q", "-y", "versionlock")
OUR_LOCK = re.compile(r"\*nvidia\*\d[\d.]*\*")
LOCK_PACKAGE = "python3-dnf-plugin-versionlock"
INSTALL_SECONDS = 1800.0
HOLD_SECONDS = 120.0
# Packages whose versions are not the driver's.
OWN_VERSIONS = re.compile(r"nvidia-driver-pinning-|nvlsm")
HELD = "driver packages held back from upgrades"


class DriverPackages:
    """One pass over sources and packages."""

    def __init__(self, work: Work, plan: DriverPlan, system: PackageSystem | None = None) -> None:
        self.work = work
        self.plan = plan
        self.system = system or package_system(str(work.path("/etc/os-release")))
        self.apt = work.path("/etc/apt").is_dir()
        self._sources_change = False

    def finish_interrupted(self) -> None:
        """A killed run left packages half configured: nothing can be installed before they are whole."""
        if self.system.unfinished():
            if not self.work.check:
                self.system.finish(seconds=INSTALL_SECONDS)
            self.work.actions.append("interrupted installation finished")

    def sources(self) -> None:
        """Components, repositories with their keys, preferences."""
        if self.plan.components and self.apt:
            self._sources_change |= add_components(self.work, self.plan.components)
        if self.plan.prerequisites:
            outcome = self._packages().present(self.plan.prerequisites, check=self.work.check)
            self.work.actions += [f"installed {name}" for name in outcome.installed]
            self._sources_change |= outcome.changed
        for each in self.plan.repositories:
            self._repository(each.__dict__)
        if self.apt:
            text = "\n".join(
                f"Package: {' '.join(pin.packages)}\nPin: {pin.pin}\nPin-Priority: {pin.priority}\n"
                for pin in self.plan.pins
            )
            changed = self.work.write(PREFERENCES, MANAGED + text) if text else self.work.remove(PREFERENCES)
            self._sources_change |= changed

    def _repository(self, data: dict[str, object]) -> None:
        given = {**data, "suite": data["suite"] or "/", "variable": "nvidia_driver_repository"}
        wanted = repositories.Repository.from_dict(given)
        root = str(self.work.layout.root)
        done = repositories.ensure(
            wanted, receipt=self.work.receipt, role=ROLE, check=self.work.check, root=root
        )
        self.work.changes += [change for change in done.changes if change.changed]
        self.work.actions += done.actions
        self._sources_change |= done.changed

    def install(self) -> Outcome:
        """Headers and driver in one transaction; holds are lifted for it and put back, whatever comes."""
        items = [*self.plan.packages, *self._headers()]
        packages = self._packages()
        pins = self._versions()
        if not packages.missing(items, versions=pins):
            return Outcome()
        if self.work.check:
            change = self._sources_change
            outcome = packages.present(items, versions=pins, sources_change=change, check=True)
        else:
            outcome = self._transaction(packages, items)
        self.work.actions += [f"installed {name}" for name in outcome.installed]
        return outcome

    def _versions(self) -> Mapping[str, str]:
        """NVIDIA's repository has every branch under the same names: without a version, the branch is one."""
        if self.plan.versions or self.plan.source != "nvidia" or not self.plan.branch:
            return self.plan.versions
        names = [name for item in self.plan.packages for name in item.split("|")]
        return {name: f"{self.plan.branch}.*" for name in names if not OWN_VERSIONS.match(name)}

    def _packages(self) -> Packages:
        variable, seconds = "nvidia_driver_source", INSTALL_SECONDS
        return Packages(self.system, self.work.receipt, role=ROLE, variable=variable, seconds=seconds)

    def _transaction(self, packages: Packages, items: Sequence[str]) -> Outcome:
        held = self._held() if self.apt else set()
        mine = sorted(name for name in held if self._is_mine(name))
        if mine:
            self.work.do(["apt-mark", "unhold", *mine], seconds=HOLD_SECONDS)
        locks = [] if self.apt else self._unlock_rpm()
        try:
            return packages.present(items, versions=self._versions())
        except HostError as error:
            if mine:
                self.work.do(["apt-mark", "hold", *mine], seconds=HOLD_SECONDS)
            if locks:
                self.work.do([*VERSION_LOCK_COMMAND, "add", "--raw", *locks], seconds=HOLD_SECONDS)
            raise self._with_log(error) from error

    def _with_log(self, error: HostError) -> HostError:
        """The package manager says only that a script failed; what DKMS failed on stands in its log."""
        logs = sorted(self.work.path("/var/lib/dkms").glob("nvidia*/*/build/make.log"))
        if not logs or "error code" not in error.what:
            return error
        return HostError(error.what, where=error.where, remedy=f"see {logs[-1]} on the host")

    def _headers(self) -> list[str]:
        """Headers for every kernel whose headers some repository has; a note for the others."""
        headers = self.plan.headers
        if headers is None:
            return []
        items = [headers.meta] if headers.meta else []
        for kernel in self._kernels_to_serve():
            name = (headers.per_kernel or "").format(kernel=kernel)
            if not name:
                continue
            if self.system.installed([name]) or self._offered(name):
                items.append(name)
            else:
                note = f"no repository has {name}: the module cannot be built for kernel {kernel}"
                self.work.note(note)
        return items

    def _kernels_to_serve(self) -> list[str]:
        """The installed kernels without headers that were made by hand, and the running one."""
        found = [kernel for kernel in kernels(self.work, self.plan.module_names) if kernel.installed]
        running = running_kernel()
        if all(kernel.release != running for kernel in found):
            self.work.note(
                f"kernel {running} runs and is none of this host's: a container, or it was removed"
            )
        return [kernel.release for kernel in found if not _has_own_headers(self.work, kernel)]

    def _offered(self, name: str) -> bool:
        if not self.work.check and name not in (self.system.available([name]) or ()):
            self.system.refresh_if_old([])  # lists of yesterday do not know the kernel of today
        available = self.system.available([name])
        return available is None or name in available

    # -- holds ---------------------------------------------------------------------------------------------

    def hold(self, coming: Iterable[str] = ()) -> None:
        """Keep the driver's packages as they are. ``coming``: what check mode says would be installed."""
        if not self.plan.hold:
            return
        if self.apt:
            self._hold_apt(list(coming))
        else:
            self._lock_rpm()

    def _hold_apt(self, coming: Sequence[str]) -> None:
        there = self._installed()
        wanted = sorted(name for name in there if self._is_mine(name))
        missing = [name for name in wanted if name not in self._held()]
        if missing and not self.work.check:
            self.work.do(["apt-mark", "hold", *missing], seconds=HOLD_SECONDS)
        if missing or (self.work.check and any(self._is_mine(name) for name in coming)):
            self.work.actions.append(HELD)

    def _unlock_rpm(self) -> list[str]:
        """Locks of ours on another version would keep the wanted one out; those of others stay.

        Returns the locks that were lifted.
        """
        locked = (self.work.read(VERSION_LOCK) or "").split()
        stale = [line for line in locked if OUR_LOCK.fullmatch(line) and line not in self.plan.hold]
        if stale:
            self.work.do([*VERSION_LOCK_COMMAND, "delete", "--raw", *stale], seconds=HOLD_SECONDS)
        return stale

    def _lock_rpm(self) -> None:
        """A lock per glob; the plugin writes what it is told with ``--raw``."""
        locked = set((self.work.read(VERSION_LOCK) or "").split())
        missing = [glob for glob in self.plan.hold if glob not in locked]
        if not missing:
            return
        if not self.work.check:
            Packages(self.system, self.work.receipt, role=ROLE).present([LOCK_PACKAGE])
            self.work.do([*VERSION_LOCK_COMMAND, "add", "--raw", *missing], seconds=HOLD_SECONDS)
        self.work.actions.append(HELD)

    def _is_mine(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.plan.hold)

    def _held(self) -> set[str]:
        return {name for name, want, _ in self._selections() if want == "hold"}

    def _installed(self) -> set[str]:
        return {name for name, _, status in self._selections() if status == "installed"}

    def _selections(self) -> list[tuple[str, str, str]]:
        form = "${Package}\t${db:Status-Want}\t${db:Status-Status}\n"
        rows = [line.split("\t") for line in self.work.ask("dpkg-query", "-W", "-f", form).out.splitlines()]
        return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def _has_own_headers(work: Work, kernel: Kernel) -> bool:
    """Headers that no package brought: a kernel somebody built on the host."""
    if not kernel.headers:
        return False
    done = work.ask("dpkg-query", "-S", f"/lib/modules/{kernel.release}/build")
    return done.rc == 1
