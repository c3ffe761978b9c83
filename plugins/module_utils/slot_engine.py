"""How a slot's container engine starts: in a user namespace that root has given the slot's ids.

Two halves of one start, in the engine's own unit. ``run`` is the unit's command, as the slot's user: it makes
the namespace, waits until its ids are there, and becomes podman. ``map`` is run by root right behind it and
writes them. So nothing in the unit ever needs a setuid program, a capability, or new privileges.

This very file is put onto hosts and run there: it needs the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
import time
from pathlib import Path

__all__ = ["EngineError", "Range", "main", "map_ids", "range_of"]

PODMAN = "/usr/bin/podman"
DEADLINE_SECONDS = 10.0
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000  # sched.h
_MS_REC_SLAVE = 0x4000 | (1 << 19)  # mount(2)

Range = tuple[int, int]  # the first id, and how many


class EngineError(Exception):
    """The engine cannot start, and why."""


def range_of(text: str, user: str) -> Range | None:
    """The first range that a text like ``/etc/subuid`` gives a user (subuid(5)); None without one."""
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] == user and fields[1].isdecimal() and fields[2].isdecimal():
            return int(fields[1]), int(fields[2])
    return None


def map_ids(
    pid: int,
    user: str,
    *,
    etc: Path = Path("/etc"),
    proc: Path = Path("/proc"),
    seconds: float = DEADLINE_SECONDS,
) -> None:
    """Give the namespace of a process the user's own ids, the user as its root. Raises EngineError.

    The process must be the user's: whatever it did to itself, it gets no ids but those of its slot.
    """
    entry = pwd.getpwnam(user)
    deadline = time.monotonic() + seconds
    outside = (proc / "self/ns/user").readlink()
    while (proc / str(pid) / "ns/user").readlink() == outside:
        _wait(deadline, f"process {pid} made no namespace")
    if os.stat(proc / str(pid) / "ns").st_uid not in (entry.pw_uid, 0):
        raise EngineError(f"process {pid} is not of {user}")
    for name, own in (("uid", entry.pw_uid), ("gid", entry.pw_gid)):
        path = etc / f"sub{name}"
        found = range_of(path.read_text(), user)
        if found is None:
            raise EngineError(f"{path} has no range of {user}: run the provisioning playbook again")
        text = f"0 {own} 1\n1 {found[0]} {found[1]}\n"
        (proc / str(pid) / f"{name}_map").write_text(text)


def _wait(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise EngineError(f"{what} in time: see the journal of its unit")
    time.sleep(0.005)


def _enter() -> None:
    """A user namespace and a mount namespace in it; returns when root has mapped the ids."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        reason = os.strerror(ctypes.get_errno())
        remedy = "allow user namespaces: see user.max_user_namespaces and AppArmor's restriction of them"
        raise EngineError(f"no user namespace: {reason}; {remedy}")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while os.getuid() != 0 or os.getgid() != 0:
        _wait(deadline, "the ids were not mapped")
    if libc.mount(b"none", b"/", None, _MS_REC_SLAVE, None):
        raise EngineError(f"mounts cannot be kept apart: {os.strerror(ctypes.get_errno())}")


def _run(arguments: list[str]) -> None:
    uid, gid = os.getuid(), os.getgid()
    _enter()
    os.environ |= {
        "_CONTAINERS_USERNS_CONFIGURED": "done",  # podman, pkg/rootless: it need not do what was done
        "_CONTAINERS_ROOTLESS_UID": str(uid),
        "_CONTAINERS_ROOTLESS_GID": str(gid),
    }
    os.execv(PODMAN, [PODMAN, *arguments])


def main(arguments: list[str]) -> int:
    """``run ARGUMENT...`` or ``map PID USER``; an error is one line on stderr and 1."""
    try:
        if arguments[0] == "map":
            map_ids(int(arguments[1]), arguments[2])
        else:
            _run(arguments[1:])
    except (EngineError, OSError, KeyError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
