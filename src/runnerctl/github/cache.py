"""What the controller keeps on disk between runs: answers with an ETag and App installation tokens.

One private directory (0700, files 0600) of the user it belongs to. What another user owns or may read is not
used. An entry that is too old, damaged or half written counts as absent: the whole may be deleted any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from runnerctl.errors import ConfigError

__all__ = ["PrivateCache", "cache_from", "digest"]

VARIABLE = "RUNNERCTL_CACHE_DIR"
MAX_FILES = 4096
MAX_BYTES = 64 * 1024 * 1024
MAX_ENTRY_BYTES = 8 * 1024 * 1024
MAX_AGE_SECONDS = 24 * 3600.0
_SWEEP_SECONDS = 3600.0
_SWEEP_WRITES = 512  # one process must not fill the disk between two sweeps
_HEAD = b"runnerctl cache 1 "
_HEAD_BYTES = len(_HEAD) + 64 + 1
_SWEPT = "swept"
# Only what this module wrote is swept: the directory may be one that somebody uses for other things, too.
_OURS = re.compile(r"[a-z]+\.[0-9a-f]{64}|new\.[0-9]+\.[0-9a-f]{16}")
_LOG = logging.getLogger("runnerctl.github")


def digest(*parts: str) -> str:
    """A name that tells nothing of what it stands for: SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def cache_from(env: Mapping[str, str], *, note: Callable[[str], None] = _LOG.warning) -> PrivateCache | None:
    """The cache of an environment; None when it is turned off or there is no place for one.

    ``RUNNERCTL_CACHE_DIR`` is a directory or ``off``; without it ``runnerctl/github`` in ``XDG_CACHE_HOME``
    or ``~/.cache`` is taken. ``note`` hears once why it is not used. Raises ConfigError for a relative path.
    """
    given = env.get(VARIABLE, "").strip()
    if given.lower() == "off":
        return None
    if given:
        path = Path(os.path.expanduser(given) if given.startswith("~/") else given)
        if not path.is_absolute():
            raise ConfigError(f"{given!r} is no absolute path", where=VARIABLE, remedy="give one, or 'off'")
        return PrivateCache(path, note=note)
    base = _user_directory(env)
    return PrivateCache(base / "runnerctl" / "github", note=note) if base and _is_ours(base) else None


def _user_directory(env: Mapping[str, str]) -> Path | None:
    given, home = env.get("XDG_CACHE_HOME", ""), env.get("HOME", "")
    if os.path.isabs(given):  # the XDG base directory specification ignores a relative one
        return Path(given)
    return Path(home) / ".cache" if os.path.isabs(home) else None


