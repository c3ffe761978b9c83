"""The manifest of a bundle, ``runnerctl.bundle/1``, and whether a directory is what it says."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from runnerctl.errors import DataError, UsageError

__all__ = [
    "FOLDERS",
    "MANIFEST",
    "SCHEMA",
    "BundleFile",
    "Kind",
    "Manifest",
    "parse",
    "read",
    "sha256_of",
    "wrong_files",
]

SCHEMA = "runnerctl.bundle/1"
MANIFEST = "manifest.json"
MANIFEST_BYTES = 4 << 20
BLOCK = 1 << 20
Kind = Literal["runner", "miniforge", "wheel", "key"]
FOLDERS: dict[Kind, str] = {"runner": "runner", "miniforge": "miniforge", "wheel": "wheels", "key": "keys"}
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+!-]{0,199}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z_+!-]*(\.[0-9A-Za-z_+!-]+)*")  # it becomes a directory's name
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGAIN = "make it again with `runnerctl bundle`, or copy it again"


class BundleFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file. ``path`` is relative, ``<folder>/<name>``; ``url`` is where it came from."""

    path: str
    kind: Kind
    size_bytes: int
    sha256: str
    version: str | None = None
    architecture: str | None = None
    url: str | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What a bundle holds. ``made_at`` is RFC 3339 in UTC."""

    made_at: str
    tool_version: str
    files: tuple[BundleFile, ...]
    schema: str = SCHEMA

    def encode(self) -> bytes:
        """The manifest as a file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def parse(data: bytes, *, where: str) -> Manifest:
    """The manifest in ``data``. Raises DataError when it is none, or names a file that no bundle holds."""
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"is no manifest of a bundle: {error}", where=where, remedy=_AGAIN) from None
    if found.schema != SCHEMA:
        remedy = "upgrade runnerctl on the controller"
        raise DataError(f"has schema {found.schema!r}, expected {SCHEMA}", where=where, remedy=remedy)
    seen: set[str] = set()
    for file in found.files:
        if not _sound(file) or file.path in seen:
            raise DataError(f"names {file.path[:80]!r}, which no bundle can hold", where=where, remedy=_AGAIN)
        seen.add(file.path)
    return found


def _sound(file: BundleFile) -> bool:
    folder, _, name = file.path.partition("/")
    named = folder == FOLDERS[file.kind] and _NAME.fullmatch(name) is not None
    named = named and (file.version is None or _VERSION.fullmatch(file.version) is not None)
    return named and _SHA256.fullmatch(file.sha256) is not None and file.size_bytes >= 0


def read(root: Path) -> Manifest:
    """The manifest of the bundle in directory ``root``. Raises UsageError or DataError."""
    path = root / MANIFEST
    try:
        if path.is_symlink() or path.stat().st_size > MANIFEST_BYTES:
            raise DataError("is no manifest of a bundle", where=str(path), remedy=_AGAIN)
        return parse(path.read_bytes(), where=str(path))
    except (FileNotFoundError, NotADirectoryError):
        remedy = "give a directory or an archive that `runnerctl bundle` made"
        raise UsageError("is no bundle: it has no manifest.json", where=str(root), remedy=remedy) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None


def wrong_files(root: Path, manifest: Manifest) -> list[str]:
    """What in directory ``root`` is not as the manifest says, one line each; none when all is."""
    named = {file.path: file for file in manifest.files}
    found = dict(_everything(root))
    wrong = [f"{path}: is not in the manifest" for path in found if path not in named and path != MANIFEST]
    for path, file in named.items():
        wrong += [f"{path}: {problem}"] if (problem := _wrong(root / path, file, found.get(path))) else []
    return sorted(wrong)


def _everything(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below ``root`` that is no directory of a bundle, links and pipes too."""
    for directory, names, files in os.walk(root):
        here = Path(directory)
        for name in (*names, *files):
            path = here / name
            status = path.lstat()
            relative = path.relative_to(root).as_posix()
            if not (stat.S_ISDIR(status.st_mode) and relative in FOLDERS.values()):
                yield relative, status


def _wrong(path: Path, file: BundleFile, status: os.stat_result | None) -> str | None:
    if status is None:
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    if status.st_size != file.size_bytes:
        return f"has {status.st_size} bytes, expected {file.size_bytes}"
    try:
        found = sha256_of(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if found == file.sha256 else f"SHA-256 is {found}, expected {file.sha256}"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in lower-case hexadecimal digits. Raises OSError."""
    found = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(BLOCK):
            found.update(block)
    return found.hexdigest()
