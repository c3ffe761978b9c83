"""Compare an environment on disk with what its packages say it consists of."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

__all__ = ["Damage", "verify"]

PIECE = 1 << 20
WRITABLE = 0o222


class Damage(msgspec.Struct, frozen=True):
    """One file that is not as it should be. ``path``: below the prefix; ``package``: whose it is."""

    path: str
    what: str
    package: str


class _Path(msgspec.Struct):
    path: str = msgspec.field(name="_path")
    path_type: str = "hardlink"
    sha256: str | None = None
    sha256_in_prefix: str | None = None
    size_in_bytes: int | None = None
    prefix_placeholder: str | None = None


class _Paths(msgspec.Struct):
    paths: list[_Path] = []


class _Record(msgspec.Struct):
    name: str
    paths_data: _Paths = msgspec.field(default_factory=_Paths)
    files: list[str] = []


def verify(prefix: Path, *, full: bool = False, published: bool = True) -> Iterator[Damage]:
    """What is wrong with ``prefix``, file by file; nothing when all is well.

    Quick: every file of every package is there, a file or a link as it was, of its size, and (``published``)
    nobody can write to it. ``full`` also reads every file and compares its sha256. What pip installed is
    compared with pip's own records.
    """
    records = sorted((prefix / "conda-meta").glob("*.json"))
    if not records:
        yield Damage("conda-meta", "is missing or empty", "")
    for file in records:
        try:
            record = msgspec.json.decode(file.read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError):
            yield Damage(str(file.relative_to(prefix)), "cannot be read", file.stem)
            continue
        for path in record.paths_data.paths:
            what = _conda_fault(prefix, path, full=full, published=published)
            if what:
                yield Damage(path.path, what, record.name)
    yield from _pip(prefix, full=full, published=published)


def _conda_fault(prefix: Path, path: _Path, *, full: bool, published: bool) -> str | None:
    if path.path_type == "directory":
        return None if (prefix / path.path).is_dir() else "is no directory"
    rewritten = path.prefix_placeholder is not None or path.sha256_in_prefix not in (None, path.sha256)
    size = None if rewritten else path.size_in_bytes
    link = path.path_type == "softlink"
    sha256 = path.sha256_in_prefix or (None if rewritten else path.sha256)
    place = prefix / path.path
    if link and not place.is_symlink():
        return "is no symbolic link" if place.exists() else "is missing"
    if link:
        return None
    return _fault(place, size, sha256 if full else None, published=published)


def _fault(place: Path, size: int | None, sha256: str | None, *, published: bool) -> str | None:
    """What is wrong with a regular file; ``size`` in bytes, None of either: not compared."""
    try:
        info = os.lstat(place)
    except OSError:
        return "is missing"
    if not stat.S_ISREG(info.st_mode):
        return "is no regular file"
    if published and info.st_mode & WRITABLE:
        return "can be written to"
    if size is not None and info.st_size != size:
        return f"has {info.st_size} bytes, not {size}"
    if sha256 is not None:
        found = _sha256(place)
        if found != sha256:
            return "has another content (sha256)" if found else "cannot be read"
    return None


def _sha256(place: Path) -> str | None:
    found = hashlib.sha256()
    try:
        with open(place, "rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
    except OSError:
        return None
    return found.hexdigest()


def _pip(prefix: Path, *, full: bool, published: bool) -> Iterator[Damage]:
    """Compare with the RECORD of each distribution that conda did not install."""
    for record in sorted(prefix.glob("lib/python3*/site-packages/*.dist-info/RECORD")):
        installer = record.with_name("INSTALLER")
        if not installer.is_file() or installer.read_text(errors="replace").strip() == "conda":
            continue
        package = record.parent.name.removesuffix(".dist-info")
        site = record.parent.parent
        with open(record, newline="", encoding="utf-8", errors="replace") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3 and not os.path.isabs(row[0])]
        for name, digest, size in rows:
            place = Path(os.path.normpath(site / name))
            hashed = _hex(digest) if full else None
            what = _fault(place, int(size) if size.isdigit() else None, hashed, published=published)
            if what and digest:
                yield Damage(os.path.relpath(place, prefix), what, package)


def _hex(digest: str) -> str | None:
    """A RECORD's ``sha256=<base64 without padding>`` in hex."""
    kind, _, text = digest.partition("=")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex() if kind == "sha256" else None
    except ValueError:
        return None
