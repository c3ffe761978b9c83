"""Whether an extracted package may be linked into an environment: it has to stay inside, and be its own.

A linker takes each path that a package lists from the package's folder into the environment. Neither may lead
out of its folder, by ``..`` or by a symbolic link: what is read there would become everybody's to read, what
is written there would be another's. The linker runs as the user who may read the credentials of all channels
and write all environments, so this is looked at before it comes to a package.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

__all__ = ["Linked", "record_fault"]

MOST_BYTES = 256 << 20  # of a package's list of paths
OWN = ("info/index.json", "info/link.json", "info/paths.json", "info/files", "info/has_prefix")
SITE = ("site-packages/", "python-scripts/")  # of noarch Python packages; put below lib or bin
_WORD = re.compile(r"[A-Za-z0-9_.+!~-]{1,200}")


class _Path(msgspec.Struct):
    path: str = msgspec.field(name="_path")
    path_type: str = "hardlink"


class _Paths(msgspec.Struct):
    paths: list[_Path] = []


def record_fault(*words: str, site: str | None) -> str | None:
    """What is wrong with what an index says of a package; None when its words can be parts of a path.

    ``words``: name, version, build; ``site``: where it wants Python modules, relative.
    """
    wrong = next((word for word in words if not _WORD.fullmatch(word) or word in (".", "..")), None)
    if wrong is not None:
        return f"is named {wrong[:80]!r} in its channel's index"
    if site is not None and not _is_inside(site):
        return f"wants Python's modules in {site[:80]!r}"
    return None


class Linked:
    """The packages of one environment, looked at one after another, each before it is linked."""

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._links: dict[str, str] = {}

    def fault(self, package: Path) -> str | None:
        """Why the package extracted at ``package`` must not be linked; None when it may be."""
        try:
            return self._fault(package)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            return f"has a list of files that cannot be read ({type(error).__name__})"

    def _fault(self, package: Path) -> str | None:
        for name in ("info", *OWN):
            if os.path.islink(package / name):
                return f"has a link in place of {name}"
        real: set[str] = {""}
        links: dict[str, str] = {}
        folders: set[str] = set()
        for each in _listed(package):
            if not _is_inside(each.path):
                return f"lists a path outside the environment: {each.path[:80]!r}"
            parents = list(_parents(each.path))
            for parent in parents:
                if parent not in real and not _is_folder(package / parent):
                    return f"lists {each.path[:80]!r}, which lies behind a link"
                real.add(parent)
            if each.path_type == "softlink":
                links[_placed(each.path)] = _target(package / each.path)
            elif not _is_own(package / each.path, each.path_type):
                return f"lists {each.path[:80]!r} as a file, which it is not"
            folders.update(_parents(_placed(each.path)))
        return self._meets(links, folders)

    def _meets(self, links: dict[str, str], folders: set[str]) -> str | None:
        """What two packages do together: one's link leads the other's files away."""
        every = {**self._links, **links}
        for folder in (self._folders | folders) & every.keys():
            if not _stays(folder, every[folder]):
                return f"has files below {folder[:80]!r}, which another makes a link that leads away"
            if any(link.startswith(f"{folder}/") for link in every):
                return f"has links below {folder[:80]!r}, which another makes a link"
        self._links, self._folders = every, self._folders | folders
        return None


def _listed(package: Path) -> Iterator[_Path]:
    """Every path of a package; old ones have plain lines, and each is what it is on disk."""
    file = package / "info/paths.json"
    if file.exists():
        yield from msgspec.json.decode(_read(file), type=_Paths).paths
        return
    for line in _read(package / "info/files").decode().splitlines():
        kind = "softlink" if os.path.islink(package / line) else "hardlink"
        yield _Path(line, kind)


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError("too long")
    return data


def _is_inside(path: str) -> bool:
    parts = path.rstrip("/").split("/")
    plain = not re.search(r"[\0\r\n]", path)
    return plain and all(part not in ("", ".", "..") for part in parts)


def _parents(path: str) -> Iterator[str]:
    at = path.rstrip("/").rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


def _placed(path: str) -> str:
    """Where modules of noarch packages go; Python's version is the same for all of one environment."""
    if path.startswith(SITE[1]):
        return f"bin/{path.removeprefix(SITE[1])}"
    found = re.sub(r"^lib/python3\.\d+t?/site-packages/", SITE[0], path)
    return found.rstrip("/")


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _is_own(path: Path, kind: str) -> bool:
    mode = os.lstat(path).st_mode
    return stat.S_ISDIR(mode) if kind == "directory" else stat.S_ISREG(mode)


def _target(path: Path) -> str:
    """Where a link leads; what is listed as one and is a file leads nowhere."""
    return os.readlink(path) if path.is_symlink() else "."


def _stays(link: str, target: str) -> bool:
    """Whether a link leads to something of the same environment, by its words alone."""
    parts = [part for part in target.split("/") if part != "."]
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return not target.startswith("/") and ".." not in parts[ups:] and ups <= link.count("/")
