"""Collect a bundle: every file under its final name only when its checksum is right.

Work in progress lies beside the target as ``<name>.partial`` and is taken up again by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import msgspec

from runnerctl.bundle.archive import begins_as_bundle, is_archive, pack
from runnerctl.bundle.manifest import FOLDERS, MANIFEST, BundleFile, Kind, Manifest, read, sha256_of
from runnerctl.errors import DataError, RunnerctlError, TryAgainError, UnavailableError, UsageError

__all__ = ["Collector", "Download", "Fetch", "Wanted", "target_problem"]

_UNSAFE = re.compile(r"[^0-9A-Za-z._+-]+")


class Fetch(Protocol):
    """Bring a file from a URL to a path if it has a SHA-256. Raises RunnerctlError."""

    def __call__(self, url: str, dest: Path, sha256: str, *, headers: Mapping[str, str]) -> None: ...


class Download(msgspec.Struct, frozen=True):
    """A file to fetch. ``token`` is for the server that the URL names, and for no other."""

    url: str
    sha256: str
    version: str
    architecture: str
    token: str | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What goes into a bundle."""

    runners: tuple[Download, ...] = ()
    installers: tuple[Download, ...] = ()
    keys: tuple[str, ...] = ()


class Collector:
    """Fills one bundle. ``wheels`` puts wheels into a directory, ``read_key`` reads a key from a URL."""

    def __init__(
        self,
        target: Path,
        *,
        fetch: Fetch,
        read_key: Callable[[str], bytes],
        wheels: Callable[[Path], None] | None,
        tell: Callable[[str], None],
    ) -> None:
        self.target = target
        self.work = target.with_name(f"{target.name}.partial")
        self._fetch = fetch
        self._read_key = read_key
        self._wheels = wheels
        self._tell = tell

    def collect(self, wanted: Wanted, *, made_at: str, tool_version: str) -> Manifest:
        """Fetch everything and give it its name in one step. Raises RunnerctlError.

        Then the target is as it was, and what was fetched so far is kept for the next run.
        """
        if problem := target_problem(self.target):
            raise UsageError(problem, where=str(self.target), remedy="give another path, or an older bundle")
        try:
            with self._alone():
                files = self._everything(wanted)
                self._forget_others(files)
                manifest = Manifest(made_at, tool_version, tuple(sorted(files, key=lambda file: file.path)))
                (self.work / MANIFEST).write_bytes(manifest.encode())
                self._finish(manifest)
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise UnavailableError(what, where=str(self.work), remedy="free some space there") from None
        return manifest

    def _everything(self, wanted: Wanted) -> list[BundleFile]:
        for folder in FOLDERS.values():
            (self.work / folder).mkdir(exist_ok=True)
        self._take_from_older()
        files = [self._download("runner", each) for each in wanted.runners]
        files += [self._download("miniforge", each) for each in wanted.installers]
        files += [self._key(url) for url in wanted.keys]
        return files + (self._all_wheels() if self._wheels else [])

    def _download(self, kind: Kind, download: Download) -> BundleFile:
        name = _file_name(download.url)
        path = self.work / FOLDERS[kind] / name
        self._tell(f"{kind} {download.version} for {download.architecture}")
        headers = {"Authorization": f"Bearer {download.token}"} if download.token else {}
        self._fetch(download.url, path, download.sha256, headers=headers)
        return _described(
            path,
            kind,
            version=download.version,
            architecture=download.architecture,
            url=_shown(download.url),
        )

    def _key(self, url: str) -> BundleFile:
        self._tell(f"key {_shown(url)}")
        parts = _parts(url)
        name = _UNSAFE.sub("-", f"{parts.hostname}{parts.path}").strip("-.")[-150:].lstrip("-.")
        path = self.work / FOLDERS["key"] / f"{name}.asc"
        path.write_bytes(self._read_key(url))
        return _described(path, "key", url=url)

    def _all_wheels(self) -> list[BundleFile]:
        """Fetched anew each time: which versions belong together, pip decides."""
        folder = self.work / FOLDERS["wheel"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if self._wheels:
            self._wheels(folder)
        found = sorted(folder.glob("*.whl"))
        if not found:
            raise DataError("pip brought no wheels", where=str(folder), remedy="run again")
        return [_described(path, "wheel", version=path.name.split("-")[1]) for path in found]

    def _take_from_older(self) -> None:
        """What an older bundle at the target holds need not be fetched again; each checksum is compared."""
        if is_archive(self.target) or not (self.target / MANIFEST).is_file():
            return
        with contextlib.suppress(RunnerctlError):
            for file in read(self.target).files:
                old, new = self.target / file.path, self.work / file.path
                if file.kind in ("runner", "miniforge") and old.is_file() and not new.exists():
                    shutil.copyfile(old, new)

    def _forget_others(self, files: Sequence[BundleFile]) -> None:
        """What earlier runs left that this one does not want."""
        wanted = {self.work / file.path for file in files}
        for folder in FOLDERS.values():
            for path in (self.work / folder).iterdir():
                if path not in wanted:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _finish(self, manifest: Manifest) -> None:
        for folder in FOLDERS.values():
            with contextlib.suppress(OSError):
                (self.work / folder).rmdir()  # an empty one tells nobody anything
        if is_archive(self.target):
            pack(self.work, manifest, self.target)
            shutil.rmtree(self.work)
            return
        old = self.target.with_name(f"{self.target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.target.exists():
            self.target.rename(old)
        self.work.rename(self.target)
        shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One collector at a time; the lock is on the directory of work itself."""
        self.work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            remedy = "wait for it to end"
            raise TryAgainError(
                "another run is collecting it", where=str(self.target), remedy=remedy
            ) from None
        finally:
            os.close(descriptor)


def target_problem(target: Path) -> str | None:
    """Why nothing may be written there: only an older bundle is replaced."""
    if not target.parent.is_dir():
        return "has no directory to be in"
    if is_archive(target):
        return None if not os.path.lexists(target) or begins_as_bundle(target) else "is no bundle"
    if target.is_dir() and not target.is_symlink():
        return None if (target / MANIFEST).is_file() or not any(target.iterdir()) else "is no bundle"
    return "is no directory (an archive ends in .tar.gz)" if os.path.lexists(target) else None


def _parts(url: str) -> SplitResult:
    """The parts of an address, which may come from a server. Raises DataError when it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        raise DataError(f"{url[:80]!r} is no address", remedy="correct it where it comes from") from None


def _file_name(url: str) -> str:
    """The last part of an address, made fit for a file's name."""
    name = _UNSAFE.sub("-", _parts(url).path.rpartition("/")[2]).strip("-.")
    if not name:
        raise DataError("names no file", where=_shown(url), remedy="give the address of the file itself")
    return name


def _shown(url: str) -> str:
    """Without a user, a password or a query, which may hold a token."""
    parts = _parts(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _described(
    path: Path,
    kind: Kind,
    *,
    version: str | None = None,
    architecture: str | None = None,
    url: str | None = None,
) -> BundleFile:
    return BundleFile(
        path=f"{path.parent.name}/{path.name}",
        kind=kind,
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        version=version,
        architecture=architecture,
        url=url,
    )
