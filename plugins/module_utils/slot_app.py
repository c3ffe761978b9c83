"""The App's private key on a host with ephemeral slots, and what each slot's registrations look like.

The key arrives as a file, never as an argument, and is root's alone: systemd hands it to ``gha-mint@``, the
only unit that names it as a credential. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .atomic import atomic_write
from .errors import HostError
from .slot_files import Layout, SlotSpec
from .slot_units_ephemeral import APP_FILE, APP_KEY, CREDENTIALS, TICKETS

__all__ = [
    "NETWORK",
    "App",
    "app_changes",
    "forget_app",
    "install_app",
    "key_sum",
    "ticket_path",
    "ticket_text",
]

LARGEST_BYTES = 64 * 1024
_TICKET = ("runner_name", "url", "version", "labels", "group", "no_default_labels")
_ALSO = ("gpus", "containers")
# How to reach GitHub; of the rest of the slot's environment every user of the host would see what is in it.
NETWORK = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class App:
    """The App that mints: its id, where it is installed, the API's address, and the SHA-256 of its key.

    ``source``: where the key lies on the host at the moment, None while it is not needed.
    """

    id: str
    sha256: str
    installation_id: str | None = None
    api_url: str | None = None
    source: str | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> App | None:
        """Read the module's argument."""
        known: dict[str, Any] = {key: (data or {}).get(key) for key in cls.__dataclass_fields__}
        return cls(**known) if data else None

    def text(self) -> str:
        """What stands beside the key: nothing secret."""
        data = {"id": self.id, "installation_id": self.installation_id, "api_url": self.api_url}
        return json.dumps(data, indent=2) + "\n"


def key_sum(layout: Layout) -> str | None:
    """The SHA-256 of the key on this host, 64 hexadecimal digits; None where there is none."""
    try:
        return hashlib.sha256(layout.path(APP_KEY).read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def app_changes(layout: Layout, app: App) -> list[str]:
    """What `install_app` would do, one line each."""
    changes = []
    folder, key, file = (layout.path(path) for path in (CREDENTIALS, APP_KEY, APP_FILE))
    if key_sum(layout) != app.sha256:
        changes.append("App's private key")
    elif not (_private(folder, 0o700) and _private(key, 0o600)):
        changes.append("owner of the App's private key")
    if not file.is_file() or file.read_text() != app.text():
        changes.append("App's settings")
    return changes


def install_app(layout: Layout, app: App) -> None:
    """Take the key from where it was put and make it root's alone. Raises HostError."""
    folder, key = layout.path(CREDENTIALS), layout.path(APP_KEY)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.parent.chmod(0o755)
    _take(folder, 0o700)
    if key_sum(layout) != app.sha256:
        atomic_write(str(key), _fetch(app), mode=0o600)
    _take(key, 0o600)
    atomic_write(str(layout.path(APP_FILE)), app.text().encode(), mode=0o600)


def _fetch(app: App) -> bytes:
    """The key, from the file that goes with the task; that file does not outlive this."""
    where = "the App's private key"
    if app.source is None:
        raise HostError("was not handed over", where=where, remedy="run again")
    source = Path(app.source)
    data = source.read_bytes()[: LARGEST_BYTES + 1]
    source.unlink()
    if hashlib.sha256(data).hexdigest() != app.sha256:
        raise HostError("arrived damaged", where=where, remedy="run again")
    return data


def _private(path: Path, mode: int) -> bool:
    status = path.lstat() if os.path.lexists(path) else None
    return status is not None and (status.st_uid, status.st_mode & 0o7777) == (os.geteuid(), mode)


def _take(path: Path, mode: int) -> None:
    os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
    path.chmod(mode)


def forget_app(layout: Layout) -> None:
    """Remove the key and what stands beside it."""
    for name in (APP_KEY, APP_FILE):
        layout.path(name).unlink(missing_ok=True)
    layout.path(CREDENTIALS).rmdir()


def ticket_path(layout: Layout, slot: str) -> Path:
    """Where a slot's ticket lies."""
    return layout.path(f"{TICKETS}/{slot}.json")


def ticket_text(slot: SlotSpec) -> str:
    """What a slot's registrations look like, for ``runnerctl mint``; nothing secret."""
    data = {name: value for name, value in asdict(slot).items() if name in (*_TICKET, *_ALSO)}
    data["env"] = {name: slot.env[name] for name in NETWORK if name in slot.env}
    return json.dumps(data, indent=2, sort_keys=True) + "\n"
