"""What the running Docker Engine still owes: as the role container_toolkit noted it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runnerctl.core.snapshot import DockerDue, Unavailable
from runnerctl.probes.files import read_bytes, read_line, under

__all__ = ["DUE_FILE", "read_docker_due"]

DUE_FILE = "/var/lib/runnerctl/docker-due.json"


class _Note(msgspec.Struct):
    """The file. ``engine``: the process that owes it, as ``pid:start`` (proc(5), field 22 of stat)."""

    act: str
    engine: str
    reason: str


def read_docker_due(rootfs: Path) -> DockerDue | Unavailable | None:
    """The note below ``rootfs``; None when there is none."""
    data = read_bytes(under(rootfs, DUE_FILE))
    if data is None or isinstance(data, Unavailable):
        return data
    try:
        note = msgspec.json.decode(data, type=_Note)
    except msgspec.MsgspecError as error:
        remedy = "run the provision playbook with --tags container_toolkit"
        return Unavailable(f"{DUE_FILE} cannot be understood: {error}", remedy=remedy)
    return DockerDue(note.act, note.reason, over=not _runs(rootfs, note.engine))


def _runs(rootfs: Path, engine: str) -> bool:
    """Whether that very process runs still: an Engine that was started since has its settings."""
    pid, _, start = engine.partition(":")
    if not (pid.isdigit() and start.isdigit()):
        return False
    fields = (read_line(under(rootfs, f"/proc/{pid}/stat")) or "").rpartition(")")[2].split()
    return len(fields) > 19 and fields[19] == start
