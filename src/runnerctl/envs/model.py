"""What the parts of the environment store tell each other. Pure: no I/O."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "SCHEMA",
    "Activation",
    "Channel",
    "EngineName",
    "EnvironmentFile",
    "Event",
    "HostFacts",
    "Line",
    "Manifest",
    "Package",
    "Ready",
    "Request",
    "Solution",
    "Solved",
    "VirtualPackage",
]

SCHEMA = "runnerctl.env/1"
EngineName = Literal["rattler", "conda", "mamba"]


class Line(msgspec.Struct, frozen=True):
    """A piece of a file and the line it stands on, counted from one."""

    text: str
    line: int


class EnvironmentFile(msgspec.Struct, frozen=True):
    """An ``environment.yml`` that can be used, in the order it is written; ``nodefaults`` is gone.

    ``platforms``: the only ones it is for; none says all. ``notes``: what was passed over, a line each.
    """

    channels: tuple[Line, ...]
    specs: tuple[Line, ...]
    pip: tuple[Line, ...] = ()
    variables: dict[str, str] = {}
    name: str | None = None
    where: str = "environment.yml"
    platforms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class VirtualPackage(msgspec.Struct, frozen=True, order=True):
    """What a host has without conda: ``__glibc=2.36=0``, ``__cuda=12.8=0``."""

    name: str
    version: str
    build: str = "0"


class HostFacts(msgspec.Struct, frozen=True):
    """What of a host decides which packages fit: conda's platform (``linux-64``), and the rest."""

    subdir: str
    virtual: tuple[VirtualPackage, ...]


class Channel(msgspec.Struct, frozen=True):
    """A channel after aliases and mirrors. ``owner``: whose it is alone; None for one that is everybody's."""

    url: str
    owner: str | None = None


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody asks of a store.

    ``text``: content of the ``environment.yml``; ``where``: its name for messages. ``cuda``: ``auto`` (what
    the host has), ``none``, or a version to build for. ``lock``: content of a lock file, which then decides
    every package. ``files``: content of the files that the pip section names with ``-r`` and ``-c``, by name.
    ``refresh_seconds``: solve again when the last solve is older.
    """

    text: str
    where: str = "environment.yml"
    cuda: str = "auto"
    engine: EngineName = "rattler"
    lock: str | None = None
    files: dict[str, str] = {}
    refresh_seconds: int | None = None


class Package(msgspec.Struct, frozen=True):
    """One solved package. ``sha256`` in hex; ``size_bytes`` of its archive."""

    name: str
    version: str
    build: str
    url: str
    sha256: str | None = None
    size_bytes: int | None = None
    noarch: bool = False


class Solution(msgspec.Struct, frozen=True):
    """What an engine decided. ``lock``: the same as text, in the engine's lock format."""

    packages: tuple[Package, ...]
    lock: str


class Activation(msgspec.Struct, frozen=True):
    """What ``conda activate`` would do, as data. ``path``: directories to put in front of PATH, in order.

    ``notes``: what could not be carried over (shell functions, refused variables), a line each.
    """

    path: tuple[str, ...]
    variables: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """The publish marker of an environment: it exists when this file does. Times in seconds since 1970.

    ``python``: path of its interpreter below the prefix, None without one. ``scripts``: names in ``bin`` that
    begin with a line naming that interpreter; a layer has its own of each. ``pip``: ``name==version`` of what
    pip installed. ``seal``: sha256 of what no package vouches for, see `seal.sealed`; empty: unknown.
    """

    digest: str
    prefix: str
    engine: EngineName
    packages: tuple[Package, ...]
    activation: Activation
    created_at: float
    boot_id: str
    files: int
    size_bytes: int
    schema: str = SCHEMA
    pip: tuple[str, ...] = ()
    python: str | None = None
    python_version: str | None = None
    scripts: tuple[str, ...] = ()
    owner: str | None = None
    lock: str = ""
    seal: str = ""


class Solved(msgspec.Struct, frozen=True):
    """What a key stands for: the environment's digest, when that was solved, and the file's own variables."""

    key: str
    digest: str
    solved_at: float
    variables: dict[str, str] = {}
    name: str | None = None
    schema: str = SCHEMA


class Ready(msgspec.Struct, frozen=True):
    """The answer: an environment that is there. ``linked``: solved anew, and that very environment was there.

    ``activation`` holds the file's own variables too.
    """

    status: Literal["hit", "linked", "built"]
    key: str
    digest: str
    prefix: str
    activation: Activation
    duration_seconds: float
    schema: str = SCHEMA
    python: str | None = None
    python_version: str | None = None
    scripts: tuple[str, ...] = ()
    files: int = 0
    size_bytes: int = 0


class Event(msgspec.Struct, frozen=True):
    """Progress. ``step``: what is done now; ``done`` of ``total`` where that is known (packages or bytes)."""

    step: Literal["wait", "solve", "fetch", "link", "pip", "compile", "publish", "check"]
    text: str = ""
    done: int | None = None
    total: int | None = None
