"""Take a published environment into use: what every hit does, in milliseconds and without a parser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from runnerctl.envs.leases import Holder, take
from runnerctl.envs.model import Activation, Ready, Solved
from runnerctl.envs.ports import Tell
from runnerctl.envs.store import Published, Store
from runnerctl.envs.store_locks import silent

__all__ = ["Clock", "Use", "keep"]

Status = Literal["hit", "linked", "built"]
CHECK_SECONDS = 600.0
SPOILT = "files were lost when the host stopped without a shutdown"


class Clock(msgspec.Struct, frozen=True):
    """``now``: seconds since 1970; ``ticks``: seconds that never go back; ``boot``: the kernel's boot id."""

    now: Callable[[], float]
    ticks: Callable[[], float]
    boot: str


class Use(msgspec.Struct, frozen=True):
    """Who takes environments into use (nobody: no lease), and since when the request runs."""

    clock: Clock
    began: float
    holder: Holder | None = None
    tell: Tell = silent

    def solved(
        self, store: Store, key: str, *, refresh_seconds: int | None, name: str | None, status: Status = "hit"
    ) -> Ready | None:
        """What a key stands for, if that was solved lately enough and is published."""
        solved = store.solved(key)
        if solved is None:
            return None
        if refresh_seconds is not None and self.clock.now() - solved.solved_at > refresh_seconds:
            return None
        return self.digest(store, solved, name=name, status=status)

    def digest(
        self, store: Store, solved: Solved, *, name: str | None, status: Status, locked: bool = False
    ) -> Ready | None:
        """An environment, if it is published, whole, and stays so as long as its holder lives.

        ``locked``: the caller holds the digest's lock.
        """
        found = store.published(solved.digest)
        if found is None or not self._is_sound(store, found, locked):
            return None
        if self.holder and not keep(store, solved.digest, self.holder, self.clock):
            return None
        store.touch(solved.digest, self.clock.now())
        return Ready(
            status=status,
            key=solved.key,
            digest=solved.digest,
            prefix=found.prefix,
            activation=_activation(found, solved, name or solved.name),
            duration_seconds=max(0.0, self.clock.ticks() - self.began),
            python=found.python,
            python_version=found.python_version,
            scripts=found.scripts,
            files=found.files,
            size_bytes=found.size_bytes,
        )

    def _is_sound(self, store: Store, found: Published, locked: bool) -> bool:
        """What a power cut has spoilt is put aside; under its lock, as somebody may have built it anew."""
        if store.outlived(found, self.clock.boot):
            return True
        what = f"looking at the environment {found.digest} after the host's restart"
        if locked:
            store.quarantine(found.digest, SPOILT)
            return False
        with store.lock(f"e-{found.digest}", seconds=CHECK_SECONDS, what=what, tell=self.tell):
            again = store.published(found.digest)
            if again is not None and store.outlived(again, self.clock.boot):
                return True
            if again is not None:
                store.quarantine(found.digest, SPOILT)
        return False


def keep(store: Store, digest: str, holder: Holder, clock: Clock) -> bool:
    """Write a lease; False when the environment went just then: a collector looks after it unpublished."""
    take(store, digest, holder, now=clock.now(), boot=clock.boot)
    return store.published(digest) is not None


def _activation(found: Published, solved: Solved, name: str | None) -> Activation:
    """The environment's own, what conda always sets, and the file's variables, which have the last word."""
    always = {
        "CONDA_PREFIX": found.prefix,
        "CONDA_DEFAULT_ENV": name or found.prefix,
        "PYTHONNOUSERSITE": "1",
    }
    variables = {**found.activation.variables, **always, **solved.variables}
    return msgspec.structs.replace(found.activation, variables=variables)
