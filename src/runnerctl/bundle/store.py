"""An opened bundle: verified once, whoever asks, until a file of it changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from runnerctl.bundle.archive import is_archive, unpack
from runnerctl.bundle.manifest import BundleFile, Manifest, read, wrong_files
from runnerctl.core.labels import architecture_label
from runnerctl.errors import ConfigError, DataError, UnavailableError, UsageError
from runnerctl.private import locked

__all__ = ["Bundle", "open_bundle", "refuse_wrong"]

LOCK_SECONDS = 900.0  # while another process hashes some gigabytes
SHOWN = 3


class Bundle:
    """A verified bundle in a directory. What is asked for and not there is a ConfigError with a remedy."""

    def __init__(self, root: Path, manifest: Manifest, *, name: str) -> None:
        self.root = root
        self.manifest = manifest
        self.name = name  # as inventory has it

    def path(self, file: BundleFile) -> Path:
        """Where a file lies."""
        return self.root / file.path

    def runner(self, machine: str, version: str | None = None) -> BundleFile:
        """The runner for a machine (``uname -m``): this version, or the newest."""
        architecture = architecture_label(machine)
        found = [file for file in self._of("runner") if file.architecture == architecture]
        if version:
            found = [file for file in found if file.version == version]
        if not found:
            what = f"has no runner {version or ''} for {architecture}".replace("  ", " ")
            raise self._lacks(what, f"--architecture {architecture}")
        return max(found, key=lambda file: _order(file.version or ""))

    def with_sha256(self, sha256: str) -> Path | None:
        """The file that has this SHA-256, or None."""
        return next((self.path(file) for file in self.manifest.files if file.sha256 == sha256), None)

    def miniforge(self, machine: str, version: str) -> BundleFile:
        """The installer of a version of Miniforge for a machine."""
        architecture = architecture_label(machine)
        for file in self._of("miniforge"):
            if (file.architecture, file.version) == (architecture, version):
                return file
        what = f"has no Miniforge {version} for {architecture}"
        raise self._lacks(what, f"--architecture {architecture} --conda-version {version}")

    def wheels(self) -> list[BundleFile]:
        """The wheels for all Python versions."""
        found = self._of("wheel")
        if not found:
            raise self._lacks("has no wheels", "--python VERSION")
        return found

    def key(self, url: str) -> str | None:
        """The repository key that lay at an address, or None. Raises DataError for one that was changed."""
        for file in self._of("key"):
            if file.url == url:
                return self._read(file).decode("ascii", errors="replace")
        return None

    def _read(self, file: BundleFile) -> bytes:
        """A small file, as it was verified: it may have been changed since. Raises DataError."""
        try:
            data = self.path(file).read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=str(self.path(file))) from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            refuse_wrong([f"{file.path}: was changed meanwhile"], where=self.name)
        return data

    def _of(self, kind: str) -> list[BundleFile]:
        return [file for file in self.manifest.files if file.kind == kind]

    def _lacks(self, what: str, options: str) -> ConfigError:
        remedy = f"make it again with `runnerctl bundle ... {options}`"
        return ConfigError(what, where=self.name, remedy=remedy)


def open_bundle(path: Path, cache: Path) -> Bundle:
    """The bundle in a directory or an archive, every checksum compared.

    ``cache`` is a private directory: what was verified is noted there until a file changes, and an archive is
    unpacked there once. Raises UsageError, DataError or UnavailableError.
    """
    if not path.exists():
        remedy = "make it with `runnerctl bundle`"
        raise UsageError("there is no such bundle", where=str(path), remedy=remedy)
    with locked(cache, seconds=LOCK_SECONDS, group_may_write=False):
        root = _unpacked(path, cache) if is_archive(path) else path
        mark = cache / f"{_short(str(root.resolve()))}.json"
        manifest = read(root)
        if _noted(mark) != (signature := _signature(root)):
            refuse_wrong(wrong_files(root, manifest), where=str(path))
            _write(mark, signature)
    return Bundle(root, manifest, name=str(path))


def refuse_wrong(wrong: list[str], *, where: str) -> None:
    """Raise DataError with the first of what is wrong."""
    if not wrong:
        return
    more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
    remedy = "do not install from it: make it again with `runnerctl bundle`, or copy it again"
    raise DataError(f"the bundle is damaged: {', '.join(wrong[:SHOWN])}{more}", where=where, remedy=remedy)


def _unpacked(path: Path, cache: Path) -> Path:
    status = path.stat()
    name = _short(str(path.resolve()))
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    target = cache / f"{name}-{_short(repr(facts))}"
    if target.is_dir():
        return target
    for old in cache.glob(f"{name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    partial = cache / f"{name}-partial"
    try:
        partial.mkdir(mode=0o700)
        unpack(path, partial)
        partial.rename(target)
    except OSError as error:
        remedy = "free some space there, or set XDG_CACHE_HOME"
        raise UnavailableError(
            f"cannot be written: {error.strerror}", where=str(cache), remedy=remedy
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _signature(root: Path) -> str:
    """What changes when a file does: nobody can set a file's time of change back."""
    facts = []
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            facts.append((path, status.st_mode, status.st_size, status.st_ctime_ns, status.st_ino))
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()


def _noted(mark: Path) -> str | None:
    try:
        return str(json.loads(mark.read_bytes())["verified"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(mark: Path, signature: str) -> None:
    partial = mark.with_suffix(".partial")
    partial.write_text(json.dumps({"verified": signature}) + "\n")
    os.replace(partial, mark)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
