"""What is removed, in which order, and what never is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.envs.gc import Limits, collect, remove
from runnerctl.envs.leases import Holder, holder, take
from runnerctl.envs.model import Activation, Manifest, Package, Solved
from runnerctl.envs.store import Store
from runnerctl.envs.store_files import harden, remove_tree
from runnerctl.envs.store_use import Clock, keep

NOW = 2_000_000_000.0
DAY = 86400.0
MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    store.prepare()
    yield store
    remove_tree(store.root)


def _environment(store: Store, number: int, *packages: str, days: float) -> str:
    """One of 1 MiB of its own and 1 MiB for each package, linked from the cache; used ``days`` ago."""
    digest = f"{number:020x}"
    store.prepare()
    prefix = store.prefix(digest)
    prefix.mkdir()
    (prefix / "own").write_bytes(b"x" * MIB)
    for name in packages:
        cached = store.caches.packages / f"{name}-1-0" / "file"
        cached.parent.mkdir(exist_ok=True)
        if not cached.exists():
            cached.write_bytes(b"y" * MIB)
        os.link(cached, prefix / name)
    files, size = harden(prefix)
    found = tuple(Package(name, "1", "0", f"https://x/{name}.conda") for name in packages)
    store.publish(
        Manifest(
            digest=digest,
            prefix=str(prefix),
            engine="rattler",
            packages=found,
            activation=Activation(()),
            created_at=NOW,
            boot_id="",
            files=files,
            size_bytes=size,
        )
    )
    store.remember_solved(Solved(digest, digest, NOW))
    store.remember_text(f"{number:064x}", digest)
    store.touch(digest, NOW - days * DAY)
    return digest


def _cached(store: Store) -> list[str]:
    return sorted(path.name for path in store.caches.packages.iterdir() if not path.name.startswith("."))


def test_what_was_not_used_for_long_goes_with_what_it_alone_needed(store: Store) -> None:
    """Its environment, its cached packages, its names; what others share stays."""
    old = _environment(store, 1, "numpy", "shared", days=40)
    new = _environment(store, 2, "shared", days=1)
    dry = collect(store, Limits(keep_seconds=30 * DAY), now=NOW, dry_run=True)
    assert store.digests() == (old, new)
    done = collect(store, Limits(keep_seconds=30 * DAY), now=NOW)
    assert [(each.digest, each.why) for each in done.removed] == [(old, "unused")]
    assert store.digests() == (new,)
    assert _cached(store) == ["shared-1-0"]
    assert done.packages == 1
    assert 2 * MIB <= done.freed_bytes <= 2.1 * MIB
    assert (dry.freed_bytes, dry.size_bytes, dry.packages) == (done.freed_bytes, done.size_bytes, 1)
    assert [path.name for path in (store.root / "specs").iterdir()] == [f"{new}.json"]
    assert len(os.listdir(store.root / "texts")) == 1
    assert os.listdir(store.root / "trash") == []
    assert not store.prefix(old).exists()


def test_a_budget_takes_the_longest_unused_first(store: Store) -> None:
    """Only as many as needed; sizes count what is shared once."""
    first = _environment(store, 1, "shared", days=3)
    second = _environment(store, 2, "shared", days=2)
    third = _environment(store, 3, "shared", days=1)
    done = collect(store, Limits(budget_bytes=int(3.2 * MIB)), now=NOW)
    assert [each.digest for each in done.removed] == [first]
    assert done.removed[0].why == "budget"
    assert store.digests() == (second, third)
    assert not done.over_budget
    assert done.size_bytes <= 3.2 * MIB


def test_what_a_living_process_uses_stays(store: Store) -> None:
    """Whatever the budget, and a process that is gone keeps nothing."""
    used = _environment(store, 1, days=50)
    left = _environment(store, 2, days=50)
    me = holder(os.getpid())
    assert me is not None
    take(store, used, me, now=NOW)
    take(store, left, Holder(me.pid, me.began + 1), now=NOW)
    done = collect(store, Limits(budget_bytes=0, keep_seconds=DAY), now=NOW)
    assert store.digests() == (used,)
    assert (done.leased, done.kept, done.over_budget) == (1, 1, True)
    assert len(os.listdir(store.root / "leases")) == 1
    assert not remove(store, used, now=NOW)
    assert remove(store, used, now=NOW, alive=lambda *_: False)


def test_a_lease_taken_at_that_moment_brings_it_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpublished first, looked for leases then: whoever was in between has it, or knows that it went."""
    digest = _environment(store, 1, days=50)
    me = holder(os.getpid())
    assert me is not None
    clock = Clock(now=lambda: NOW, ticks=time.monotonic, boot="")
    kept: list[bool] = []
    unpublish = Store.unpublish

    def between(self: Store, name: str) -> Path | None:
        path = unpublish(self, name)
        kept.append(keep(self, name, me, clock))
        return path

    monkeypatch.setattr(Store, "unpublish", between)
    assert not remove(store, digest, now=NOW)
    assert kept == [False]
    assert store.published(digest) is not None


