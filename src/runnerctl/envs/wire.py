"""What a client and the store's service say to each other: one line of JSON up, lines of JSON down. Pure.

Stdlib only: a hit is over before anything larger could be imported. Up goes ``{"schema", "op", "payload"}``:

==========  ==========================================================================  ==================
op          payload                                                                     ``ready``
==========  ==========================================================================  ==================
``ping``    none                                                                        schema, version
``ensure``  ``request`` (`model.Request`); ``owner``: root only                         `model.Ready`
``lease``   ``digest``: keep it while the asker's job runs                              digest
``lock``    ``request``; solves only                                                    lock, packages
``list``    none                                                                        environments
``verify``  ``digest`` or none for all, ``full``                                        environments
``gc``      root only: ``budget_bytes``, ``keep_seconds``, ``dry_run``                  what was freed
``remove``  root only: ``digest``                                                       digest
==========  ==========================================================================  ==================

Down come ``{"event"}`` (`model.Event`) and ``{"alive"}`` lines, any number; then one of ``{"ready"}``,
``{"error": {what, where, remedy, exit_code}}``, ``{"needs_files": {name: where it is named}}`` (ask again
with them) and ``{"again": reason}`` (the service stops, or the environment has just gone: ask again).
"""

from __future__ import annotations

import json
from typing import Any

__all__ = [
    "ALIVE_SECONDS",
    "LONGEST_ANSWER",
    "LONGEST_REQUEST",
    "MOST_FILES",
    "MOST_LOCK",
    "MOST_TEXT",
    "OPS",
    "SCHEMA",
    "SOCKET",
    "encode_line",
    "encode_request",
]

SOCKET = "/run/runnerctl/env.sock"
SCHEMA = "runnerctl.env.ask/1"
OPS = ("ping", "ensure", "lease", "lock", "list", "verify", "gc", "remove")
MOST_TEXT = 1024 * 1024  # bytes of an environment.yml
MOST_FILES = 1024 * 1024  # bytes of all files that its pip section names
MOST_LOCK = 4 * 1024 * 1024  # bytes of a lock file
LONGEST_REQUEST = 8 * 1024 * 1024  # bytes of the line: JSON writes some characters longer
LONGEST_ANSWER = 16 * 1024 * 1024  # bytes of one line down: a lock of thousands of packages
ALIVE_SECONDS = 10.0  # between two lines of a service that has nothing new to tell


def encode_request(op: str, payload: dict[str, Any]) -> bytes:
    """The line that goes up, its line break included."""
    return encode_line({"schema": SCHEMA, "op": op, "payload": payload})


def encode_line(value: dict[str, Any]) -> bytes:
    """A JSON object as one line of ASCII."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