def _is_ours(path: Path) -> bool:
    """Whether the nearest directory that exists is our user's: root must leave nothing in another's home."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return place.stat().st_uid == os.geteuid()
    return False


class PrivateCache:
    """Entries by kind and key, in one flat directory. Nothing here raises: what fails is a miss.

    ``now`` is UTC in epoch seconds and is compared with the files' times.
    """

    def __init__(
        self,
        root: Path,
        *,
        note: Callable[[str], None] = _LOG.warning,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.root = root
        self._note, self._now, self._sleep = note, now, sleep
        self._writes = 0
        self._refused = False

    def read(self, kind: str, key: str, *, max_age_seconds: float = MAX_AGE_SECONDS) -> bytes | None:
        """An entry that is at most so old, or None. ``key`` is a `digest`."""
        with self._directory() as directory:
            if directory is None:
                return None
            try:
                data = self._read(directory, f"{kind}.{key}", max_age_seconds)
            except OSError:
                return None
        if data is None or data[: len(_HEAD)] != _HEAD:
            return None
        body = data[_HEAD_BYTES:]
        return body if data[len(_HEAD) : _HEAD_BYTES - 1] == _sum(body) else None

    def _read(self, directory: int, name: str, max_age_seconds: float) -> bytes | None:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        with open(file, "rb") as stream:
            status = os.fstat(file)
            age = self._now() - status.st_mtime
            if not _private(status, stat.S_ISREG) or not -60.0 <= age <= max_age_seconds:
                return None
            return stream.read(MAX_ENTRY_BYTES + _HEAD_BYTES)

    def write(self, kind: str, key: str, data: bytes) -> None:
        """Keep an entry, whole or not at all."""
        if len(data) > MAX_ENTRY_BYTES:
            return
        with self._directory() as directory:
            if directory is None:
                return
            try:
                self._write(directory, f"{kind}.{key}", _HEAD + _sum(data) + b"\n" + data)
                self._writes += 1
                self._sweep(directory)
            except OSError as error:
                self._refuse(error.strerror or str(error))

    def _write(self, directory: int, name: str, data: bytes) -> None:
        partial = f"new.{os.getpid()}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(partial, flags, 0o600, dir_fd=directory)
        try:
            with open(file, "wb") as stream:
                stream.write(data)
            os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=directory)
            raise

    def forget(self, kind: str, key: str) -> None:
        """Drop an entry."""
        with self._directory() as directory, contextlib.suppress(OSError):
            if directory is not None:
                os.unlink(f"{kind}.{key}", dir_fd=directory)

    @contextlib.contextmanager
    def lock(self, key: str, *, seconds: float) -> Iterator[bool]:
        """Hold the lock of a key among all processes; False when it was not to be had in time."""
        with self._directory() as directory:
            file = self._lock_file(directory, key)
            try:
                yield file is not None and self._wait_for(file, seconds)
            finally:
                if file is not None:
                    os.close(file)

    def _lock_file(self, directory: int | None, key: str) -> int | None:
        if directory is None:
            return None
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(f"lock.{key}", flags, 0o600, dir_fd=directory)
        except OSError:
            return None

    def _wait_for(self, file: int, seconds: float) -> bool:
        left, pause = seconds, 0.01
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES) or left <= 0:
                    return False
            self._sleep(min(pause, left))
            left -= pause
            pause = min(2 * pause, 0.25)

    # -- the directory -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _directory(self) -> Iterator[int | None]:
        """The open directory, made when it is absent; None when it cannot be used."""
        directory = None if self._refused else self._open()
        try:
            yield directory
        finally:
            if directory is not None:
                os.close(directory)

    def _open(self) -> int | None:
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.root.mkdir(mode=0o700)
            directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            self._refuse(error.strerror or str(error))
            return None
        if _private(os.fstat(directory), stat.S_ISDIR):
            return directory
        os.close(directory)
        self._refuse("it belongs to another user or is open to others (it must be yours, with mode 0700)")
        return None

    def _refuse(self, reason: str) -> None:
        if not self._refused:
            self._refused = True
            self._note(f"the cache {self.root} is not used: {reason}; {VARIABLE}=off turns it off")

    def _sweep(self, directory: int) -> None:
        """Keep age, number and size within bounds: now and then, oldest first."""
        if self._writes % _SWEEP_WRITES != 1 or (self._writes == 1 and self._was_swept(directory)):
            return
        os.close(os.open(_SWEPT, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=directory))
        os.utime(_SWEPT, (self._now(), self._now()), dir_fd=directory)
        kept_bytes = 0
        newest_first = sorted(_entries(directory), key=lambda entry: -entry[1].st_mtime)
        for kept_files, (name, status) in enumerate(newest_first, start=1):
            kept_bytes += status.st_size
            old = self._now() - status.st_mtime > MAX_AGE_SECONDS
            if old or kept_files > MAX_FILES or kept_bytes > MAX_BYTES:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)

    def _was_swept(self, directory: int) -> bool:
        try:
            return 0 <= self._now() - os.stat(_SWEPT, dir_fd=directory).st_mtime < _SWEEP_SECONDS
        except OSError:
            return False


def _entries(directory: int) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    yield entry.name, entry.stat(follow_symlinks=False)


def _private(status: os.stat_result, kind: Callable[[int], bool]) -> bool:
    return kind(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
