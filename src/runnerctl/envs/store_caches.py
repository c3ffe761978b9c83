"""What no environment needs any more: cached packages, remains of killed runs, old names and leases."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from runnerctl.envs.leases import Lease, leases
from runnerctl.envs.model import Manifest
from runnerctl.envs.store import Store
from runnerctl.envs.store_files import remove_tree
from runnerctl.envs.store_locks import locked
from runnerctl.envs.store_sizes import Sizes, package_groups
from runnerctl.errors import RunnerctlError

__all__ = ["prune_caches", "tidy"]

CACHE_LOCK = ".cache.lock"  # rattler holds it (flock) as long as it installs
CACHE_LOCK_SECONDS = 5.0
TEMPORARY_SECONDS = 3600.0
OLD_LOCK_SECONDS = 7 * 86400.0
MOST_KEYS, MOST_TEXTS = 1000, 100  # of one environment, of one key
KEEP_SECONDS = 30 * 86400.0
_KEEP = (CACHE_LOCK, "urls", "urls.txt", "cache", ".trash")


def prune_caches(
    store: Store,
    sizes: Sizes,
    live: Sequence[Manifest],
    *,
    now: float,
    over: bool,
    dry_run: bool,
) -> int:
    """Drop cached packages that no environment in ``live`` names; how many they are.

    ``over``: a limit is still passed, so that pip's wheels and the channels' indexes go as well. While an
    engine installs nothing is dropped: it may be about to use what nobody names yet.
    """
    for manifest in live:
        package_groups(sizes, manifest)
    packages = store.caches.packages
    unnamed = [name for name in sizes.cached() if name not in sizes.named() and _may_go(packages / name, now)]
    try:
        with locked(packages / CACHE_LOCK, seconds=CACHE_LOCK_SECONDS, what="pruning the package cache"):
            _drop(packages, unnamed, sizes, group="pkgs", dry_run=dry_run)
            if over and not _is_building(store):
                _drop(store.caches.wheels, ("",), sizes, group="uv", dry_run=dry_run)
    except RunnerctlError:
        return 0
    return sum(not name.startswith(".") and not name.endswith(".lock") for name in unnamed)


def _is_building(store: Store) -> bool:
    """Whether somebody solves or builds: pip's section uses the wheels without rattler's lock."""
    for path in _files(store.root / "locks"):
        try:
            with locked(path, seconds=0, what="looking for builds"):
                continue
        except RunnerctlError:
            return True
    return False


def _may_go(path: Path, now: float) -> bool:
    """Not what engines keep beside packages; a temporary directory (``.NAME-XXXXXX``) only when it is old."""
    if path.name in _KEEP:
        return False
    if not path.name.startswith("."):
        return True
    try:
        return now - os.lstat(path).st_mtime > TEMPORARY_SECONDS
    except OSError:
        return False


def _drop(folder: Path, names: Sequence[str], sizes: Sizes, *, group: str, dry_run: bool) -> None:
    for name in names:
        sizes.drop(f"{group}/{name}" if name else group)
        if dry_run:
            continue
        with contextlib.suppress(OSError):
            if name:
                remove_tree(folder / name)
                continue
            for path in list(folder.iterdir()):
                remove_tree(path)


def tidy(store: Store, *, now: float, keep_seconds: float | None, alive: Callable[[Lease], bool]) -> None:
    """Small things: dead leases, keys and texts that lead nowhere, remains of killed runs, old locks."""
    keep = KEEP_SECONDS if keep_seconds is None else keep_seconds
    with contextlib.suppress(OSError):
        for path, lease in list(leases(store)):
            if not alive(lease):
                path.unlink(missing_ok=True)
    _names(store)
    published = set(store.digests())
    for path in _files(store.root / "checked"):
        if path.name not in published:
            _unlink(path)
    for path in _files(store.root / "quarantine"):
        if _age(path, now) > keep:
            with contextlib.suppress(OSError):
                remove_tree(path)
    for folder in ("envs", "specs", "texts", "leases", "checked"):
        for path in _files(store.root / folder):
            if path.name.startswith(".") and _age(path, now) > TEMPORARY_SECONDS:
                _unlink(path)
    _remains(store)
    _locks(store, now)


def _names(store: Store) -> None:
    """A key whose environment is gone, a text whose key is; and of many for one thing all but the newest.

    Each costs whoever comes again a look, no more, and a job can think of any number.
    """
    keys, specs, texts = set(), _Newest(MOST_KEYS), _Newest(MOST_TEXTS)
    for path in _newest_first(store.root / "specs"):
        key = path.name.removesuffix(".json")
        solved = store.solved(key)
        if solved and store.published(solved.digest) is not None and specs.takes(solved.digest):
            keys.add(key)
        else:
            _unlink(path)
    for path in _newest_first(store.root / "texts"):
        text = store.text(path.name.removesuffix(".json"))
        if text is None or text.key not in keys or not texts.takes(text.key):
            _unlink(path)


class _Newest:
    """Counts how many names there are already for one thing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[str, int] = {}

    def takes(self, thing: str) -> bool:
        """Whether there is place for one more."""
        self._found[thing] = self._found.get(thing, 0) + 1
        return self._found[thing] <= self._most


def _newest_first(folder: Path) -> list[Path]:
    found = []
    for path in _files(folder):
        with contextlib.suppress(OSError):
            if not path.name.startswith("."):
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _remains(store: Store) -> None:
    """Directories without a marker that nobody builds now: a build was killed there."""
    published = set(store.digests())
    for path in _files(store.envs):
        if path.name.startswith(".") or path.name.endswith(".json") or path.name in published:
            continue
        what = "removing what a killed build left"
        with contextlib.suppress(RunnerctlError), store.lock(f"e-{path.name}", seconds=0, what=what):
            if path.name not in store.digests():
                store.discard(path.name)


def _locks(store: Store, now: float) -> None:
    for path in _files(store.root / "locks"):
        if _age(path, now) > OLD_LOCK_SECONDS:
            with contextlib.suppress(RunnerctlError), locked(path, seconds=0, what="removing an old lock"):
                _unlink(path)


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _age(path: Path, now: float) -> float:
    try:
        return now - os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
