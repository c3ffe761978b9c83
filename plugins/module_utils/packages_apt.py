"""Debian and its relatives: ``dpkg-query``, ``apt-cache`` and ``apt-get``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .errors import HostError
from .process import Result, run

__all__ = [
    "Apt",
    "Database",
    "apt_error",
    "parse_added",
    "parse_candidates",
    "parse_installed",
    "parse_refused",
    "parse_removed",
]

LISTS = "/var/lib/apt/lists"
STATUS = "/var/lib/dpkg"
SOURCES = "/etc/apt"
DAY_SECONDS = 86400
QUERY_SECONDS = 60
UPDATE_SECONDS = 300
LOCK_SECONDS = 120
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    "NEEDRESTART_SUSPEND": "1",  # it would restart services of running jobs
}
OPTIONS = (
    "-q",
    "-y",
    "-o",
    f"DPkg::Lock::Timeout={LOCK_SECONDS}",
    "-o",
    "Acquire::Retries=2",
    "-o",
    "Acquire::http::Timeout=30",
    "-o",
    "Acquire::https::Timeout=30",
)
KEEP_SETTINGS = ("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold")
TRIGGERS = ("triggers-awaited", "triggers-pending")
UNFINISHED = ("half-installed", "unpacked", "half-configured", *TRIGGERS)


@dataclass(frozen=True)
class Database:
    """What ``dpkg`` knows: installed packages, names they provide, and whether anything is half done.

    ``left`` are the packages of which anything is there: half removed, or settings alone, count too.
    """

    packages: frozenset[str]
    provided: frozenset[str]
    unfinished: bool
    left: frozenset[str] = frozenset()


class Apt:
    """See `packages.PackageSystem`."""

    python_packages: tuple[str, ...] = ("python3-venv",)
    # Where a package leaves a program that deletes its users' data when it is purged: Debian's Docker Engine
    # has one for all images, containers and volumes (docker.io.prerm, docker.io.postrm).
    shredders: Mapping[str, str] = MappingProxyType({"docker.io": "/var/lib/docker/nuke-graph-directory.sh"})

    def __init__(
        self, name: str, *, lists: str = LISTS, status: str = STATUS, sources: str = SOURCES
    ) -> None:
        self.name = name
        self.lists = lists
        self.sources = sources
        self.status = status

    def installed(self, names: Sequence[str]) -> set[str]:
        """Names of packages, and names that packages provide."""
        database = self._database()
        return {name for name in names if name in database.packages or name in database.provided}

    def left(self, names: Sequence[str]) -> set[str]:
        """A removal that was cut off leaves packages that are not installed and not gone."""
        return set(names) & self._database().left

    @staticmethod
    def _database() -> Database:
        """One call for all: it is small, and a provided name is found only in the whole of it."""
        form = "${Package}\t${Architecture}\t${db:Status-Status}\t${Provides}\n"
        return parse_installed(run(["dpkg-query", "-W", "-f", form], timeout=QUERY_SECONDS).out)

    def refresh_if_old(self, items: Sequence[Sequence[str]]) -> None:
        """``apt-get update``, unless lists of today, newer than the sources, know every item."""
        if self._lists_age() < min(DAY_SECONDS, self._sources_age()):
            known = self.available([name for names in items for name in names]) or set()
            if all(known.intersection(names) for names in items):
                return
        deadline = time.monotonic() + UPDATE_SECONDS
        while True:
            # A bad signature is only a warning where an older list is cached, hence the error mode.
            mode = ("-o", "APT::Update::Error-Mode=any")
            left = max(1.0, deadline - time.monotonic())
            done = run(["apt-get", *OPTIONS, *mode, "update"], timeout=left, env=ENVIRONMENT)
            if done.rc == 0:
                break
            if "Could not get lock" not in done.err or left < 5:
                raise HostError(f"the package lists cannot be fetched: {apt_error(done)}")
            time.sleep(2)
        with contextlib.suppress(OSError):
            os.utime(self.lists)  # unchanged lists leave it as it was

    def available(self, names: Sequence[str]) -> set[str] | None:
        """Names with a candidate, and names that some package provides."""
        if self._lists_age() == float("inf"):
            return None
        done = run(["apt-cache", "policy", *names], timeout=QUERY_SECONDS)
        found = parse_candidates(done.out)
        virtual = [name for name, candidate in found.items() if not candidate]
        provided = {name for name in virtual if self._provided(name)}
        return {name for name, candidate in found.items() if candidate} | provided

    def _provided(self, name: str) -> bool:
        done = run(["apt-get", "-s", *OPTIONS, "install", name], timeout=QUERY_SECONDS)
        return done.rc == 0

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """As ``dpkg`` prints them."""
        form = "${Package}\t${db:Status-Status}\t${Version}\n"
        out = run(["dpkg-query", "-W", "-f", form, "--", *names], timeout=QUERY_SECONDS).out
        rows = [line.split("\t") for line in out.splitlines()]
        return {row[0]: row[2] for row in rows if len(row) == 3 and row[1] in ("installed", *TRIGGERS)}

    def offered(self, name: str) -> list[str]:
        """The candidate, then all that repositories have, the newest first."""
        policy = run(["apt-cache", "policy", name], timeout=QUERY_SECONDS).out
        candidate = re.findall(r"^  Candidate: (\S+)$", policy, re.MULTILINE)
        madison = run(["apt-cache", "madison", name], timeout=QUERY_SECONDS).out
        rows = [line.split("|") for line in madison.splitlines()]
        found = [row[1].strip() for row in rows if len(row) == 3]
        return list(dict.fromkeys([version for version in candidate if version in found] + found))

    @staticmethod
    def exactly(name: str, version: str) -> str:
        """``name=version``."""
        return f"{name}={version}"

    def unfinished(self) -> bool:
        """Whether an interrupted run left a package half done."""
        journal = any(name.isdigit() for name in _listing(f"{self.status}/updates"))
        return journal or self._database().unfinished

    def brings(self, names: Sequence[str]) -> list[str]:
        """As ``apt-get`` would do it."""
        return parse_added(self._simulated(names))

    def pushes_out(self, names: Sequence[str]) -> list[str]:
        """As ``apt-get`` would do it, which with ``-y`` asks nobody."""
        return parse_removed(self._simulated(names))

    @staticmethod
    def _simulated(names: Sequence[str]) -> str:
        """What it would do, were nothing on hold: holds are lifted by who asks for another version."""
        options = [*_install_options(names), "--allow-change-held-packages"]
        argv = ["apt-get", "-s", *options, "install", "--", *names]
        return run(argv, timeout=QUERY_SECONDS).out

    def install(self, names: Sequence[str], *, seconds: float, replacing: bool = False) -> None:
        """After mending what an interrupted run left half done."""
        deadline = time.monotonic() + seconds
        self._finish_interrupted(deadline)
        options = [*KEEP_SETTINGS, *_install_options(names), *([] if replacing else ["--no-remove"])]
        left = max(1.0, deadline - time.monotonic())
        done = run(["apt-get", *options, "install", "--", *names], timeout=left, env=ENVIRONMENT)
        if done.rc != 0:
            raise HostError(f"{' '.join(names)} cannot be installed: {apt_error(done)}")

    def removable(self, names: Sequence[str]) -> list[str]:
        """``dpkg`` never takes another package along: it refuses those that one depends on."""
        left = self._database().left
        going = [name for name in names if name in left]
        while going:
            done = run(["dpkg", "--no-act", "--purge", "--", *going], timeout=QUERY_SECONDS)
            refused = parse_refused(done.err)
            if not refused:
                break
            going = [name for name in going if name.split(":")[0] not in refused]
        return going

    def remove(self, names: Sequence[str], *, seconds: float) -> None:
        """Purge, so that a later installation starts afresh; the data of users stay."""
        deadline = time.monotonic() + seconds
        _wait_for_lock(f"{self.status}/lock-frontend", deadline)
        shredders = [path for name, path in self.shredders.items() if name in names]
        for verb in ("--remove", "--purge") if shredders else ("--purge",):
            argv = ["dpkg", verb, "--", *names]
            done = run(argv, timeout=max(1.0, deadline - time.monotonic()), env=ENVIRONMENT)
            if done.rc != 0:
                raise HostError(f"{' '.join(names)} cannot be removed: {apt_error(done)}")
            for path in shredders:  # put there by the removal, for the purge
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def finish(self, *, seconds: float) -> None:
        """Configure what an interrupted run left, pending triggers of other packages included."""
        self._finish_interrupted(time.monotonic() + seconds)

    def _lists_age(self) -> float:
        """Seconds since the package lists were fetched; infinite when there are none."""
        ends = ("_Packages", "_Packages.lz4", "_Packages.gz")
        if not any(name.endswith(ends) for name in _listing(self.lists)):
            return float("inf")
        return time.time() - os.stat(self.lists).st_mtime

    def _sources_age(self) -> float:
        """Seconds since a source or preference was last changed; infinite when there is none."""
        folders = [self.sources, *(f"{self.sources}/{name}" for name in ("sources.list.d", "preferences.d"))]
        paths = [f"{folder}/{name}" for folder in folders for name in _listing(folder)]
        files = [path for path in paths if os.path.isfile(path)]
        if not files:
            return float("inf")
        return time.time() - max(os.stat(path).st_mtime for path in files)

    def _finish_interrupted(self, deadline: float) -> None:
        if not self.unfinished():
            return
        _wait_for_lock(f"{self.status}/lock-frontend", deadline)
        left = max(1.0, deadline - time.monotonic())
        done = run(
            ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"], timeout=left, env=ENVIRONMENT
        )
        if done.rc != 0:
            remedy = "run `dpkg --configure -a` on the host and mend what it says"
            raise HostError(
                f"an interrupted installation cannot be finished: {apt_error(done)}", remedy=remedy
            )


def parse_installed(out: str) -> Database:
    """From ``dpkg-query``: lines of package, architecture, status and provided names."""
    packages: set[str] = set()
    provided: set[str] = set()
    left: set[str] = set()
    unfinished = False
    for line in out.splitlines():
        name, machine, status, provides = (line.split("\t") + [""] * 4)[:4]
        if status != "not-installed":
            left |= {name, f"{name}:{machine}"}
        # Triggers are outstanding work of a package that is there and works.
        if status in ("installed", *TRIGGERS):
            packages |= {name, f"{name}:{machine}"}
            provided |= {word.split("(")[0].strip() for word in provides.split(",") if word.strip()}
        unfinished = unfinished or status in UNFINISHED
    return Database(frozenset(packages), frozenset(provided), unfinished, frozenset(left))


def parse_candidates(out: str) -> dict[str, bool]:
    """From ``apt-cache policy``: name -> whether it has a candidate; unknown names are missing."""
    found: dict[str, bool] = {}
    name = ""
    for line in out.splitlines():
        if line and not line.startswith(" "):
            name = line.rstrip(":")
        elif line.strip().startswith("Candidate:"):
            found[name] = line.split(":", 1)[1].strip() != "(none)"
    return found


def parse_added(out: str) -> list[str]:
    """From ``apt-get -s``: the packages that would be new (those with a version in brackets are upgraded)."""
    return re.findall(r"^Inst (\S+) \(", out, re.MULTILINE)


def parse_removed(out: str) -> list[str]:
    """From ``apt-get -s``: the packages that would go."""
    return re.findall(r"^(?:Remv|Purg) (\S+)", out, re.MULTILINE)


def parse_refused(err: str) -> set[str]:
    """From ``dpkg --purge``: the packages that it would not remove."""
    found = re.findall(r"^dpkg: error processing package (\S+) \(--", err, re.MULTILINE)
    return {name.split(":")[0] for name in found}


def apt_error(done: Result) -> str:
    """The line that says why: the first error, or the last thing said."""
    lines = [line.strip() for line in f"{done.out}\n{done.err}".splitlines() if line.strip()]
    for line in lines:
        if "No space left on device" in line or "don't have enough free space" in line:
            return "no space left on the host"
    errors = [line[2:].strip() for line in lines if line.startswith("E:")]
    errors += [line for line in lines if line.startswith("dpkg: error")]
    return errors[0] if errors else (lines[-1] if lines else f"exit status {done.rc}")


def _install_options(names: Sequence[str]) -> list[str]:
    # An exact version was asked for: it may be an older one.
    older = ["--allow-downgrades"] if any("=" in name for name in names) else []
    return [*OPTIONS, "--no-install-recommends", *older]


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _wait_for_lock(path: str, deadline: float) -> None:
    """Wait until no other package manager runs; ``dpkg`` itself would fail at once."""
    with open(path, "ab") as file:
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError, PermissionError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(1)
    raise HostError("another package manager is running", remedy="wait for it to end")
