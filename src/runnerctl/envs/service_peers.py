"""For whom an environment is kept: the process whose end is the end of the asker's job."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from runnerctl.envs.leases import WORKER, Holder

__all__ = ["holder_of"]

_MOST_PARENTS = 64
_STATE, _PARENT, _SESSION, _START = 0, 1, 3, 19  # fields of /proc/PID/stat behind the name, proc(5)


class _Process(NamedTuple):
    name: str
    parent: int
    session: int
    started: int
    uid: int


def holder_of(pid: int, uid: int, proc: Path = Path("/proc")) -> Holder | None:
    """The asker's worker of a job, else the leader of its session, else itself; None once it has ended.

    Only processes of the asker's own user count: a name is anybody's to take.
    """
    asker = _process(pid, proc)
    if asker is None:
        return None
    at, number = asker, pid
    for _ in range(_MOST_PARENTS):
        if at.name == WORKER and at.uid == uid:
            return Holder(number, at.started)
        number = at.parent
        parent = _process(number, proc) if number > 1 else None
        if parent is None:
            break
        at = parent
    leader = _process(asker.session, proc) if asker.session > 1 else None
    if leader is not None and leader.uid == uid:
        return Holder(asker.session, leader.started)
    return Holder(pid, asker.started)


def _process(pid: int, proc: Path) -> _Process | None:
    try:
        place = proc / str(pid)
        text = (place / "stat").read_text(encoding="utf-8", errors="replace")
        uid = place.stat().st_uid
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        if fields[_STATE] in "ZX":
            return None
        return _Process(name, int(fields[_PARENT]), int(fields[_SESSION]), int(fields[_START]), uid)
    except (OSError, ValueError, IndexError):
        return None
