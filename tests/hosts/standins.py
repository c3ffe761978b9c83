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

__all__ = ["Standins", "serve"]

START_SECONDS = 60


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

    def stop(self) -> None:
        """End it by its pid, if that is still the process we started."""
        known = self._pid.read_text() if self._pid.exists() else ""
        pid = int(known.partition(":")[0] or 0)
        if pid and process(pid) == known:
            os.kill(pid, signal.SIGTERM)
        self._pid.unlink(missing_ok=True)
        self.ready.unlink(missing_ok=True)


def serve(address: str, root: Path, *, ready_file: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Prints, and writes to ``ready_file`` (mode 0600), one JSON object: ``github`` and ``mirror`` (base URLs),
    ``token`` (known to GitHub) and ``variables`` (for an inventory).
    """
    ended = threading.Event()
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
            ended.wait()
    return 0


def _publish(path: Path, text: str) -> None:
    """Write the file at once or not at all: whoever waits for it may read it as soon as it exists."""
    partial = path.with_suffix(".part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)
