"""Unpack a verified archive as root without trusting what is in it."""

from __future__ import annotations

import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

from .atomic import sync_directory, sync_file_system
from .download import DownloadError, file_sha256, need_space, working_directory
from .errors import HostError

__all__ = ["verified_unpack"]


def verified_unpack(archive: str | os.PathLike[str], dest: str | os.PathLike[str], *, sha256: str) -> bool:
    """Unpack a ``.tar.gz`` whose SHA-256 is ``sha256`` to directory ``dest``, which is complete if it exists.

    Everything in it belongs to the calling user (root) and only that user can write it; no set-user-id bit
    survives; a member or a link that leaves the tree, a device or a pipe is refused. Returns whether it was
    unpacked now. Raises DownloadError; then ``dest`` does not exist.
    """
    archive, dest = os.fspath(archive), os.path.abspath(dest)
    if os.path.isdir(dest):
        return False
    found = file_sha256(archive)
    if found != sha256.lower():
        remedy = "remove it and run again"
        raise DownloadError(f"SHA-256 is {found}, expected {sha256}", where=archive, remedy=remedy)
    need_space(os.path.dirname(dest), _unpacked_size(archive), what=os.path.basename(dest))
    with working_directory(dest) as work:
        tree = os.path.join(work, "tree")
        try:
            _unpack(archive, tree)
            _open_directories(tree)
            sync_file_system(tree)  # before its name says that it is whole
            os.rename(tree, dest)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DownloadError(f"is no whole archive: {error}", where=archive, remedy="run again") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise DownloadError(f"cannot be unpacked: {reason}", where=archive) from error
        sync_directory(os.path.dirname(dest))
    return True


def _unpacked_size(archive: str) -> int:
    """What gzip says it holds, in bytes (modulo 4 GiB): its last four bytes, RFC 1952 section 2.3.1."""
    with open(archive, "rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() < 18:
            raise DownloadError("is no gzip file", where=archive, remedy="run again")
        file.seek(-4, os.SEEK_END)
        return int(struct.unpack("<I", file.read(4))[0])


def _unpack(archive: str, tree: str) -> None:
    links = []
    os.mkdir(tree)
    with tarfile.open(archive, "r:gz") as tar:
        for member, path in _members(tar, archive, tree):
            if member.isdir():
                os.makedirs(path, exist_ok=True)
            elif member.issym():
                links.append((path, member.linkname))  # made last, so that nothing is written through one
            elif member.islnk():
                os.link(_inside(member.linkname, archive, tree), path, follow_symlinks=False)
            else:
                _write(tar, member, path)
    for path, target in links:
        os.symlink(target, path)
    for path, target in links:
        if not _within(os.path.realpath(path), os.path.realpath(tree)):
            raise _refused(archive, f"link {os.path.relpath(path, tree)} leads to {target}, out of the tree")


def _open_directories(tree: str) -> None:
    """Let everybody in, whatever this process's umask is (027 or 077 on a hardened host)."""
    for folder, _, _ in os.walk(tree):
        os.chmod(folder, 0o755)


def _members(tar: tarfile.TarFile, archive: str, tree: str) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in tar:
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise _refused(archive, f"{member.name!r} is a device or a pipe")
        path = _inside(member.name, archive, tree)
        if path != tree:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            yield member, path


def _inside(name: str, archive: str, tree: str) -> str:
    """Where a member goes. Raises when that is outside ``tree``."""
    path = os.path.normpath(os.path.join(tree, name))
    if os.path.isabs(name) or ".." in name.split("/") or not _within(path, tree):
        raise _refused(archive, f"{name!r} is outside the tree")
    return path


def _within(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree + os.sep)


def _refused(archive: str, why: str) -> HostError:
    return DownloadError(f"is refused: {why}", where=archive, remedy="get the archive from its own publisher")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    source: IO[bytes] | None = tar.extractfile(member)
    mode = 0o755 if member.mode & 0o111 else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        if source is not None:
            shutil.copyfileobj(source, file, 1 << 20)
        os.fchmod(descriptor, mode)
