"""The first baseline of a host's GPUs, saved when it is provisioned. Standard library only.

Only where nothing is odd: what a baseline has is normal from then on, and nobody has looked at this one.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .atomic import Change
from .errors import HostError
from .process import run

__all__ = ["ACTION", "FirstBaseline"]

ACTION = "saved the baseline of the GPUs"
FILE = "/var/lib/runnerctl/baseline.json"
DRIVERS_LIST = "/proc/driver/nvidia/gpus"
SECONDS = 30.0  # for all of it


@dataclass
class FirstBaseline:
    """The baseline of one host, whose files are below ``root``; asked at most once in a run.

    ``done`` is told when it was saved, or in check mode would be. The file needs no entry in the receipt: it
    goes with the directory of the toolkit's state.
    """

    root: str
    done: Callable[[str, Change], None]
    clock: Callable[[], float] = time.monotonic
    _due: bool | None = field(default=None, init=False)
    _end: float = field(default=0.0, init=False)

    def converge(self, spec: str, command: str, *, check: bool, installed: bool) -> None:
        """Save it where GPUs are expected and none was saved. GPUs that do not answer fail nothing.

        ``spec``: the text of ``host.json``. ``command``: the installed runnerctl, if ``installed``.
        """
        path = self._path(FILE)
        if os.path.lexists(path) or not self._booted or not self._expected(spec):
            return
        # Before the first install nothing here can ask the GPUs: a driver's library lets it be expected.
        due = self._sound(spec, command) if installed else bool(ctypes.util.find_library("nvidia-ml"))
        if due and (check or self._saved(command)):
            self.done(ACTION, Change(path, True, after="what the GPUs are like\n"))

    def _path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    @property
    def _booted(self) -> bool:
        """Whether systemd runs this root (sd_booted(3)): an image has no GPUs yet."""
        return os.path.isdir(self._path("run/systemd/system"))

    def _expected(self, spec: str) -> bool:
        """Whether there should be GPUs: by the spec, or by the driver's own list."""
        if _count(spec) or any(slot.get("gpus") for slot in _slots(spec)):
            return True
        listed = self._path(DRIVERS_LIST)
        return os.path.isdir(listed) and bool(os.listdir(listed))

    def _sound(self, spec: str, command: str) -> bool:
        """Whether all the GPUs answer and nothing is odd about them; not asked a second time."""
        if self._due is None:
            self._end = self.clock() + SECONDS
            told = self._told(command, "--dry-run")
            wanted = _count(spec)
            self._due = bool(told) and not told.get("oddities") and wanted in (0, told.get("gpus"))
        return self._due

    def _saved(self, command: str) -> bool:
        return self._told(command).get("saved") is True

    def _told(self, command: str, *options: str) -> dict[str, Any]:
        """What ``baseline save`` says as JSON; nothing when it fails or does not end."""
        words = [command, "baseline", "save", *options, "-o", "json"]
        try:
            done = run(words, timeout=max(self._end - self.clock(), 1.0))
            told = json.loads(done.out) if done.rc == 0 else {}
        except (HostError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}


def _count(spec: str) -> int:
    section = json.loads(spec).get("nvidia_driver") or {}
    return int(section.get("gpu_count") or 0)


def _slots(spec: str) -> list[dict[str, Any]]:
    section = json.loads(spec).get("github_runner") or {}
    return list(section.get("slots") or [])
