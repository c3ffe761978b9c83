"""The runner releases on a host: which are there, which are in use, which can go. Standard library only."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from .slot_files import MODES

__all__ = ["RELEASES", "prune", "versions"]

RELEASES = Path("/opt/actions-runner")
UNITS = Path("/etc/systemd/system")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_BIND = re.compile(r"^BindReadOnlyPaths=\S*/actions-runner/(\d+\.\d+\.\d+)/", re.MULTILINE)


def versions(folder: Path = RELEASES) -> list[str]:
    """The complete releases in ``folder``, oldest first; what is being unpacked has another shape of name."""
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted((name for name in names if _VERSION.fullmatch(name)), key=_key)


def prune(
    folder: Path = RELEASES,
    *,
    wanted: str,
    proc: Path = Path("/proc"),
    units: Path = UNITS,
    kept: Iterable[str] = (),
) -> list[str]:
    """Remove older releases; returns their versions.

    Kept are the ``wanted`` one, the newest other one (to go back to), whatever a listener still runs (a busy
    slot keeps its release until it is restarted), what a slot's unit names (a slot on hold starts with that
    when it is resumed), and those in ``kept``.
    """
    others = [version for version in versions(folder) if version != wanted]
    used = _in_use(proc) | _bound(units) | set(kept)
    gone = [version for version in others[:-1] if version not in used]
    for version in gone:
        # Renamed first: a half-removed tree must never look like a release.
        doomed = folder / f".{version}.removed"
        shutil.rmtree(doomed, ignore_errors=True)
        (folder / version).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return gone


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _in_use(proc: Path) -> set[str]:
    """The releases that are bind-mounted into the name space of any runner process."""
    found: set[str] = set()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # Any process may have any bytes in its name.
            if (entry / "comm").read_text(errors="replace").strip() in ("Runner.Listener", "Runner.Worker"):
                mounts = (entry / "mountinfo").read_text(errors="replace")
                found |= set(re.findall(r"actions-runner/(\d+\.\d+\.\d+)/", mounts))
        except OSError:
            continue  # it ended while we looked
    return found


def _bound(units: Path) -> set[str]:
    """The releases that slots' units bind into their slots."""
    found: set[str] = set()
    for path in (path for name in MODES.values() for path in units.glob(f"{name}@*.service.d/*.conf")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it was removed while we looked
        found |= set(_BIND.findall(text))
    return found
