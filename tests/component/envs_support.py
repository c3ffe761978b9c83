"""An engine of twenty lines for tests of the store: packages are directories, made at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runnerctl.envs.ensure import Asked
from runnerctl.envs.model import Event, HostFacts, Package, Request, Solution, VirtualPackage
from runnerctl.envs.policy import Policy
from runnerctl.envs.ports import Installed, Order, Tell
from runnerctl.envs.store_use import Clock

FACTS = HostFacts("linux-64", (VirtualPackage("__glibc", "2.36"),))
TEXT = "name: demo\nchannels: [conda-forge]\ndependencies: [python=3.12, numpy]\n"


class Directories:
    """Solves to what the file says. ``journal``: a line for each build, appended by whatever process builds.

    ``during``: called in the middle of an install, with the prefix; ``seconds``: how long that takes.
    """

    def __init__(
        self, journal: Path, *, during: Callable[[Path], None] | None = None, seconds: float = 0.0
    ) -> None:
        self.journal = journal
        self.during = during
        self.seconds = seconds
        self.orders: list[Order] = []

    def solve(self, order: Order, tell: Tell) -> Solution:
        """One package a spec."""
        self.orders.append(order)
        self._note("solve")
        tell(Event("solve", "in no time"))
        names = sorted({line.text.lower().partition("=")[0] for line in order.file.specs})
        packages = (Package(n, "1", "0", f"https://x/{n}-1-0.conda", n * 2, 1000) for n in names)
        return Solution(tuple(packages), "lock")

    def install(self, order: Order, packages: Sequence[Package], prefix: Path, tell: Tell) -> Installed:
        """Scripts, a module and one file a package, linked from the cache as engines do."""
        (prefix / "bin").mkdir(parents=True)
        (prefix / "conda-meta").mkdir()
        script = prefix / "bin/tool"
        script.write_text(f"#!{prefix}/bin/python3.12\nprint(1)\n")
        script.chmod(0o4755)
        (prefix / "bin/other").write_text("#!/bin/sh\n")
        for package in packages:
            cached = order.caches.packages / f"{package.name}-1-0" / "file"
            cached.parent.mkdir(exist_ok=True)
            if not cached.exists():
                cached.write_bytes(package.name.encode() * 5000)
            os.link(cached, prefix / f"{package.name}.bin")
            (prefix / "conda-meta" / f"{package.name}.json").write_text("{}")
            (prefix / "conda-meta" / f"{package.name}.json").chmod(0o600)
            tell(Event("link", package.name))
        if self.during:
            self.during(prefix)
        time.sleep(self.seconds)
        self._note(f"build {prefix.name}")
        return Installed()

    def _note(self, line: str) -> None:
        with self.journal.open("a") as file:
            file.write(line + "\n")

    def count(self, word: str) -> int:
        """How many lines of the journal begin with ``word``."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return sum(line.startswith(word) for line in lines)


def asked(
    text: str = TEXT, *, policy: Policy | None = None, owner: str | None = None, **rest: object
) -> Asked:
    """A request with facts and a policy that takes everything, and needs no free space."""
    everything = bool(rest.pop("everything", False))
    request = Request(text=text, **rest)  # type: ignore[arg-type]  # fields of Request, by name
    return Asked(request, FACTS, policy or Policy(reserve_bytes=0), owner, everything)


def clock(now: float = 1_000_000.0, boot: str = "boot-1") -> Clock:
    """A time of day that stands still."""
    return Clock(now=lambda: now, ticks=time.monotonic, boot=boot)
