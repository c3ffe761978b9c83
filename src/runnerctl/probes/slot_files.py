"""A slot's user, directories, credential files and programs, by their metadata.

The runner's code may lie on a mount whose server is away, so all of this runs in a bounded child. Of the
credential files only this leaves it: owner, mode, size, and whether the JSON in them is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.snapshot import SlotFiles, Unavailable
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.files import read_bytes, under
from runnerctl.probes.slots import ROOTS, bound_version, slot_state

__all__ = ["RELEASES", "parse_slot_files", "read_slot_files", "release_files"]

RELEASES = "/opt/actions-runner"
LOGS = "/var/lib/runnerctl/logs"
_FOLDERS = (".", "_work", "_diag", "home")
# The pushed configuration is used in preference where it is there (actions/runner, ConfigurationStore).
_CREDENTIALS = (".credentials", ".credentials_rsaparams")
_MIGRATED = ".credentials_migrated"
_PROGRAMS = ("bin/Runner.Listener", "bin/Runner.Worker")
_CODE = re.compile(r"Runner\.|.*\.(?:dll|so|json)$")
_LARGEST_LIST = 20  # names: a directory that is gone lacks hundreds
_LARGEST_JSON = 64 * 1024


def read_slot_files(report: Report, *, rootfs: Path, slots: Sequence[str]) -> dict[str, Any]:
    """Slot -> what `SlotFiles` holds, as plain data."""
    releases: dict[str, Any] = {}
    found = {}
    for slot in slots:
        report.stage(f"files of slot {slot}")
        found[slot] = _slot(rootfs, slot, releases)
    return found


def parse_slot_files(outcome: Outcome | None, slot: str) -> SlotFiles | Unavailable | None:
    """One slot's reading out of the child's answer; None where nobody asked."""
    if outcome is None:
        return None
    if failure := outcome.failure:
        denied = failure.reason.startswith("PermissionError")
        return Unavailable("the slot's files may not be looked at", kind="denied") if denied else failure
    rows: Mapping[str, Any] = outcome.value
    return msgspec.convert({"reading": "taken", **rows[slot]}, SlotFiles)


def _slot(rootfs: Path, slot: str, releases: dict[str, Any]) -> dict[str, Any]:
    root, user = under(rootfs, f"{ROOTS}/{slot}"), f"gha-{slot}"
    uid, gid = _user(rootfs, user)
    version = bound_version(rootfs, slot, slot_state(rootfs, slot))
    path = f"{RELEASES}/{version}" if isinstance(version, str) else f"{ROOTS}/{slot}"
    if path not in releases:
        releases[path] = release_files(under(rootfs, path), shown=path)
    names = (_MIGRATED, _CREDENTIALS[1]) if (root / _MIGRATED).exists() else _CREDENTIALS
    return {
        "user": user,
        "uid": uid,
        "gid": gid,
        "folders": [_fact(root, name) for name in _FOLDERS],
        "credentials": [_fact(root, name, parse=True) for name in names],
        "release": releases[path],
        "worker_log_at": _newest_worker_log(root / "_diag", under(rootfs, f"{LOGS}/{slot}")),
    }


def _newest_worker_log(*folders: Path) -> str | None:
    """When the newest log of a worker was last written to, RFC 3339: each worker begins one of its own.

    The guard puts those of ended jobs aside.
    """
    times: list[float] = []
    for folder in folders:
        with contextlib.suppress(OSError):
            entries = list(os.scandir(folder))
            times += [entry.stat().st_mtime for entry in entries if entry.name.startswith("Worker_")]
    return datetime.fromtimestamp(max(times), timezone.utc).isoformat() if times else None


def _user(rootfs: Path, name: str) -> tuple[int | None, int | None]:
    """Uid and group of a user; of another root's by its own list of users."""
    if rootfs == Path("/"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None, None
        return entry.pw_uid, entry.pw_gid
    data = read_bytes(under(rootfs, "/etc/passwd"))
    for line in data.decode("utf-8", "replace").splitlines() if isinstance(data, bytes) else ():
        fields = line.split(":")
        if len(fields) > 3 and fields[0] == name and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(fields[3])
    return None, None


def _fact(root: Path, name: str, *, parse: bool = False) -> dict[str, Any]:
    """Metadata of one path; PermissionError where the caller may not look at it."""
    path = root / name
    try:
        seen = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"path": name, "kind": "absent"}
    kind = "file" if stat.S_ISREG(seen.st_mode) else "directory" if stat.S_ISDIR(seen.st_mode) else "other"
    return {
        "path": name,
        "kind": kind,
        "uid": seen.st_uid,
        "gid": seen.st_gid,
        "mode": stat.S_IMODE(seen.st_mode),
        "size_bytes": seen.st_size,
        "whole": _is_whole(path) if parse and kind == "file" else None,
    }


def _is_whole(path: Path) -> bool | None:
    """Whether a file is a whole JSON object; None where it may not be read. Its content goes nowhere."""
    data = read_bytes(path, _LARGEST_JSON)
    if not isinstance(data, bytes):
        return None
    try:
        return isinstance(json.loads(data.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def release_files(folder: Path, *, shown: str) -> dict[str, Any]:
    """What is wrong with the programs below ``folder``, as `ReleaseFiles` has it.

    The published list of the assemblies (``bin/*.deps.json``) says what else must be there.
    """
    binaries = folder / "bin"
    if not binaries.is_dir():
        return {"path": shown, "present": False}
    entries = {entry.name: entry.stat() for entry in os.scandir(binaries) if not _dangles(entry)}
    wanted = {*_PROGRAMS, *(f"bin/{name}" for name in _assemblies(binaries))}
    missing = sorted(name for name in wanted if name.removeprefix("bin/") not in entries)
    if not _any_entry(folder / "externals"):
        missing.append("externals")
    files = {name: seen for name, seen in entries.items() if stat.S_ISREG(seen.st_mode)}
    programs = {name.removeprefix("bin/") for name in _PROGRAMS}
    return {
        "path": shown,
        "missing": missing[:_LARGEST_LIST],
        "empty": _named(name for name, seen in files.items() if not seen.st_size and _CODE.match(name)),
        "not_executable": _named(
            name for name, seen in files.items() if name in programs and not seen.st_mode & 0o001
        ),
        "foreign": _named(name for name, seen in files.items() if seen.st_uid or seen.st_mode & 0o022),
    }


def _named(names: Iterator[str]) -> list[str]:
    return sorted(f"bin/{name}" for name in names)[:_LARGEST_LIST]


def _dangles(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _any_entry(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except OSError:
        return False


def _assemblies(binaries: Path) -> set[str]:
    """The files that the .NET host asks for: ``targets`` -> library -> ``runtime`` and ``native``."""
    names: set[str] = set()
    for file in binaries.glob("Runner.*.deps.json"):
        data = read_bytes(file)
        try:
            targets = json.loads(data).get("targets", {}) if isinstance(data, bytes) else {}
            libraries = [library for target in targets.values() for library in target.values()]
            for library in libraries:
                for kind in ("runtime", "native"):
                    names |= {path.rsplit("/", 1)[-1] for path in library.get(kind, {})}
        except (ValueError, AttributeError, TypeError):
            continue  # cut off: `empty` or the listener itself will tell
    return {name for name in names if name != "_._"}
