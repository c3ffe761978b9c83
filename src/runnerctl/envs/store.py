"""The store on disk: what is published, what is being built, what is on its way out.

::

    envs/<digest>/       an environment          envs/<digest>.json   its marker; without, it is not there
    specs/<key>.json     key -> digest           texts/<sha256>.json  raw text -> key
    locks/ leases/ trash/ quarantine/ checked/   cache/{pkgs,uv,repodata}
    owners/<owner>/      a store of its own for what comes from an owner's private channels
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import msgspec

from runnerctl.envs.model import SCHEMA, Activation, Manifest, Solved
from runnerctl.envs.ports import Caches, Tell
from runnerctl.envs.seal import sealed
from runnerctl.envs.store_files import measure, remove_tree, sync_disk, write_file
from runnerctl.envs.store_locks import locked, silent
from runnerctl.errors import DataError, UnavailableError

__all__ = ["Published", "Store", "Text", "boot_id"]

FOLDERS = ("envs", "specs", "texts", "locks", "leases", "trash", "quarantine", "checked")
CACHES = ("pkgs", "uv", "repodata")
_OWNER = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{20}")
MAX_MARKER_BYTES = 64 << 20

T = TypeVar("T")


class Published(msgspec.Struct, frozen=True):
    """The part of a manifest that a hit needs; the rest of the file is passed over."""

    digest: str
    prefix: str
    activation: Activation
    created_at: float
    boot_id: str
    files: int
    size_bytes: int
    schema: str
    python: str | None = None
    python_version: str | None = None
    scripts: tuple[str, ...] = ()
    owner: str | None = None
    engine: str = "rattler"


class Text(msgspec.Struct, frozen=True):
    """What a raw text stands for. ``name``: what it calls itself, which is no part of the key."""

    key: str
    schema: str
    name: str | None = None


def boot_id(proc: Path = Path("/proc")) -> str:
    """The kernel's name for the time since the last boot; empty where there is none."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Store:
    """One store. What is broken in it reads as absent; nothing here raises for it."""

    def __init__(self, root: Path, *, owner: str | None = None) -> None:
        self.root = root
        self.owner = owner
        self.envs = root / "envs"

    def prepare(self) -> None:
        """Make what is missing. Raises UnavailableError where it cannot be written."""
        try:
            if self.owner:  # jobs see their own owner's, which is mounted past this directory
                _make(self.root.parent.parent, 0o755)
                _make(self.root.parent, 0o700)
            _make(self.root, 0o755)
            for name in FOLDERS:
                _make(self.root / name, 0o755)
            for name in ("cache", *(f"cache/{each}" for each in CACHES)):
                _make(self.root / name, 0o700)
        except OSError as error:
            what = f"the store cannot be written: {error.strerror}"
            remedy = "give another with --store, or see who owns it"
            raise UnavailableError(what, where=str(error.filename or self.root), remedy=remedy) from None

    def owned(self, owner: str) -> Store:
        """The store of what comes from an owner's private channels. Raises DataError for no such name."""
        name = owner.lower()
        if _OWNER.fullmatch(name) is None or ".." in name:
            raise DataError(f"{owner!r} is no owner's name", where=str(self.root), remedy="see the inventory")
        return Store(self.root / "owners" / name, owner=name)

    def all(self) -> tuple[Store, ...]:
        """This store and those of its owners."""
        found: list[Store] = [self]
        with contextlib.suppress(OSError), os.scandir(self.root / "owners") as entries:
            names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
            found += [self.owned(name) for name in names if _OWNER.fullmatch(name) and ".." not in name]
        return tuple(found)

    @property
    def caches(self) -> Caches:
        """Where an engine keeps what it fetched."""
        cache = self.root / "cache"
        return Caches(packages=cache / "pkgs", wheels=cache / "uv", repodata=cache / "repodata")

    def lock(
        self, name: str, *, seconds: float, what: str, tell: Tell = silent
    ) -> AbstractContextManager[None]:
        """Hold a lock of this store; see `locked`."""
        return locked(self.root / "locks" / name, seconds=seconds, what=what, tell=tell)

    # What is asked -> what it is

    def text(self, text_key: str) -> Text | None:
        """The input key that a raw text had, and its name."""
        found = self._read(self.root / "texts" / f"{text_key}.json", Text)
        return found if found and found.schema == SCHEMA and _DIGEST.fullmatch(found.key) else None

    def remember_text(self, text_key: str, key: str, name: str | None = None) -> None:
        """A later request with the same text needs no parser."""
        path = self.root / "texts" / f"{text_key}.json"
        write_file(path, msgspec.json.encode(Text(key, SCHEMA, name)), sync=False)

    def solved(self, key: str) -> Solved | None:
        """What a key stood for when it was solved last."""
        found = self._read(self.root / "specs" / f"{key}.json", Solved)
        fine = found and found.schema == SCHEMA and found.key == key and _DIGEST.fullmatch(found.digest)
        return found if fine else None

    def remember_solved(self, solved: Solved) -> None:
        """Replace what a key stands for."""
        write_file(self.root / "specs" / f"{solved.key}.json", msgspec.json.encode(solved))

    # Environments

    def prefix(self, digest: str) -> Path:
        """Where an environment is, or would be. Raises DataError for what no environment is called."""
        if _DIGEST.fullmatch(digest) is None:
            what = f"{digest[:80]!r} is no environment's name"
            raise DataError(what, where=str(self.root), remedy="runnerctl env list shows them")
        return self.envs / digest

    def marker(self, digest: str) -> Path:
        """The file that publishes it."""
        return self.prefix(digest).with_suffix(".json")

    def published(self, digest: str) -> Published | None:
        """An environment that can be used; None for anything less."""
        found = self._read(self.marker(digest), Published)
        return found if found and self._is_whole(found, digest) else None

    def manifest(self, digest: str) -> Manifest | None:
        """All that is known of a published environment."""
        found = self._read(self.marker(digest), Manifest)
        return found if found and self._is_whole(found, digest) else None

    def _is_whole(self, found: Published | Manifest, digest: str) -> bool:
        path = str(self.prefix(digest))
        return (
            found.schema == SCHEMA and found.digest == digest and found.prefix == path and os.path.isdir(path)
        )

    def digests(self) -> tuple[str, ...]:
        """Every digest that has a marker, sound or not."""
        with contextlib.suppress(OSError), os.scandir(self.envs) as entries:
            names = [entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")]
            return tuple(sorted(name for name in names if _DIGEST.fullmatch(name)))
        return ()

    def manifests(self) -> Iterator[tuple[Manifest, float]]:
        """Every published environment, and when it was used last (seconds since 1970)."""
        for digest in self.digests():
            found = self.manifest(digest)
            with contextlib.suppress(OSError):
                if found:
                    yield found, self.marker(digest).stat().st_mtime

    def publish(self, manifest: Manifest) -> None:
        """From now on the environment exists. Everything else of it is on the disk first."""
        whole = msgspec.structs.replace(manifest, seal=sealed(self.prefix(manifest.digest), manifest))
        sync_disk(self.envs)
        write_file(self.marker(manifest.digest), msgspec.json.encode(whole))

    def touch(self, digest: str, now: float) -> None:
        """It is used now; a reader without the right to write leaves that to the owner."""
        with contextlib.suppress(OSError):
            os.utime(self.marker(digest), (now, now))

    def unpublish(self, digest: str) -> Path | None:
        """Take the marker away, to the trash; the path there, for `republish`. None: there was none."""
        target = self._trash(f"{digest}.json")
        try:
            self.marker(digest).rename(target)
        except FileNotFoundError:
            return None
        return target

    def republish(self, digest: str, marker: Path) -> None:
        """Put the marker back: somebody took the environment into use meanwhile."""
        marker.rename(self.marker(digest))

    def discard(self, digest: str) -> Path | None:
        """Move what is at an environment's place to the trash, as one rename. None: nothing is there."""
        self.unpublish(digest)
        target = self._trash(digest)
        try:
            self._movable(self.prefix(digest)).rename(target)
        except FileNotFoundError:
            return None
        return target

    def quarantine(self, digest: str, reason: str) -> Path | None:
        """Take an environment out of use and keep it, with the reason, for somebody to look at."""
        marker = self.unpublish(digest)
        place = self.root / "quarantine" / f"{digest}.{secrets.token_hex(4)}"
        try:
            self._movable(self.prefix(digest)).rename(place)
        except FileNotFoundError:
            return None
        if marker:
            marker.rename(place.with_suffix(place.suffix + ".json"))
        told = {"digest": digest, "reason": reason, "at": time.time()}
        write_file(place.with_suffix(place.suffix + ".reason"), msgspec.json.encode(told))
        return place

    def empty_trash(self) -> None:
        """Remove what was discarded; what cannot be removed now is left for the next time."""
        trash = self.root / "trash"
        with contextlib.suppress(OSError):
            for path in list(trash.iterdir()):
                with contextlib.suppress(OSError):
                    remove_tree(path)

    def _trash(self, name: str) -> Path:
        return self.root / "trash" / f"{name}.{secrets.token_hex(4)}"

    @staticmethod
    def _movable(path: Path) -> Path:
        """A directory that its owner may not write cannot be moved to another one by him: ``..`` changes."""
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o755)
        return path

    # After a power cut

    def outlived(self, found: Published, boot: str) -> bool:
        """Whether an environment is as it was published, asked once a boot; within its own boot it is.

        A kernel that stopped before it wrote everything leaves files that are empty or gone.
        """
        stamp = self.root / "checked" / found.digest
        if found.boot_id == boot or _first_line(stamp) == boot:
            return True
        try:
            whole = measure(self.prefix(found.digest)) == (found.files, found.size_bytes)
        except OSError:
            return False
        if whole:
            with contextlib.suppress(OSError):
                write_file(stamp, boot.encode(), sync=False)
        return whole

    @staticmethod
    def _read(path: Path, kind: type[T], decode: Callable[..., T] = msgspec.json.decode) -> T | None:
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_MARKER_BYTES)
            return decode(data, type=kind)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None


def _make(path: Path, mode: int) -> None:
    """Make a directory with just this mode, whatever the umask; one that is there keeps its own."""
    if not path.is_dir():
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        path.chmod(mode)


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
