"""How much a store takes: each inode once, however many environments and cached packages share it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from runnerctl.envs.model import Manifest
from runnerctl.envs.store import Store
from runnerctl.envs.store_files import walk

__all__ = ["Sizes", "package_groups", "sizes_of", "stems"]

ARCHIVES = (".conda", ".tar.bz2", ".lock")


class Sizes:
    """What is on disk, in groups (an environment, a cached package, the rest). ``total`` in bytes.

    A group that is dropped takes away what no other group has.
    """

    def __init__(self) -> None:
        self.total = 0
        self._inodes: dict[int, list[int]] = {}  # inode -> how many groups have it, its bytes
        self._groups: dict[str, array[int]] = {}
        self._cached: list[str] = []
        self._named_by: dict[str, set[str]] = {}  # cached package -> environments that name it

    def add(self, group: str, path: Path) -> None:
        """Everything at and below ``path``."""
        if group.startswith("pkgs/"):
            self._cached.append(path.name)
        seen = set()
        for number, size in _inodes(path):
            if number in seen:
                continue
            seen.add(number)
            held = self._inodes.setdefault(number, [0, size])
            if held[0] == 0:
                self.total += size
            held[0] += 1
        self._groups[group] = array("Q", seen)

    def drop(self, group: str) -> None:
        """The group is gone, or will be."""
        for number in self._groups.pop(group, ()):
            held = self._inodes[number]
            held[0] -= 1
            if held[0] == 0:
                self.total -= held[1]
                del self._inodes[number]

    def cached(self) -> tuple[str, ...]:
        """The names in the package cache, as they were found."""
        return tuple(self._cached)

    def named(self) -> set[str]:
        """The cached packages that some environment names."""
        return set(self._named_by)

    def name(self, package: str, digest: str) -> None:
        """An environment names a cached package."""
        self._named_by.setdefault(package, set()).add(digest)

    def drop_environment(self, digest: str) -> None:
        """An environment goes, and with it the cached packages that it alone names."""
        self.drop(f"envs/{digest}")
        for package, names in list(self._named_by.items()):
            names.discard(digest)
            if not names:
                del self._named_by[package]
                self.drop(f"pkgs/{package}")


def sizes_of(store: Store) -> Sizes:
    """Look at everything in a store. Takes seconds where there are many environments."""
    sizes = Sizes()
    for path in _children(store.envs):
        sizes.add(f"envs/{path.name}", path)
    for path in _children(store.caches.packages):
        sizes.add(f"pkgs/{path.name}", path)
    sizes.add("uv", store.caches.wheels)
    sizes.add("repodata", store.caches.repodata)
    for path in _children(store.root / "quarantine"):
        sizes.add(f"quarantine/{path.name}", path)
    return sizes


def package_groups(sizes: Sizes, manifest: Manifest) -> None:
    """Say which cached packages an environment names."""
    names = set(stems(manifest))
    for cached in sizes.cached():
        if any(stem in names for stem in _stems_of(cached)):
            sizes.name(cached, manifest.digest)


def stems(manifest: Manifest) -> Iterator[str]:
    """``name-version-build`` of each package."""
    for package in manifest.packages:
        yield f"{package.name}-{package.version}-{package.build}"


def _stems_of(cached: str) -> Iterator[str]:
    """What a name in the cache may stand for: engines put a hash or an ending behind the package's own."""
    for ending in ARCHIVES:
        cached = cached.removesuffix(ending)
    yield cached
    for at in range(len(cached) - 1, 0, -1):
        if cached[at] in "-_.":
            yield cached[:at]


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _inodes(path: Path) -> Iterator[tuple[int, int]]:
    """Number and bytes on disk of what is at and below ``path``; what vanishes is passed over."""
    try:
        status = os.lstat(path)
    except OSError:
        return
    yield status.st_ino, status.st_blocks * 512
    for entry in walk(path):
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        yield status.st_ino, status.st_blocks * 512
