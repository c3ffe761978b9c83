"""GitHub and the mirror as one process, for the demonstration and for trying things by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.fakes.mirror import Mirror
from tests.hosts.host import process
from tests.hosts.machine import ROOT, HostsError
from tests.hosts.world import World

__all__ = ["NEXT_RELEASE", "Standins", "serve"]

START_SECONDS = 60
NEXT_RELEASE = "2.337.0"


class Standins:
    """The process of `serve`, started and ended by whoever knows its directory."""

    def __init__(self, directory: Path) -> None:
        self.ready = directory / "standins.json"
        self.log = directory / "standins.log"
        self._pid = directory / "standins.pid"
        self._root = directory / "mirror"

    def start(self) -> dict[str, Any]:
        """Start it and wait until it serves; gives what `serve` tells. Raises HostsError."""
        self.ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.hosts", "standins", "--root", str(self._root)]
        with self.log.open("wb") as log:
            child = subprocess.Popen(
                [*command, "--ready-file", str(self.ready)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid.write_text(process(child.pid))
        deadline = time.monotonic() + START_SECONDS
        while not self.ready.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                raise HostsError(f"the stand-ins do not start: {self.log.read_text()[-600:]}")
            time.sleep(0.05)
        facts: dict[str, Any] = json.loads(self.ready.read_text())
        return facts

    def publish(self) -> str:
        """Have the next runner release come out; gives its version. Raises HostsError."""
        os.kill(int(self._pid.read_text().partition(":")[0]), signal.SIGUSR1)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if version := json.loads(self.ready.read_text()).get("released"):
                return str(version)
            time.sleep(0.05)
        raise HostsError(f"the release does not come out: {self.log.read_text()[-600:]}")

    def stop(self) -> None:
        """End it by its pid, if that is still the process we started."""
        known = self._pid.read_text() if self._pid.exists() else ""
        pid = int(known.partition(":")[0] or 0)
        if pid and process(pid) == known:
            os.kill(pid, signal.SIGTERM)
        self._pid.unlink(missing_ok=True)
        self.ready.unlink(missing_ok=True)


def serve(address: str, root: Path, *, ready_file: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT; at SIGUSR1 the next runner release comes out.

    Prints, and writes to ``ready_file`` (mode 0600), one JSON object: ``github`` and ``mirror`` (base URLs),
    ``token`` (known to GitHub) and ``variables`` (for an inventory).
    """
    ended, due = threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: due.set())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Mirror(root, host=address) as mirror:
        mirror.add_miniforge()
        with World.build(address, mirror) as world:
            facts = {"github": world.github.url, "mirror": mirror.url, "token": world.token}
            text = json.dumps({**facts, "variables": world.variables()}, indent=2)
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            if ready_file:
                _publish(ready_file, text)
            while not ended.wait(0.1):
                if due.is_set():
                    due.clear()
                    world.publish(NEXT_RELEASE)
                    if ready_file:
                        _publish(
                            ready_file, json.dumps({**json.loads(text), "released": NEXT_RELEASE}, indent=2)
                        )
    return 0


def _publish(path: Path, text: str) -> None:
    """Write the file at once or not at all: whoever waits for it may read it as soon as it exists."""
    partial = path.with_suffix(".part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)
