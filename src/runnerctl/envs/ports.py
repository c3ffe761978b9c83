"""What the store asks of an engine, and how everything tells of its progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from runnerctl.envs.model import Activation, Channel, EnvironmentFile, Event, HostFacts, Package, Solution

__all__ = ["Caches", "Engine", "Installed", "Order", "Tell"]

Tell = Callable[[Event], None]


class Caches(msgspec.Struct, frozen=True):
    """Where an engine keeps what it fetched: package archives unpacked, pip's wheels, channel indexes."""

    packages: Path
    wheels: Path
    repodata: Path


class Order(msgspec.Struct, frozen=True):
    """Everything that decides a solution. ``lock``: take exactly these packages instead of solving.

    ``credentials``: path of a file of channel credentials that only the builder can read, in the form of
    RATTLER_AUTH_FILE. ``pip_index``: address of the package index for pip's section; None for its default.
    ``anyway``: code of packages runs where the kernel cannot confine it, too: the store is the user's own.
    """

    file: EnvironmentFile
    channels: tuple[Channel, ...]
    facts: HostFacts
    caches: Caches
    lock: str | None = None
    files: dict[str, str] = {}
    credentials: Path | None = None
    pip_index: str | None = None
    anyway: bool = False


class Installed(msgspec.Struct, frozen=True):
    """What an engine put into a prefix, besides the solved packages: ``name==version`` of pip's.

    ``python``: path of the interpreter below the prefix. ``activation``: what an engine that runs in a child
    found out there already; None: the store asks ``runnerctl.envs.activation``.
    """

    pip: tuple[str, ...] = ()
    python: str | None = None
    python_version: str | None = None
    activation: Activation | None = None


class Engine(Protocol):
    """Solves and installs.

    Both raise DataError (what the file asks for cannot be had: with its line where that is known),
    UnavailableError (a channel or index did not answer) or TryAgainError (no space).
    """

    def solve(self, order: Order, tell: Tell) -> Solution:
        """Decide on every package; writes to the caches only."""

    def install(self, order: Order, packages: Sequence[Package], prefix: Path, tell: Tell) -> Installed:
        """Fetch, verify and put everything, pip's section too, into ``prefix``, which does not exist yet."""
