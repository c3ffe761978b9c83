"""Room for a build: what has to be free before it begins."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from runnerctl.envs.gc import Limits, collect, oldest_first, remove
from runnerctl.envs.leases import is_alive
from runnerctl.envs.model import Solution
from runnerctl.envs.policy import Policy
from runnerctl.envs.store import Store
from runnerctl.envs.store_sizes import sizes_of
from runnerctl.envs.store_use import Clock
from runnerctl.errors import TryAgainError

__all__ = ["free_bytes", "make_room", "needed_bytes"]

UNPACKED = 4  # times its archives' bytes an environment takes, with what pip and bytecode add


def needed_bytes(solution: Solution) -> int:
    """What a solution may take on disk, from the bytes of its archives."""
    return UNPACKED * sum(package.size_bytes or 0 for package in solution.packages)


def free_bytes(path: Path) -> int:
    """What may still be written to the file system of ``path``, by everybody."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def make_room(
    store: Store,
    mine: Store,
    solution: Solution,
    *,
    policy: Policy,
    clock: Clock,
    free: Callable[[Path], int] = free_bytes,
) -> None:
    """See that a build into ``mine`` fits on the disk and into its owner's quota; remove what was not used
    for longest where it does not.

    Raises TryAgainError, with the figures, when that is not enough.
    """
    need = needed_bytes(solution)
    if mine.owner and policy.quota_bytes is not None:
        _quota(mine, need, policy.quota_bytes, clock)
    if free(store.root) >= need + policy.reserve_bytes:
        return
    store.empty_trash()
    reach = free(store.root) + sum(sizes_of(each).total for each in store.all())
    if reach < need + policy.reserve_bytes:  # whatever an index says: nobody's environments go in vain
        raise _no_room(store, need, reach, policy, "could be free")
    for _, each, digest in oldest_first(store.all(), is_alive, clock.now()):
        if free(store.root) >= need + policy.reserve_bytes:
            return
        if remove(each, digest, now=clock.now()):
            each.empty_trash()
    if free(store.root) < need + policy.reserve_bytes:
        collect(store, Limits(), now=clock.now())  # the caches' packages that nobody names now
    left = free(store.root)
    if left < need + policy.reserve_bytes:
        raise _no_room(store, need, left, policy, "are free")


def _no_room(store: Store, need: int, left: int, policy: Policy, how: str) -> TryAgainError:
    what = f"no room: the environment needs about {_gib(need)}, and {_gib(left)} {how}"
    what += f", of which {_gib(policy.reserve_bytes)} stay free"
    remedy = "free space on that disk, or run it again when the jobs that use environments are done"
    return TryAgainError(what, where=str(store.root), remedy=remedy)


def _quota(mine: Store, need: int, quota: int, clock: Clock) -> None:
    used = sum(manifest.size_bytes for manifest, _ in mine.manifests())
    if used + need <= quota:
        return
    collect(mine, Limits(budget_bytes=max(0, quota - need)), now=clock.now())
    used = sum(manifest.size_bytes for manifest, _ in mine.manifests())
    if used + need > quota:
        what = f"the quota of {mine.owner} is full: {_gib(used)} of {_gib(quota)} are in use by running jobs"
        what += f", and this environment needs about {_gib(need)}"
        remedy = "run it again when they are done, or have conda_store_owner_quota_gib raised"
        raise TryAgainError(what, where=str(mine.root), remedy=remedy)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
