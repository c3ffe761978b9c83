"""A bundle as one ``.tar.gz``: its manifest first, then the files in the manifest's order, nothing else."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from runnerctl.bundle.manifest import BLOCK, FOLDERS, MANIFEST, MANIFEST_BYTES, BundleFile, Manifest, parse
from runnerctl.errors import DataError, UnavailableError

__all__ = ["begins_as_bundle", "check_archive", "is_archive", "pack", "unpack"]

_REMEDY = "make it again with `runnerctl bundle`, or copy it again"


def is_archive(path: Path) -> bool:
    """Whether a path names an archive, as opposed to a directory."""
    return path.name.endswith((".tar.gz", ".tgz"))


def pack(root: Path, manifest: Manifest, target: Path) -> None:
    """Write the archive of directory ``root``: equal content makes equal bytes. Raises UnavailableError."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as raw:
            # What is in it is compressed already; the name and the time stay out of the header.
            with (
                gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
            ):
                _add(archive, MANIFEST, io.BytesIO(data := manifest.encode()), len(data))
                for file in manifest.files:
                    with (root / file.path).open("rb") as source:
                        _add(archive, file.path, source, file.size_bytes)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UnavailableError(f"cannot be written: {error.strerror}", where=str(target)) from None


def _add(archive: tarfile.TarFile, name: str, source: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, source)


def begins_as_bundle(path: Path) -> bool:
    """Whether a file is an archive whose first member is a bundle's manifest; the rest is not read."""
    try:
        with _opened(path) as archive:
            _members(archive, str(path))
    except DataError:
        return False
    return True


def check_archive(path: Path) -> Manifest:
    """The manifest of an archive that is as it says. Raises DataError at the first file that is not."""
    with _opened(path) as archive:
        manifest, members = _members(archive, str(path))
        for file, source in members:
            _copy(file, source, None, str(path))
    return manifest


def unpack(path: Path, root: Path) -> Manifest:
    """Write what an archive holds into the empty directory ``root``, verified. Raises DataError."""
    with _opened(path) as archive:
        manifest, members = _members(archive, str(path))
        for folder in FOLDERS.values():
            (root / folder).mkdir()
        for file, source in members:
            with (root / file.path).open("xb") as target:
                _copy(file, source, target, str(path))
        (root / MANIFEST).write_bytes(manifest.encode())
    return manifest


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r|gz") as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, IndexError) as error:
        raise DataError(f"is no whole archive: {error}", where=str(path), remedy=_REMEDY) from None
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError(what, where=str(path), remedy=_REMEDY) from None


def _members(archive: tarfile.TarFile, where: str) -> tuple[Manifest, Iterator[tuple[BundleFile, IO[bytes]]]]:
    first = archive.next()
    source = _content(archive, first)
    if first is None or source is None or first.name != MANIFEST or first.size > MANIFEST_BYTES:
        raise DataError("does not begin with the manifest of a bundle", where=where, remedy=_REMEDY)
    manifest = parse(source.read(), where=f"{where}: {MANIFEST}")
    return manifest, _files(archive, manifest, where)


def _files(
    archive: tarfile.TarFile, manifest: Manifest, where: str
) -> Iterator[tuple[BundleFile, IO[bytes]]]:
    """What the manifest names, in its order; a name of another shape never becomes a path."""
    for file in manifest.files:
        member = archive.next()
        source = _content(archive, member)
        if member is None or source is None or member.name != file.path or member.size != file.size_bytes:
            raise DataError(f"{file.path} is missing or not as it was", where=where, remedy=_REMEDY)
        yield file, source
    if (more := archive.next()) is not None:
        raise DataError(f"{more.name[:80]!r} is not in the manifest", where=where, remedy=_REMEDY)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> IO[bytes] | None:
    return archive.extractfile(member) if member is not None and member.isreg() else None


def _copy(file: BundleFile, source: IO[bytes], target: IO[bytes] | None, where: str) -> None:
    found = hashlib.sha256()
    while block := source.read(BLOCK):
        found.update(block)
        if target:
            target.write(block)
    if found.hexdigest() != file.sha256:
        what = f"{file.path}: SHA-256 is {found.hexdigest()}, expected {file.sha256}"
        raise DataError(what, where=where, remedy=_REMEDY)
