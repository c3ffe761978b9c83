"""Real ``.conda`` archives written by hand: a zip of two zstd tars, with paths, hashes and placeholders."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.fakes.conda_channel.tools import zstd

__all__ = ["MTIME", "PLACEHOLDER", "CondaPackage", "Entry", "Link", "Program", "Script", "write_package"]

# 255 characters, as long as real packages have it: a binary's path is replaced in place and cannot grow
PLACEHOLDER = ("/opt/" + "placehold_" * 25)[:255].rstrip("_")
MTIME = 1_700_000_000
SUBDIR = "linux-64"


class Script(str):
    """The text of a file that can be executed."""

    __slots__ = ()


class Program(bytes):
    """The content of a binary that can be executed."""

    __slots__ = ()


class Link(str):
    """The target of a symbolic link."""

    __slots__ = ()


Entry = str | bytes | Path  # a Path: content and mode of that file


@dataclass(frozen=True)
class CondaPackage:
    """A package to write. ``files``: path below the prefix (``noarch="python"``: ``site-packages/...``).

    Text and bytes that contain ``PLACEHOLDER`` are recorded as such. ``entry_points``: ``name = module:call``
    lines of a noarch Python package, of which an installer makes ``bin/name``.
    """

    name: str
    version: str
    build: str = "0"
    build_number: int = 0
    depends: Sequence[str] = ()
    constrains: Sequence[str] = ()
    files: Mapping[str, Entry] = field(default_factory=dict)
    noarch: Literal["python", "generic"] | None = None
    entry_points: Sequence[str] = ()
    timestamp_seconds: int = MTIME

    @property
    def stem(self) -> str:
        """Name of the archive without its ending."""
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def subdir(self) -> str:
        """The channel's folder that it belongs into."""
        return "noarch" if self.noarch else SUBDIR


def write_package(package: CondaPackage, channel: Path) -> Path:
    """Write the archive into its folder of ``channel``; the same package always has the same bytes."""
    place = channel / package.subdir / f"{package.stem}.conda"
    place.parent.mkdir(parents=True, exist_ok=True)
    contents = {name: _read(entry) for name, entry in sorted(package.files.items())}
    infos = _infos(package, contents)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (
            ("metadata.json", b'{"conda_pkg_format_version": 2}'),
            (f"pkg-{package.stem}.tar.zst", zstd(_tar(contents))),
            (f"info-{package.stem}.tar.zst", zstd(_tar(infos))),
        ):
            archive.writestr(zipfile.ZipInfo(name, (2023, 11, 14, 0, 0, 0)), data)
    return place


Content = tuple[bytes, int, str | None]  # data, mode, target of a link


def _read(entry: Entry) -> Content:
    if isinstance(entry, Path):
        return entry.read_bytes(), 0o755 if entry.stat().st_mode & 0o100 else 0o644, None
    if isinstance(entry, Link):
        return b"", 0o777, str(entry)
    data = entry.encode() if isinstance(entry, str) else entry
    return data, 0o755 if isinstance(entry, (Script, Program)) else 0o644, None


def _infos(package: CondaPackage, contents: Mapping[str, Content]) -> dict[str, Content]:
    index = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "build_number": package.build_number,
        "depends": list(package.depends),
        "constrains": list(package.constrains),
        "subdir": package.subdir,
        "arch": None if package.noarch else "x86_64",
        "platform": None if package.noarch else "linux",
        "timestamp": package.timestamp_seconds * 1000,
        "license": "Apache-2.0",
    }
    if package.noarch:
        index["noarch"] = package.noarch
    texts = {
        "info/index.json": json.dumps(index, indent=2, sort_keys=True),
        "info/about.json": json.dumps({"summary": f"{package.name}, for tests"}),
        "info/files": "".join(f"{name}\n" for name in contents),
        "info/paths.json": json.dumps(
            {"paths": [_path(n, c) for n, c in contents.items()], "paths_version": 1}
        ),
    }
    if package.noarch:
        noarch = {"type": package.noarch, "entry_points": list(package.entry_points)}
        texts["info/link.json"] = json.dumps({"noarch": noarch, "package_metadata_version": 1})
    return {name: (text.encode(), 0o644, None) for name, text in texts.items()}


def _path(name: str, content: Content) -> dict[str, object]:
    data, _, target = content
    path: dict[str, object] = {
        "_path": name,
        "path_type": "softlink" if target else "hardlink",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_in_bytes": len(data),
    }
    if PLACEHOLDER.encode() in data:
        path["prefix_placeholder"] = PLACEHOLDER
        path["file_mode"] = "binary" if b"\0" in data else "text"
    return path


def _tar(contents: Mapping[str, Content]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, (data, mode, target) in contents.items():
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = mode, MTIME
            if target is None:
                member.size = len(data)
            else:
                member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
