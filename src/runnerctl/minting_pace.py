"""When an ephemeral slot may try for its next registration: at once, as a rule; ever later while it fails.

What fails is written down with its reason, so that the wait outlives the process and the health verdict can
tell. Nothing here gives up: the slot comes back by itself when what failed works again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.atomic import atomic_write
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_modes import back_off_file
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_units_ephemeral import MEMO

__all__ = ["FIRST_SECONDS", "LONGEST_SECONDS", "Pace", "delay_seconds"]

FIRST_SECONDS, LONGEST_SECONDS = 5.0, 300.0
# A job takes longer than this, as a rule: so many starts in so short a time are a circle.
MOST_STARTS, WITHIN_SECONDS = 30, 60.0
LONGEST_REASON = 400


def delay_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row: 0, 5, 10, 20, ... at most 300 s."""
    return 0.0 if failures < 1 else min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 10))


@dataclass
class Pace:
    """The pace of one slot. ``clock`` is epoch seconds."""

    slot: str
    layout: Layout
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    @property
    def path(self) -> Path:
        """Where the failures stand; absent while all is well."""
        return back_off_file(self.layout, self.slot)

    def wait(self) -> float:
        """Wait for the slot's turn; returns for how long, in seconds."""
        self._count_end()
        self._count_start()
        state = self._state()
        now = self.clock()
        due = state.get("not_before")
        # A clock that was set back must not make it wait for more than one delay.
        seconds = min(max(due - now, 0.0), LONGEST_SECONDS) if isinstance(due, (int, float)) else 0.0
        if seconds:
            self.sleep(seconds)
        return seconds

    def failed(self, reason: str) -> float:
        """Note a failure; returns how long the next try waits, in seconds."""
        state = self._state()
        failures = _count(state, "failures") + 1
        return self._write(state, reason, failures=failures, ends=_count(state, "ends"))

    def succeeded(self) -> None:
        """Forget the failures of minting; a listener that keeps on ending is not forgotten."""
        state = self._state()
        ends = _count(state, "ends")
        if not ends:
            self.path.unlink(missing_ok=True)
        elif state.get("failures") or state.get("not_before"):
            self._write(state, str(state.get("reason", "")), failures=0, ends=ends, due=False)

    # -- how the last listener ended

    def _count_end(self) -> None:
        """A listener that ends with an error has taken no job: the second time in a row it has to wait."""
        path = self.layout.path(f"{MEMO}/{self.slot}.end")
        try:
            words = path.read_text().split()
            path.unlink()
        except OSError:
            return
        if not words:  # it never began: that is counted where it failed
            return
        state = self._state()
        if words == ["exited", "0"]:
            if state.get("ends"):
                self.path.unlink(missing_ok=True)
            return
        ends = _count(state, "ends") + 1
        how = f"status {words[-1]}" if words[0] == "exited" else f"signal {words[-1]}"
        times = f", {ends} times in a row" if ends > 1 else ""
        self._write(state, f"the listener ended with {how}{times}", failures=0, ends=ends, due=ends > 1)

    def _count_start(self) -> None:
        """However listeners end: no more than so many starts in a minute."""
        path = self.layout.path(f"{MEMO}/{self.slot}.starts")
        now = self.clock()
        try:
            starts = [float(word) for word in path.read_text().split()]
        except (OSError, ValueError):
            starts = []
        starts = [start for start in starts if 0 <= now - start < WITHIN_SECONDS]
        if len(starts) >= MOST_STARTS and not self._state().get("failures"):
            self._write({}, f"{len(starts)} starts within {WITHIN_SECONDS:.0f} s", failures=1, ends=0)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(" ".join(f"{start:.0f}" for start in [*starts, now]))

    # -- the file

    def _state(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def _write(
        self, state: dict[str, Any], reason: str, *, failures: int, ends: int, due: bool = True
    ) -> float:
        now = self.clock()
        seconds = delay_seconds(max(failures, ends - 1)) if due else 0.0
        data = {
            "reason": " ".join(reason.split())[:LONGEST_REASON],
            "failures": failures,
            "ends": ends,
            "since": state.get("since") or round(now),
            "not_before": round(now + seconds, 1) if seconds else None,
        }
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        atomic_write(str(self.path), (json.dumps(data) + "\n").encode(), mode=0o644)
        return seconds


def _count(state: dict[str, Any], key: str) -> int:
    value = state.get(key)
    return value if isinstance(value, int) and value > 0 else 0
