"""Who uses an environment now: as long as that process lives, it is not removed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from runnerctl.envs.store import Store, boot_id
from runnerctl.envs.store_files import write_file

__all__ = ["Holder", "Lease", "holder", "is_alive", "job_holder", "leases", "take"]

LASTING_SECONDS = 6 * 24 * 3600.0  # GitHub lets a job of a self-hosted runner go on for five days
WORKER = "Runner.Worker"
MAX_ANCESTORS = 64


class Holder(msgspec.Struct, frozen=True):
    """A process: its number, and when it began (clock ticks since boot), as numbers come again."""

    pid: int
    began: int


class Lease(msgspec.Struct, frozen=True):
    """``expires_at``: seconds since 1970, after which not even a living process keeps the environment."""

    digest: str
    pid: int
    began: int
    boot_id: str
    expires_at: float


def _stat(pid: int, proc: Path) -> tuple[str, int, int] | None:
    """State, parent and start of a process, from ``/proc/PID/stat``; None when there is none."""
    try:
        fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[1]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def holder(pid: int, proc: Path = Path("/proc")) -> Holder | None:
    """The process of a number, if it lives."""
    found = _stat(pid, proc)
    return Holder(pid, found[2]) if found and found[0] not in "ZX" else None


def job_holder(pid: int, proc: Path = Path("/proc")) -> Holder | None:
    """Who lives as long as what ``pid`` asked for is needed: its runner's worker in a job, else its parent.

    The command that asks ends at once; the steps of its job, or the shell it was typed into, go on.
    """
    found, at = _stat(pid, proc), pid
    parent = found[1] if found else 0
    for _ in range(MAX_ANCESTORS):
        if found is None or at <= 1:
            break
        if _is_worker(at, proc):
            return holder(at, proc)
        at = found[1]
        found = _stat(at, proc)
    return (holder(parent, proc) if parent > 1 else None) or holder(pid, proc)


def _is_worker(pid: int, proc: Path) -> bool:
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")[:2]
    except OSError:
        return False
    return any(os.path.basename(word).decode(errors="replace") == WORKER for word in words)


def take(
    store: Store, digest: str, who: Holder, *, now: float, seconds: float = LASTING_SECONDS, boot: str = ""
) -> None:
    """Write a lease, or renew it. Whoever takes one looks again whether the environment is published."""
    lease = Lease(digest, who.pid, who.began, boot or boot_id(), now + seconds)
    path = store.root / "leases" / f"{digest}-{who.pid}-{who.began}.json"
    write_file(path, msgspec.json.encode(lease), sync=False)


def leases(store: Store) -> Iterator[tuple[Path, Lease]]:
    """Every lease that can be read; one that cannot is removed."""
    with contextlib.suppress(OSError):
        for path in sorted((store.root / "leases").glob("*.json")):
            try:
                yield path, msgspec.json.decode(path.read_bytes(), type=Lease)
            except (msgspec.DecodeError, UnicodeDecodeError):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            except OSError:
                continue


def is_alive(lease: Lease, now: float, *, proc: Path = Path("/proc"), boot: str = "") -> bool:
    """Whether its process still lives, in this boot, and the lease has not run out."""
    if lease.expires_at <= now or lease.boot_id != (boot or boot_id(proc)):
        return False
    return holder(lease.pid, proc) == Holder(lease.pid, lease.began)
