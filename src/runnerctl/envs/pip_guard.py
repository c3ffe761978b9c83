"""What conda installed stays as it is while pip's section is installed over it.

A wheel may hold any file of an environment: the interpreter, its library. uv replaces what is there. An
environment's files are further names of those in the package cache, and in other environments: what would be
changed in place there changes all of them.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from runnerctl.envs import sandbox
from runnerctl.envs.ports import Caches
from runnerctl.envs.store_files import walk
from runnerctl.errors import DataError

__all__ = ["Guard"]

Mark = tuple[int, int, int, int]  # inode, size in bytes, time of change in ns, kind and mode
MAX_RECORD_BYTES = 64 << 20
_OWN = re.compile(r"bin/[^/]+|lib/python[^/]+/site-packages/[^/]+\.dist-info/[^/]+")


class Guard:
    """Remembers an environment as conda left it; make it before pip's section, ask it afterwards.

    Raises DataError for a link into the store's other folders: whatever is written there goes elsewhere.
    """

    def __init__(self, prefix: Path, caches: Caches) -> None:
        self._prefix = Path(os.path.realpath(prefix))
        self._foreign = [os.path.realpath(each) for each in (caches.packages, caches.wheels, caches.repodata)]
        self._before = dict(self._marks(keep=True))

    def changed(self) -> tuple[str, str] | None:
        """A wheel's name (empty: unknown) and the file of conda's, below the prefix, that it replaced.

        A file with the same content is none: several packages may bring one ``__init__.py``.
        """
        after = dict(self._marks())
        differ = sorted(path for path, mark in self._before.items() if after.get(path) != mark)
        differ = [path for path in differ if not self._is_same(path, differ)]
        if not differ:
            return None
        brought = self._brought()
        path = next((path for path in differ if path in brought), differ[0])
        return brought.get(path, ""), path

    def _marks(self, *, keep: bool = False) -> Iterator[tuple[str, Mark]]:
        start = len(str(self._prefix)) + 1
        for entry in walk(self._prefix):
            status = entry.stat(follow_symlinks=False)
            path = entry.path[start:]
            if stat.S_ISDIR(status.st_mode):
                yield path, (0, 0, 0, status.st_mode)
                continue
            if stat.S_ISLNK(status.st_mode):
                self._check_link(entry.path, path)
            elif keep and status.st_nlink > 1:
                _keep(entry.path, part=_OWN.fullmatch(path) is not None)
                status = os.lstat(entry.path)
            yield path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)

    def _check_link(self, place: str, path: str) -> None:
        target = os.path.realpath(place)
        siblings = str(self._prefix.parent) + os.sep
        inside = target == str(self._prefix) or target.startswith(f"{self._prefix}{os.sep}")
        if inside or not target.startswith((siblings, *self._foreign)):
            return
        what = f"a package's link {path} leads out of its environment into the store"
        raise DataError(what, where=path, remedy="leave out the package that brings it")

    def _is_same(self, path: str, differ: list[str]) -> bool:
        """Whether a file still has the content that conda's record of it says."""
        if path.startswith("conda-meta/") or any(each.startswith("conda-meta/") for each in differ):
            return False
        wanted = self._hashes().get(path)
        try:
            plain = stat.S_ISREG(os.lstat(self._prefix / path).st_mode)
            with open(self._prefix / path, "rb") as file:
                return plain and wanted is not None and wanted == hashlib.sha256(file.read()).hexdigest()
        except OSError:
            return False

    def _hashes(self) -> dict[str, str]:
        """Path -> sha256 by conda's records, those that were there before."""
        found: dict[str, str] = {}
        for path in self._before:
            if path.startswith("conda-meta/") and path.endswith(".json"):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    record = json.loads((self._prefix / path).read_text(encoding="utf-8"))
                    for one in record["paths_data"]["paths"]:
                        found[one["_path"]] = one.get("sha256_in_prefix") or one.get("sha256") or ""
        return found

    def _brought(self) -> dict[str, str]:
        """Path below the prefix -> normalised name of the distribution that says it brought it."""
        found = {}
        for record in self._prefix.glob("lib/python3*/site-packages/*.dist-info/RECORD"):
            if str(record.relative_to(self._prefix)) in self._before:
                continue
            text = sandbox.read_answer(record, limit=MAX_RECORD_BYTES) or b""
            name = re.sub(r"[-_.]+", "-", record.parent.name.partition("-")[0]).lower()
            for row in csv.reader(text.decode("utf-8", "replace").splitlines()):
                path = os.path.normpath(os.path.join(record.parent.parent, row[0])) if row else ""
                found[os.path.relpath(path, self._prefix)] = name
        return found


def _keep(place: str, *, part: bool) -> None:
    """Nothing written to this name reaches its other names.

    ``part``: where uv writes in place it has content of its own. Elsewhere nobody may write to it, as in the
    end (`store_files.harden`).
    """
    if not part:
        os.chmod(place, stat.S_IMODE(os.lstat(place).st_mode) & ~0o222)
        return
    copy = f"{place}.runnerctl-own"
    shutil.copy2(place, copy, follow_symlinks=False)
    os.replace(copy, place)
