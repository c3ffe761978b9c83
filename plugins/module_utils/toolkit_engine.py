"""The Docker Engine of a host: its version, whether it may be disturbed, and how it takes over new settings.

Standard library only; every call has a deadline, for an Engine may hang.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import atomic_write
from .errors import HostError
from .process import run
from .slot import known_slots
from .slot_files import Layout
from .slot_modes import unit_of
from .slot_system import System, read_text

__all__ = ["Due", "DueFile", "Engine", "parse_version"]

UNIT = "docker.service"
SOCKET = "/run/docker.sock"
SHORT_SECONDS = 15.0
START_SECONDS = 120.0
SETTLE_SECONDS = 5.0
MARKER = "/var/lib/runnerctl/docker-due.json"


class _Connection(http.client.HTTPConnection):
    """HTTP over the Engine's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SHORT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """See the base class."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class Due:
    """What a running Engine still has to do: ``act`` (reload, restart). ``engine``: which process owes it."""

    act: str
    engine: str
    reason: str


class DueFile:
    """Where that is noted *before* it falls due: a kill in between loses nothing."""

    def __init__(self, root: str = "/") -> None:
        self.path = os.path.join(root, MARKER.lstrip("/"))

    def read(self) -> Due | None:
        """What is noted; None when there is nothing, or nothing that can be understood."""
        try:
            data = json.loads(Path(self.path).read_text(encoding="utf-8"))
            return Due(str(data["act"]), str(data["engine"]), str(data["reason"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return Due("restart", "", "an unreadable note")

    def write(self, due: Due) -> None:
        """Note it; a restart that is due already is never forgotten for a reload."""
        known = self.read()
        if known and known.act == "restart" and known.engine == due.engine:
            due = known
        text = json.dumps({"act": due.act, "engine": due.engine, "reason": due.reason}) + "\n"
        atomic_write(self.path, text.encode())

    def clear(self) -> None:
        """It is done."""
        Path(self.path).unlink(missing_ok=True)


class Engine:
    """The real one."""

    def __init__(self, layout: Layout | None = None, system: System | None = None) -> None:
        self.layout = layout or Layout()
        self.system = system or System()

    def version(self) -> tuple[int, ...] | None:
        """Of the installed dockerd; None without one."""
        program = _dockerd()
        return parse_version(run([program, "--version"], timeout=SHORT_SECONDS).out) if program else None

    def identity(self) -> str:
        """The process that runs now, as ``pid:start``; empty when none does."""
        pid = self.system.main_pid(UNIT)
        try:
            start = read_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            return ""
        return f"{pid}:{start}"

    def active(self) -> bool:
        """Whether it runs and starts at boot."""
        state = self.system.unit_states([UNIT])[UNIT]
        return state.active == "active" and state.enabled in ("enabled", "enabled-runtime", "static", "alias")

    def validate(self, path: str) -> None:
        """Let dockerd judge a file of settings. Raises HostError; an older one (before 23) cannot."""
        program = _dockerd()
        if not program:
            return
        done = run([program, "--validate", f"--config-file={path}"], timeout=SHORT_SECONDS)
        text = f"{done.out}\n{done.err}".strip()
        if done.rc != 0 and "unknown flag" not in text:
            reason = text.splitlines()[-1] if text else f"exit status {done.rc}"
            remedy = "correct container_toolkit_docker_config, or the file itself: nothing was changed"
            raise HostError(f"dockerd refuses these settings: {reason}", where="daemon.json", remedy=remedy)

    def start(self) -> None:
        """Start it, now and at boot. Raises HostError with its own last complaint."""
        try:
            self.system.systemctl("enable", "--now", UNIT, seconds=START_SECONDS)
        except HostError as error:
            raise HostError(f"does not start: {self._complaint() or error}", where=UNIT) from error

    def reload(self) -> None:
        """Have it read its settings anew; no container notices."""
        self.system.systemctl("reload", UNIT)

    def restart(self) -> None:
        """Start it anew. Raises HostError with its own last complaint."""
        try:
            self.system.systemctl("restart", UNIT, seconds=START_SECONDS)
        except HostError as error:
            raise HostError(f"does not start again: {self._complaint() or error}", where=UNIT) from error

    def knows_runtime(self, name: str) -> bool:
        """Whether it has taken a runtime over; waits a moment, for it reloads on its own time."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            with contextlib.suppress(HostError):
                if name in (self.info().get("Runtimes") or {}):
                    return True
            if time.monotonic() > end:
                return False
            time.sleep(0.2)

    def keeps_containers(self) -> bool:
        """Whether containers outlive it (``live-restore``); waits a moment for a reload to say so."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            with contextlib.suppress(HostError):
                if self.info().get("LiveRestoreEnabled") is True:
                    return True
            if time.monotonic() > end:
                return False
            time.sleep(0.2)

    def disturbed_by_restart(self) -> str:
        """Who would suffer from a restart now; empty when nobody would."""
        slots = known_slots(self.layout)
        busy = [slot for slot in slots if self.system.busy(unit_of(self.layout, slot))]
        if busy:
            return f"slot {', '.join(busy)} runs a job"
        try:
            info = self.info()
        except HostError as error:
            return str(error)
        running = info.get("ContainersRunning")
        if not isinstance(running, int):
            return "it does not say which containers run"
        return "" if running == 0 or info.get("LiveRestoreEnabled") is True else f"{running} containers run"

    def info(self) -> dict[str, Any]:
        """``GET /info`` of the Engine's API: its client may not be installed. Raises HostError."""
        connection = _Connection(str(self.layout.path(SOCKET)))
        try:
            connection.request("GET", "/info")
            data = json.loads(connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise HostError("the Engine does not answer", where=UNIT) from error
        finally:
            connection.close()
        return data if isinstance(data, dict) else {}

    def _complaint(self) -> str:
        words = ["journalctl", "--unit", UNIT, "--lines=60", "--output=cat", "--no-pager", "--quiet"]
        lines = run(words, timeout=SHORT_SECONDS).out.splitlines()
        errors = [
            line
            for line in lines
            if re.search(r"failed to start daemon|unable to configure|level=fatal", line)
        ]
        return " ".join(errors[-1].split())[:300] if errors else ""


def _dockerd() -> str | None:
    """Also where an administrator's PATH leaves out the system's programs."""
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/usr/local/bin")


def parse_version(text: str) -> tuple[int, ...] | None:
    """The first dotted number in a text: 26.1.5 in ``Docker version 26.1.5+dfsg1``."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else None
