"""What the toolkit put on a host, so that ``deprovision`` takes away exactly that.

An entry is written *before* the thing is made: a killed run leaves an entry without a thing, which removing
tolerates, and never a thing without an entry.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from .atomic import atomic_write
from .errors import HostError
from .lock import exclusive

__all__ = ["KINDS", "RECEIPT", "SCHEMA", "Entry", "Receipt", "ReceiptError"]

RECEIPT = "/var/lib/runnerctl/receipt.json"
SCHEMA = "runnerctl.receipt/1"
KINDS = ("package", "path", "user", "group", "unit")
LOCK_SECONDS = 30.0


class ReceiptError(HostError):
    """The receipt cannot be read."""


@dataclass(frozen=True)
class Entry:
    """One thing: its kind (see KINDS), its name or path, the role that made it, and when (RFC 3339)."""

    kind: str
    name: str
    role: str
    at: str


class Receipt:
    """The receipt of this host, ``runnerctl.receipt/1``; a file of root's."""

    def __init__(self, path: str | os.PathLike[str] = RECEIPT) -> None:
        self.path = os.fspath(path)

    def entries(self, kind: str | None = None, *, role: str | None = None) -> list[Entry]:
        """The entries in the order they were made; none when there is no receipt. Raises ReceiptError."""
        return [
            entry
            for entry in self._read()
            if (kind is None or entry.kind == kind) and (role is None or entry.role == role)
        ]

    def record(self, kind: str, names: str | Iterable[str], *, role: str) -> list[str]:
        """Note what is about to be made; returns the names noted now.

        A path, user or group that is already there and was not noted belongs to somebody else and is left
        out. For packages and units the caller names only those that are missing. Raises ReceiptError.
        """
        wanted = self._names(kind, names)
        known = {entry.name for entry in self.entries(kind)}
        new = [name for name in wanted if name not in known and not _exists(kind, name)]
        if not new:
            return []
        with self._locked():
            entries = self._read()
            at = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            self._write([*entries, *(Entry(kind, name, role, at) for name in new)])
        return new

    def forget(self, kind: str, names: str | Iterable[str]) -> list[str]:
        """Drop entries of things that are gone; returns the names dropped. Raises ReceiptError."""
        gone = set(self._names(kind, names)) & {entry.name for entry in self.entries(kind)}
        if gone:
            with self._locked():
                entries = self._read()
                self._write([entry for entry in entries if entry.kind != kind or entry.name not in gone])
        return sorted(gone)

    @staticmethod
    def _names(kind: str, names: str | Iterable[str]) -> list[str]:
        if kind not in KINDS:
            raise ReceiptError(f"{kind!r} is no kind of thing", remedy=f"use one of {', '.join(KINDS)}")
        return [names] if isinstance(names, str) else list(dict.fromkeys(names))

    def _read(self) -> list[Entry]:
        try:
            with open(self.path, encoding="utf-8") as file:
                data = json.load(file)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ReceiptError(f"cannot be read: {error.strerror}", where=self.path) from error
        except ValueError as error:
            raise self._damaged(f"is no JSON ({error})") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            remedy = "upgrade runnerctl on the controller"
            raise ReceiptError(f"has schema {schema!r}, expected {SCHEMA!r}", where=self.path, remedy=remedy)
        try:
            return [Entry(**entry) for entry in data["entries"]]
        except (KeyError, TypeError) as error:
            raise self._damaged("has an entry that cannot be understood") from error

    def _damaged(self, what: str) -> ReceiptError:
        remedy = "restore it from a backup, or move it away: then nothing counts as installed by runnerctl"
        return ReceiptError(what, where=self.path, remedy=remedy)

    def _write(self, entries: list[Entry]) -> None:
        data = {"schema": SCHEMA, "entries": [asdict(entry) for entry in entries]}
        atomic_write(self.path, (json.dumps(data, indent=2) + "\n").encode(), mode=0o600)

    def _locked(self) -> AbstractContextManager[int]:
        """One writer at a time; the lock is a file of its own, since the receipt is replaced."""
        return exclusive(f"{self.path}.lock", seconds=LOCK_SECONDS)


def _exists(kind: str, name: str) -> bool:
    if kind == "path":
        return os.path.lexists(name)
    try:
        if kind == "user":
            pwd.getpwnam(name)
        elif kind == "group":
            grp.getgrnam(name)
        else:
            return False
    except KeyError:
        return False
    return True
