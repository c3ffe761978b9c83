"""The file of the job database: made, opened, put aside when it is damaged. Readable by root only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from datetime import datetime, timezone
from pathlib import Path

from runnerctl.errors import AccessError, DataError, RunnerctlError, TryAgainError, UnavailableError
from runnerctl.guard.ledger_schema import APPLICATION_ID, VERSION, migrate

__all__ = ["DamagedError", "explained", "is_damage", "open_to_read", "open_to_write", "put_aside"]

BUSY_SECONDS = 2.0
_CHECKED_BYTES = 64 * 2**20  # a larger file is only checked page by page as it is used: that takes seconds
_KEPT_ASIDE = 3
_BESIDE = ("-wal", "-shm")
_NO_SPACE = "make room on its file system; the jobs themselves run on"


class DamagedError(Exception):
    """The file is no database, or not one of ours; the text says what is wrong with it."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken: SQLite has no class of its own for that."""
    return type(error) is sqlite3.DatabaseError


def open_to_write(path: Path, *, check: bool) -> sqlite3.Connection:
    """The database, made or brought up to date where needed; ``check``: look for damage in all of it.

    Raises DamagedError, RunnerctlError.
    """
    try:
        _make(path)
        connection = _connected(f"file:{_quoted(path)}?mode=rw")
    except (OSError, sqlite3.Error) as error:
        raise explained(error, path) from None
    try:
        _prepare(connection, path, check=check)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            if is_damage(error):
                raise DamagedError(str(error)) from None
            raise explained(error, path) from None
        raise
    return connection


def _make(path: Path) -> None:
    """An empty file that only we may read, before SQLite makes one by the umask. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _prepare(connection: sqlite3.Connection, path: Path, *, check: bool) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if owner != APPLICATION_ID and (owner or version or tables):
        raise DamagedError("it is a database of some other program")
    _refuse_newer(version, path)
    if check and path.stat().st_size <= _CHECKED_BYTES:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise DamagedError(str(verdict))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a job that was written down outlives a power cut
    connection.execute("PRAGMA foreign_keys = ON")
    if version < VERSION:
        migrate(connection)


def _refuse_newer(version: int, path: Path) -> None:
    if version > VERSION:
        what = f"is of version {version}; this runnerctl knows {VERSION}"
        raise DataError(what, where=str(path), remedy="upgrade runnerctl on this host")


def open_to_read(path: Path) -> sqlite3.Connection:
    """The same to read only, also while somebody writes. Raises RunnerctlError."""
    if not path.is_file():
        missing = "there is no job database" if not path.exists() else "is no file"
        remedy = "jobs are written down where runnerctl_guard is true, from the first one on"
        raise UnavailableError(missing, where=str(path), remedy=remedy)
    try:
        connection = _connected(f"file:{_quoted(path)}?mode=ro")
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:
            # A copy in a directory that cannot be written to: nobody else writes to it, either.
            if any(Path(f"{path}{end}").exists() for end in _BESIDE):
                raise
            connection.close()
            connection = _connected(f"file:{_quoted(path)}?mode=ro&immutable=1")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.Error as error:
        raise explained(error, path) from None
    _refuse_newer(version if owner == APPLICATION_ID else 0, path)
    if owner != APPLICATION_ID:
        connection.close()
        remedy = "give a copy of /var/lib/runnerctl/jobs.db"
        raise DataError("is no job database of runnerctl", where=str(path), remedy=remedy)
    return connection


def _connected(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(os.path.abspath(path))


def explained(error: OSError | sqlite3.Error, path: Path) -> RunnerctlError:
    """One clear line for what went wrong with the file."""
    where = str(path)
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    if isinstance(error, PermissionError) or "readonly" in text:
        return AccessError("may not be used", where=where, remedy="run this as root")
    if isinstance(error, sqlite3.Error) and is_damage(error):
        return DataError(
            f"is damaged: {text}", where=where, remedy="restart runnerctl-guard: it begins a new one"
        )
    if "locked" in text or "busy" in text:
        return TryAgainError(f"is in use: {text}", where=where, remedy="try again")
    full = "full" in text or "No space" in text
    remedy = _NO_SPACE if full else "look at its file system; the jobs themselves run on"
    return UnavailableError(f"cannot be used: {text}", where=where, remedy=remedy)


def put_aside(path: Path, now: float) -> Path:
    """Rename a damaged database, so that a new one can begin; the oldest of several is removed.

    Raises UnavailableError.
    """
    stamp = datetime.fromtimestamp(now, tz=timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    try:
        for end in _BESIDE:
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}{end}", f"{aside}{end}")
        os.replace(path, aside)
        named = f"{path.name}.damaged-"
        damaged = sorted(each for each in path.parent.glob(f"{named}*") if not each.name.endswith(_BESIDE))
        for old in damaged[:-_KEPT_ASIDE]:
            for end in ("", *_BESIDE):
                Path(f"{old}{end}").unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, path) from None
    return aside
