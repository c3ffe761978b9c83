"""What a user can leave with the host's services so that it is started again: cron, at, its own systemd."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from runnerctl.guard.ports import SlotPlace
from runnerctl.guard.residue_tree import directory, empty

__all__ = ["clean_services", "clean_shared"]

_SECONDS = 10.0
# Named after the user: crontabs of Debian, of Red Hat, of BusyBox; lingering of systemd-logind; mail.
_BY_NAME = (
    "var/spool/cron/crontabs",
    "var/spool/cron",
    "etc/crontabs",
    "var/lib/systemd/linger",
    "var/mail",
)
# Owned by the user: jobs of at and batch, and what anybody may write to.
_BY_OWNER = (
    "var/spool/cron/atjobs",
    "var/spool/cron/atspool",
    "var/spool/at",
    "var/spool/at/spool",
    "tmp",
    "var/tmp",
    "dev/shm",
    "run/lock",
)


def clean_services(root: Path, place: SlotPlace) -> tuple[list[str], list[str]]:
    """Remove crontabs, jobs of at, lingering and the user's own systemd; what was removed, what remains."""
    removed: list[str] = []
    for folder in _BY_NAME:
        path = root / folder / place.user
        if os.path.lexists(path) and not path.is_dir():
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(f"/{folder}/{place.user}")
    if (root / f"run/user/{place.uid}").exists():
        _stop_manager(place.uid)
    remains = [f"/{folder}/{place.user}" for folder in _BY_NAME if os.path.isfile(root / folder / place.user)]
    return removed, remains


def _stop_manager(uid: int) -> None:
    argv = ["systemctl", "stop", "--", f"user@{uid}.service"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(argv, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL, capture_output=True)


def clean_shared(root: Path, place: SlotPlace, *, deadline: float) -> tuple[list[str], list[str]]:
    """Remove the user's files in places that all users write to; what was removed, what remains."""
    removed, remains = [], []
    for folder in _BY_OWNER:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), directory(root / folder) as handle:
            swept = empty(
                handle,
                keep=lambda _name, status: status.st_uid != place.uid,
                deadline=deadline,
                owner=place.uid,
            )
            removed += [f"/{folder}: {swept.gone}"] if swept.gone else []
            remains += [f"/{folder}/{name}: {why}" for name, why in swept.stayed.items()]
    return removed, remains
