"""What a store holds, for people and programs: one mapping an environment."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.envs.leases import is_alive, leases
from runnerctl.envs.model import Manifest, Solved
from runnerctl.envs.store import Store

__all__ = ["listed"]


def listed(stores: tuple[Store, ...], *, now: float) -> list[dict[str, Any]]:
    """The published environments of these stores, the one used last first.

    ``leases``: how many living processes keep it; ``names``: what the files call it; ``owner``: whose jobs
    may see it, None for everybody's. ``now`` in seconds since 1970.
    """
    rows = [row for store in stores for row in _of(store, now)]
    return sorted(rows, key=lambda row: (-row["used_at"], row["digest"]))


def _of(store: Store, now: float) -> list[dict[str, Any]]:
    held = Counter(lease.digest for _, lease in leases(store) if is_alive(lease, now))
    names = _names(store.root / "specs")
    return [
        _row(manifest, used) | {"leases": held[manifest.digest], "names": names.get(manifest.digest, [])}
        for manifest, used in store.manifests()
    ]


def _row(manifest: Manifest, used_at: float) -> dict[str, Any]:
    return {
        "digest": manifest.digest,
        "prefix": manifest.prefix,
        "owner": manifest.owner,
        "engine": manifest.engine,
        "python_version": manifest.python_version,
        "packages": len(manifest.packages),
        "files": manifest.files,
        "size_bytes": manifest.size_bytes,
        "created_at": manifest.created_at,
        "used_at": used_at,
    }


def _names(specs: Path) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for path in specs.glob("*.json"):
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            solved = msgspec.json.decode(path.read_bytes(), type=Solved)
            found.setdefault(solved.digest, set()).update([solved.name] if solved.name else ())
    return {digest: sorted(names) for digest, names in found.items()}
