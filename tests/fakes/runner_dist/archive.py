"""A tar.gz whose bytes depend on nothing but its content."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import PurePosixPath
from typing import IO

_MTIME = 1_760_000_000


def write(target: IO[bytes], files: dict[str, bytes]) -> None:
    """Write ``files`` (path to content) and the directories they need; scripts become executable.

    Owner and the leading ``./`` are those of a release built on a hosted runner.
    """
    with (
        gzip.GzipFile("", "wb", 6, target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        known = {"."}
        _add(archive, ".", None)
        for name, content in sorted(files.items()):
            for parent in reversed(PurePosixPath(name).parents):
                if str(parent) not in known:
                    known.add(str(parent))
                    _add(archive, f"./{parent}", None)
            _add(archive, f"./{name}", content)


def _add(archive: tarfile.TarFile, name: str, content: bytes | None) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = _MTIME
    info.uid, info.gid, info.uname, info.gname = 1001, 127, "runner", "docker"
    if content is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
        return
    info.size = len(content)
    info.mode = 0o755 if content.startswith(b"#!") or name.endswith(".so") else 0o644
    archive.addfile(info, io.BytesIO(content))
