"""GitHub and the mirror as one process, for the demonstration and for trying things by hand."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from tests.fakes.mirror import Mirror
from tests.hosts.world import World

__all__ = ["serve"]


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
