"""Look whether published environments still are what was installed, and put those aside that are not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from runnerctl.envs.leases import is_alive, leases
from runnerctl.envs.model import Event, Manifest
from runnerctl.envs.ports import Tell
from runnerctl.envs.seal import sealed
from runnerctl.envs.store import Store
from runnerctl.envs.store_files import measure
from runnerctl.envs.store_locks import silent

__all__ = ["verified"]

WAIT_SECONDS = 600.0


def verified(
    stores: Sequence[Store], digest: str | None, *, full: bool, tell: Tell = silent, now: float | None = None
) -> list[dict[str, Any]]:
    """``digest``, ``owner``, ``problems`` (a line each) and ``set_aside`` of one environment, or of all.

    One that differs is put aside unless a living process uses it, so that the next who asks has it built
    anew. Raises TryAgainError when another process holds its lock for too long.
    """
    at = time.time() if now is None else now
    found = [(store, manifest) for store in stores for manifest, _ in store.manifests()]
    wanted = [pair for pair in found if digest in (None, pair[1].digest)]
    answers = []
    for number, (store, manifest) in enumerate(wanted, start=1):
        tell(Event("check", manifest.digest, done=number, total=len(wanted)))
        answers.append(_look(store, manifest, full=full, now=at))
    return answers


def _look(store: Store, manifest: Manifest, *, full: bool, now: float) -> dict[str, Any]:
    from runnerctl.envs.verify import verify

    digest = manifest.digest
    damages = verify(store.prefix(digest), full=full)
    problems = [f"{each.path} {each.what}{f' ({each.package})' if each.package else ''}" for each in damages]
    problems += _as_published(store, manifest, full=full)
    aside = bool(problems) and _set_aside(store, manifest, problems, now)
    return {"digest": digest, "owner": manifest.owner, "problems": problems, "set_aside": aside}


def _as_published(store: Store, manifest: Manifest, *, full: bool) -> list[str]:
    """What packages do not tell: files that came since, and what is nobody's but ours."""
    prefix = store.prefix(manifest.digest)
    try:
        now, then = measure(prefix), (manifest.files, manifest.size_bytes)
        same = not (full and manifest.seal) or sealed(prefix, manifest) == manifest.seal
    except OSError as error:
        return [f"{error.filename} cannot be read: {error.strerror}"]
    found = []
    if now != then:
        found.append(f"it has {now[0]} files of {now[1]} bytes, not {then[0]} of {then[1]}")
    if not same:
        found.append("its marker, a link or bytecode is not as it was published")
    return found


def _set_aside(store: Store, manifest: Manifest, problems: list[str], now: float) -> bool:
    """Quarantine what is still the environment that was looked at, unless somebody has taken it meanwhile."""
    digest = manifest.digest
    if _is_used(store, digest, now):
        return False
    with store.lock(f"e-{digest}", seconds=WAIT_SECONDS, what=f"putting {digest} aside"):
        if store.manifest(digest) != manifest:
            return False
        marker = store.unpublish(digest)
        if marker is None:
            return False
        if _is_used(store, digest, now):  # by one who looked just before it went
            store.republish(digest, marker)
            return False
        place = store.quarantine(digest, f"{len(problems)} differences: {problems[0]}")
        marker.rename(f"{place}.json") if place else marker.unlink()
    return True


def _is_used(store: Store, digest: str, now: float) -> bool:
    return any(lease.digest == digest and is_alive(lease, now) for _, lease in leases(store))
