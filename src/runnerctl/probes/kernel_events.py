"""The kernel log's events for those who may not read the log: root's readings leave them here.

Without them every verdict of a job on its own runner would be UNKNOWN. What tells of other people's programs
(process ids, names) is left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

import msgspec

from runnerctl.core.driver_readings import KernelEvent, KernelLog
from runnerctl.replace import replace_file

__all__ = ["FRESH_SECONDS", "PUBLISHED", "publish", "published"]

PUBLISHED = "/run/runnerctl/kernel-events.json"
SCHEMA = "runnerctl.kernel-events/1"
FRESH_SECONDS = 600.0  # several rounds of the health timer; older ones may miss what happened since
_MODE = 0o644
_PROGRAM = re.compile(r",? *(?:pid|name)=('[^']*'|<[^>]*>|[^,]*)")


class _Events(msgspec.Struct, kw_only=True):
    """The file."""

    schema: str = SCHEMA
    boot_id: str
    truncated: bool = False
    events: tuple[KernelEvent, ...] = ()


def publish(log: KernelLog, path: Path = Path(PUBLISHED)) -> None:
    """Replace the file at once; without it this verdict is as good as with it."""
    events = tuple(_without_program(event) for event in log.events)
    file = _Events(boot_id=log.boot_id, truncated=log.truncated, events=events)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o755, exist_ok=True)
        replace_file(path, msgspec.json.encode(file), mode=_MODE)


def _without_program(event: KernelEvent) -> KernelEvent:
    message = _PROGRAM.sub("", event.message)
    return msgspec.structs.replace(event, pid=None, process=None, message=message)


def published(boot_id: str, path: Path = Path(PUBLISHED), *, owner: int = 0) -> KernelLog | None:
    """What ``owner``, root, left in this boot and not long ago; None where there is no such thing."""
    try:
        with path.open("rb") as stream:
            state = os.fstat(stream.fileno())
            file = msgspec.json.decode(stream.read(), type=_Events)
    except (OSError, msgspec.MsgspecError):
        return None
    fresh = 0 <= time.time() - state.st_mtime + 1 <= FRESH_SECONDS
    if state.st_uid != owner or file.schema != SCHEMA or file.boot_id != boot_id or not fresh:
        return None
    return KernelLog(boot_id=boot_id, source="published", events=file.events, truncated=file.truncated)
