"""What a host remembers of runner releases: refused ones, and where slots go back to. Standard library only.

``/var/lib/runnerctl/refused-release.json`` lists releases that an upgrade rolled back here;
``/var/lib/runnerctl/previous-release.json`` has, for each slot whose upgrade is not proven yet, the release
that it ran before. Both survive a controller that was killed in the middle; one that is damaged is no note.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .atomic import atomic_write, sync_directory
from .hold import one_line
from .lock import exclusive

__all__ = ["ReleaseNotes"]

LARGEST_BYTES = 1 << 20
LOCK_SECONDS = 30.0
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class ReleaseNotes:
    """The two files under ``state``. Every method may be repeated; what changes nothing writes nothing."""

    def __init__(
        self,
        state: Path = Path("/var/lib/runnerctl"),
        *,
        run: Path = Path("/run/runnerctl"),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.refused_file = state / "refused-release.json"
        self.previous_file = state / "previous-release.json"
        self.lock_file = run / "releases.lock"
        self.clock = clock

    def read(self) -> dict[str, Any]:
        """``refused``: list of ``{version, reason, refused_at}``; ``previous``: slot -> version."""
        refused = [_refusal(each) for each in _list(_load(self.refused_file).get("releases"))]
        previous = _load(self.previous_file).get("slots")
        pairs = previous.items() if isinstance(previous, dict) else ()
        return {
            "refused": [each for each in refused if each is not None],
            "previous": {str(slot): version for slot, version in pairs if _is_version(version)},
        }

    def begin(self, slots: Mapping[str, str]) -> bool:
        """Note what slots go back to; a note that is there already stays. True when a file changed."""
        with self._locked():
            previous = self.read()["previous"]
            return self._write(self.previous_file, "slots", {**slots, **previous}, previous)

    def finish(self, slots: Iterable[str]) -> bool:
        """Forget those of proven slots."""
        with self._locked():
            previous, gone = self.read()["previous"], set(slots)
            left = {slot: version for slot, version in previous.items() if slot not in gone}
            return self._write(self.previous_file, "slots", left, previous)

    def refuse(self, version: str, reason: str) -> bool:
        """Remember that a release does not work here."""
        with self._locked():
            refused = self.read()["refused"]
            known = [each for each in refused if each["version"] != version]
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock()))
            entry = {"version": version, "reason": one_line(reason), "refused_at": at}
            return self._write(self.refused_file, "releases", [*known, entry], refused)

    def allow(self, version: str) -> bool:
        """Forget that."""
        with self._locked():
            refused = self.read()["refused"]
            left = [each for each in refused if each["version"] != version]
            return self._write(self.refused_file, "releases", left, refused)

    def _locked(self) -> AbstractContextManager[int]:
        return exclusive(str(self.lock_file), seconds=LOCK_SECONDS)

    def _write(self, path: Path, key: str, value: Any, before: Any) -> bool:
        if value == before:
            return False
        if value:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(str(path), (json.dumps({key: value}, indent=2) + "\n").encode())
        else:
            path.unlink(missing_ok=True)
            sync_directory(str(path.parent))
        return True


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(LARGEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def _refusal(entry: Any) -> dict[str, str] | None:
    if not isinstance(entry, dict) or not _is_version(entry.get("version")):
        return None
    texts = {key: one_line(str(entry.get(key, ""))) for key in ("reason", "refused_at")}
    return {"version": str(entry["version"]), **texts}
