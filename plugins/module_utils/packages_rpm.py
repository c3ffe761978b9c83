"""Fedora, Enterprise Linux and their relatives: ``rpm`` and ``dnf``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from .errors import HostError
from .process import Result, run

__all__ = ["Rpm", "dnf_error", "parse_missing"]

QUERY_SECONDS = 60
UPDATE_SECONDS = 300
CACHE = "/var/cache/dnf"
OPTIONS = ("-y", "-q", "--setopt=install_weak_deps=False", "--setopt=timeout=30", "--setopt=retries=2")


class Rpm:
    """See `packages.PackageSystem`."""

    python_packages: tuple[str, ...] = ("python3.11|python3.12",)

    def __init__(self, name: str) -> None:
        self.name = name

    def installed(self, names: Sequence[str]) -> set[str]:
        """``--whatprovides`` answers for names and for what packages provide."""
        query = ["rpm", "-q", "--whatprovides", "--qf", "%{NAME}\n"]
        done = run([*query, *names], timeout=QUERY_SECONDS)
        return set(names) - parse_missing(done.out)

    def left(self, names: Sequence[str]) -> set[str]:
        """``rpm`` knows no state in between."""
        return self.installed(names)

    def refresh_if_old(self, items: Sequence[Sequence[str]]) -> None:
        """``dnf`` keeps the age of its lists itself; nothing is done for items that are known."""
        known = self.available([name for names in items for name in names]) or set()
        if all(known.intersection(names) for names in items):
            return
        done = run(["dnf", *OPTIONS, "makecache"], timeout=UPDATE_SECONDS)
        if done.rc != 0:
            raise HostError(f"the package lists cannot be fetched: {dnf_error(done)}")

    def available(self, names: Sequence[str]) -> set[str] | None:
        """From the lists already fetched: this must write nothing."""
        if not os.path.isdir(CACHE) or not os.listdir(CACHE):
            return None
        found = set()
        query = ["dnf", "-q", "-C", "repoquery", "--qf", "%{name}\n"]
        for name in names:  # one by one: the answer names the provider, not what was asked
            done = run([*query, "--whatprovides", name], timeout=QUERY_SECONDS)
            if done.rc == 0 and done.out.strip():
                found.add(name)
        return found

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """Version and release, as ``rpm`` prints them."""
        query = ["rpm", "-q", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\n"]
        rows = [line.split("\t") for line in run([*query, *names], timeout=QUERY_SECONDS).out.splitlines()]
        return {row[0]: row[1] for row in rows if len(row) == 2}

    def offered(self, name: str) -> list[str]:
        """All that the lists have, the newest first."""
        query = ["dnf", "-q", "-C", "repoquery", "--showduplicates", "--qf", "%{version}-%{release}\n", name]
        found = run(query, timeout=QUERY_SECONDS).out.split()
        return list(dict.fromkeys(reversed(found)))

    @staticmethod
    def exactly(name: str, version: str) -> str:
        """``name-version``."""
        return f"{name}-{version}"

    def unfinished(self) -> bool:
        """Never: rpm leaves no package half configured."""
        return False

    def brings(self, names: Sequence[str]) -> list[str]:
        """The names alone: ``dnf autoremove`` knows what came with them."""
        return list(names)

    def pushes_out(self, names: Sequence[str]) -> list[str]:
        """Nothing: without ``--allowerasing`` ``dnf`` refuses by itself."""
        del names
        return []

    def install(self, names: Sequence[str], *, seconds: float, replacing: bool = False) -> None:
        """``dnf`` waits for another one to end, and replaces only what a package itself obsoletes."""
        del replacing
        self._dnf("install", names, seconds)

    def removable(self, names: Sequence[str]) -> list[str]:
        """What ``rpm`` would let go without breaking another package."""
        if run(["rpm", "-e", "--test", *names], timeout=QUERY_SECONDS).rc == 0:
            return list(names)
        return [name for name in names if run(["rpm", "-e", "--test", name], timeout=QUERY_SECONDS).rc == 0]

    def remove(self, names: Sequence[str], *, seconds: float) -> None:
        """Only these: dependencies that nobody needs stay for the administrator to decide."""
        self._dnf("remove", names, seconds)

    def finish(self, *, seconds: float) -> None:
        """Nothing: rpm leaves no package half configured."""

    def _dnf(self, verb: str, names: Sequence[str], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        argv = ["dnf", *OPTIONS, "--setopt=clean_requirements_on_remove=False", verb, *names]
        done = run(argv, timeout=max(1.0, deadline - time.monotonic()))
        if done.rc != 0:
            raise HostError(f"{' '.join(names)}: dnf {verb} failed: {dnf_error(done)}")


def parse_missing(out: str) -> set[str]:
    """From ``rpm -q --whatprovides``: the names that nothing provides."""
    mark = "no package provides "
    return {line[len(mark) :].strip() for line in out.splitlines() if line.startswith(mark)}


def dnf_error(done: Result) -> str:
    """The line that says why."""
    lines = [line.strip() for line in f"{done.out}\n{done.err}".splitlines() if line.strip()]
    for line in lines:
        if "No space left on device" in line or "more space needed on" in line:
            return "no space left on the host"
    errors = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("Error:", "Error :"))]
    errors = [line for line in errors if line]
    return errors[0] if errors else (lines[-1] if lines else f"exit status {done.rc}")