def test_what_is_being_built_is_left_alone(store: Store) -> None:
    """Its lock says so; and remains without a builder go."""
    building, remains = f"{7:020x}", f"{8:020x}"
    for digest in (building, remains):
        store.prefix(digest).mkdir()
    published = _environment(store, 1, days=50)
    with (
        store.lock(f"e-{building}", seconds=0, what="a build"),
        store.lock(f"e-{published}", seconds=0, what="a build"),
    ):
        collect(store, Limits(keep_seconds=DAY), now=NOW)
    assert store.prefix(building).exists()
    assert not store.prefix(remains).exists()
    assert store.digests() == (published,)


def test_an_owner_has_a_quota(store: Store) -> None:
    """His store is brought under it, everybody's is not touched for it."""
    public = _environment(store, 1, days=9)
    theirs = store.owned("acme")
    first = _environment(theirs, 2, days=3)
    second = _environment(theirs, 3, days=2)
    done = collect(store, Limits(quota_bytes=int(1.5 * MIB)), now=NOW)
    assert [(each.digest, each.owner, each.why) for each in done.removed] == [(first, "acme", "quota")]
    assert store.digests() == (public,)
    assert theirs.digests() == (second,)


def test_remains_of_killed_runs_go_when_they_are_old(store: Store) -> None:
    """Temporary directories of the engine and of ours; young ones may be in use."""
    packages = store.caches.packages
    for name, age in ((".numpy-abc", 7200), (".scipy-def", 60)):
        (packages / name).mkdir()
        os.utime(packages / name, (NOW - age, NOW - age))
    part = store.root / "specs/.x.json.1.ab"
    part.write_text("")
    os.utime(part, (NOW - 7200, NOW - 7200))
    collect(store, Limits(), now=NOW)
    assert not (packages / ".numpy-abc").exists()
    assert (packages / ".scipy-def").exists()
    assert not part.exists()


def test_the_caches_are_left_alone_while_an_engine_installs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds rattler's lock, and may be about to use what nobody names yet."""
    from runnerctl.envs.store_locks import locked

    monkeypatch.setattr("runnerctl.envs.store_caches.CACHE_LOCK_SECONDS", 0.0)
    (store.caches.packages / "new-1-0").mkdir()
    with locked(store.caches.packages / ".cache.lock", seconds=0, what="an install"):
        assert collect(store, Limits(), now=NOW).packages == 0
    assert _cached(store) == ["new-1-0"]
    assert collect(store, Limits(), now=NOW).packages == 1
    assert _cached(store) == []


def test_a_job_cannot_fill_the_disk_with_names(store: Store) -> None:
    """Any number of comments means one environment; the newest are found without a look, and no more."""
    key = _environment(store, 1, days=0)
    for number in range(2, 107):
        store.remember_text(f"{number:064x}", key)
        path = store.root / "texts" / f"{number:064x}.json"
        os.utime(path, (1000 + number, 1000 + number))
    collect(store, Limits())
    assert len(list((store.root / "texts").iterdir())) == 100
    assert store.text(f"{106:064x}") is not None
    assert store.text(f"{4:064x}") is None
    assert store.solved(key) is not None
