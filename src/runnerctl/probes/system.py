"""Filesystems and the kernel's clock: calls that may hang, so each runs in a bounded child."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.snapshot import Filesystem, TimeSync, Unavailable
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.files import under

__all__ = ["PATHS", "parse_filesystems", "parse_time_sync", "read_filesystems", "read_time_sync"]

PATHS = ("/", "/var/lib/gha-runner", "/opt", "/tmp")
_OWN = ("", "/_work", "/_diag", "/home")  # what the runner and its jobs write to, below a slot's root
_STA_UNSYNC = 0x40  # adjtimex(2)
_TIMEX_BYTES = 512  # far more than struct timex of any architecture
_SERVICES = {
    "systemd-timesyncd": "/run/systemd/timesync/synchronized",
    "chrony": "/run/chrony/chronyd.pid",
    "ntpd": "/run/ntpd.pid",
}


def read_filesystems(
    report: Report, *, rootfs: Path, paths: Sequence[str] = PATHS, slots: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """statvfs of each path; a path that does not exist is left out. A dead network mount hangs here.

    A slot's own directories are listed only where they are mounts of their own, or read-only by themselves.
    """
    own = [f"{PATHS[1]}/{slot}{part}" for slot in slots for part in _OWN]
    found: list[dict[str, Any]] = []
    for path in [*paths, *own]:
        report.stage(f"statvfs {path}")
        try:
            where = under(rootfs, path)
            device, room = where.stat().st_dev, os.statvfs(where)
        except OSError:
            continue
        # What an unprivileged user may use of what it could use at most: the reckoning of df(1).
        read_only, shown = bool(room.f_flag & os.ST_RDONLY), f"{os.major(device)}:{os.minor(device)}"
        known = {(row["device"], row["read_only"]) for row in found}
        if path in own and (shown, read_only) in known:
            continue
        used = (room.f_blocks - room.f_bfree) * room.f_frsize
        free = room.f_bavail * room.f_frsize
        found.append(
            {
                "paths": [path],
                "device": shown,
                "total_bytes": used + free,
                "free_bytes": free,
                "total_inodes": room.f_files,
                "free_inodes": room.f_favail,
                "read_only": read_only,
            }
        )
    return found


def parse_filesystems(outcome: Outcome) -> tuple[Filesystem, ...] | Unavailable:
    """One reading per device and per way it is mounted, with all the paths of interest on it."""
    if outcome.failure:
        return outcome.failure
    merged: dict[tuple[str, bool], dict[str, Any]] = {}
    for row in outcome.value:  # a bind mount may be read-only where the file system is not
        known = merged.setdefault((row["device"], row["read_only"]), {**row, "paths": []})
        known["paths"] = [*known["paths"], *row["paths"]]
    return msgspec.convert(tuple(merged.values()), tuple[Filesystem, ...])


def read_time_sync(report: Report, *, rootfs: Path) -> dict[str, Any]:
    """The kernel's flag by adjtimex, which reads and changes nothing, and the marks of time services."""
    report.stage("adjtimex")
    import ctypes
    import struct

    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # zero `modes`: read only
    library = ctypes.CDLL(None, use_errno=True)
    if library.adjtimex(buffer) < 0:
        raise OSError(os.strerror(ctypes.get_errno()))
    # unsigned modes; long offset, freq, maxerror, esterror; int status
    status = struct.unpack_from("@Illlli", buffer.raw)[-1]
    services = [name for name, mark in _SERVICES.items() if under(rootfs, mark).exists()]
    return {"status": status, "services": services}


def parse_time_sync(outcome: Outcome) -> TimeSync | Unavailable:
    """Whether the kernel holds its clock to be synchronised."""
    if outcome.failure:
        return outcome.failure
    services = tuple(outcome.value["services"])
    synchronized = not outcome.value["status"] & _STA_UNSYNC or "systemd-timesyncd" in services
    return TimeSync(synchronized, services)
