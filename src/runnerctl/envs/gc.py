"""Remove environments that nobody used for long, and what they alone needed.

An environment is unpublished first; then it is looked whether somebody took it into use at that very moment;
then it goes to the trash, as one rename, and from there for good.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from runnerctl.envs.leases import Lease, is_alive, leases
from runnerctl.envs.model import Manifest
from runnerctl.envs.store import Store
from runnerctl.envs.store_caches import prune_caches, tidy
from runnerctl.envs.store_sizes import Sizes, package_groups, sizes_of
from runnerctl.errors import TryAgainError

__all__ = ["Collected", "Limits", "Removed", "collect", "remove"]

Alive = Callable[[Lease, float], bool]


class Limits(msgspec.Struct, frozen=True):
    """``budget_bytes`` for everything, ``quotas`` for single owners' stores (``quota_bytes``: for the rest).

    ``keep_seconds``: what was not used for longer goes whatever its size. None: no such limit.
    """

    budget_bytes: int | None = None
    keep_seconds: float | None = None
    quotas: Mapping[str, int] = {}
    quota_bytes: int | None = None

    def quota(self, owner: str) -> int | None:
        """How much one owner's store may take."""
        return self.quotas.get(owner, self.quota_bytes)


class Removed(msgspec.Struct, frozen=True):
    """An environment that went: ``why`` is ``unused``, ``budget`` or ``quota``."""

    digest: str
    owner: str | None
    size_bytes: int
    last_used_at: float
    why: str


class Collected(msgspec.Struct, frozen=True):
    """What was done, or with ``dry_run`` would be. ``size_bytes``: of everything that stays.

    ``leased``: environments that stay because a living process uses them; ``packages``: of the caches, gone.
    """

    removed: tuple[Removed, ...]
    kept: int
    leased: int
    packages: int
    freed_bytes: int
    size_bytes: int
    over_budget: bool
    dry_run: bool


class _Candidate(msgspec.Struct):
    store: Store
    sizes: Sizes
    manifest: Manifest
    last_used_at: float
    leased: bool

    @property
    def digest(self) -> str:
        return self.manifest.digest


def collect(
    store: Store,
    limits: Limits,
    *,
    now: float | None = None,
    alive: Alive = is_alive,
    dry_run: bool = False,
) -> Collected:
    """Bring a store and its owners' under their limits, the longest unused first. Leased ones stay.

    Sizes count each inode once: an environment shares most of its files with the package cache.
    """
    now = time.time() if now is None else now
    run = _Run(store, limits, now, alive, dry_run)
    for candidate in sorted(run.candidates, key=lambda each: each.last_used_at):
        run.judge(candidate)
    packages = 0
    for each, sizes in run.sizes:
        live = [c.manifest for c in run.candidates if c.store is each and c.digest not in run.gone]
        over = run.is_over(each, sizes)
        packages += prune_caches(each, sizes, live, now=now, over=over, dry_run=dry_run)
        if not dry_run:
            tidy(each, now=now, keep_seconds=limits.keep_seconds, alive=lambda lease: alive(lease, now))
            each.empty_trash()
    return run.result(packages)


class _Run:
    """One collection as it goes."""

    def __init__(self, store: Store, limits: Limits, now: float, alive: Alive, dry_run: bool) -> None:
        self.limits = limits
        self.now = now
        self.alive = alive
        self.dry_run = dry_run
        self.sizes = [(each, sizes_of(each)) for each in store.all()]
        self.before = self.total()
        self.candidates = [item for each, sizes in self.sizes for item in self._of(each, sizes)]
        self.removed: list[Removed] = []
        self.gone: set[str] = set()

    def total(self) -> int:
        return sum(sizes.total for _, sizes in self.sizes)

    def _of(self, store: Store, sizes: Sizes) -> Iterator[_Candidate]:
        used = {lease.digest for _, lease in leases(store) if self.alive(lease, self.now)}
        for manifest, at in store.manifests():
            package_groups(sizes, manifest)
            yield _Candidate(store, sizes, manifest, at, manifest.digest in used)

    def judge(self, item: _Candidate) -> None:
        """Remove one environment when it must go."""
        why = self._why(item)
        if why is None or item.leased:
            return
        before = item.sizes.total
        if not self.dry_run and not remove(item.store, item.digest, now=self.now, alive=self.alive):
            item.leased = True
            return
        item.sizes.drop_environment(item.digest)
        freed = before - item.sizes.total
        self.gone.add(item.digest)
        self.removed.append(Removed(item.digest, item.store.owner, freed, item.last_used_at, why))

    def _why(self, item: _Candidate) -> str | None:
        limits = self.limits
        if limits.keep_seconds is not None and self.now - item.last_used_at > limits.keep_seconds:
            return "unused"
        owner = item.store.owner
        quota = limits.quota(owner) if owner else None
        if quota is not None and item.sizes.total > quota:
            return "quota"
        if limits.budget_bytes is not None and self.total() > limits.budget_bytes:
            return "budget"
        return None

    def is_over(self, store: Store, sizes: Sizes) -> bool:
        """Whether a limit is still passed when every environment that may go went."""
        quota = self.limits.quota(store.owner) if store.owner else None
        budget = self.limits.budget_bytes
        return (quota is not None and sizes.total > quota) or (budget is not None and self.total() > budget)

    def result(self, packages: int) -> Collected:
        """What was done."""
        size, budget = self.total(), self.limits.budget_bytes
        return Collected(
            removed=tuple(self.removed),
            kept=len(self.candidates) - len(self.removed),
            leased=sum(item.leased for item in self.candidates),
            packages=packages,
            freed_bytes=self.before - size,
            size_bytes=size,
            over_budget=budget is not None and size > budget,
            dry_run=self.dry_run,
        )


def remove(store: Store, digest: str, *, now: float | None = None, alive: Alive = is_alive) -> bool:
    """Take an environment away, into the trash; False when it is in use, being built, or not there."""
    now = time.time() if now is None else now
    try:
        with store.lock(f"e-{digest}", seconds=0, what=f"removing the environment {digest}"):
            marker = store.unpublish(digest)
            if marker is None:
                return False
            if any(lease.digest == digest and alive(lease, now) for _, lease in leases(store)):
                store.republish(digest, marker)
                return False
            store.discard(digest)
            with contextlib.suppress(OSError):
                marker.unlink()
    except TryAgainError:
        return False
    return True


def oldest_first(stores: Sequence[Store], alive: Alive, now: float) -> list[tuple[float, Store, str]]:
    """Every environment that no living process uses, the longest unused first."""
    found = []
    for store in stores:
        used = {lease.digest for _, lease in leases(store) if alive(lease, now)}
        found += [(at, store, each.digest) for each, at in store.manifests() if each.digest not in used]
    return sorted(found, key=lambda item: item[0])
