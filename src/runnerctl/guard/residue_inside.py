"""What of a slot is in the kernel's memory and in namespaces: looked for, and removed, in a child process.

Run as ``python -I -m runnerctl.guard.residue_inside UID BEFORE KEYS PID...`` by root. It enters the
namespaces of the processes named, removes System V objects, POSIX message queues and the files of private
/dev/shm and /tmp as far as they are older than BEFORE (epoch), with KEYS 1 the user's keys as well, looks
again, and prints one JSON object, ``{"removed": [...], "remains": [...]}``. Whoever started it ends it when
it hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from runnerctl.guard.residue_tree import empty, entries

__all__ = ["main"]

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x08000000, 0x10000000
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x4000, 1 << 18, 2, 4, 8
IPC_RMID = 0
TMPFS = 0x01021994
KEYCTL = {"x86_64": 250, "aarch64": 219}  # keyctl(2)'s number
JOIN_SESSION, CLEAR, READ, GET_PERSISTENT = 1, 7, 11, 22
KEYRINGS = {"user keyring": -4, "user session keyring": -5}
COVERED = "/run"  # by the queues' file system, in this process's own mount namespace alone
FILES_SECONDS = 10.0
PRIVATE = ("dev/shm", "tmp", "var/tmp")
OBJECTS = {"shm": "shared memory", "sem": "semaphores", "msg": "message queues"}
OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """What was removed, and what is still there."""

    removed: list[str]
    remains: list[str]


class Wanted(NamedTuple):
    """Which objects go: those of a user, or of everybody, that were last changed before a time (epoch)."""

    uid: int | None
    before: float


def main(arguments: list[str]) -> int:
    """Clean up for a uid and for the namespaces of processes."""
    uid, before, keys = int(arguments[0]), float(arguments[1]), arguments[2] == "1"
    found, spaces, users = Found([], []), {_identity("ipc")}, {_identity("user")}
    _in_child(found, lambda: _memory(Wanted(uid, before)))
    if keys:
        _in_child(found, lambda: _keys(uid))
    for pid in map(int, arguments[3:]):
        _in_child(found, partial(_files, pid, before))
        if (space := _identity("ipc", pid)) not in spaces:
            spaces.add(space)
            _in_child(found, partial(_memory, Wanted(None, before), pid))
        if keys and (user := _identity("user", pid)) not in users:
            users.add(user)
            _in_child(found, partial(_keys, uid, pid))
    print(json.dumps(found._asdict()))
    return 0


def _in_child(found: Found, do: Callable[[], Found]) -> None:
    """Do it in a process of its own, so that what it enters and becomes is over afterwards."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(_tried(do)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    removed, remains = json.loads(data)
    found.removed.extend(removed)
    found.remains.extend(remains)


def _tried(do: Callable[[], Found]) -> Found:
    try:
        return do()
    except Exception as error:  # whatever it is, the other places are looked at all the same
        return Found([], [f"cannot look everywhere: {error}"])


def _tell(found: Found, name: str, before: int, after: int) -> None:
    if before > after:
        found.removed.append(f"{name}: {before - after}")
    if after:
        found.remains.append(f"{name}: {after}")


def _identity(kind: str, pid: int | str = "self") -> tuple[int, int]:
    """Which namespace a process is in; (0, 0) when it is gone."""
    try:
        status = os.stat(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _enter(kind: str, pid: int, flag: int) -> bool:
    """Enter a process's namespace; False when the process is gone. Raises OSError."""
    try:
        handle = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        _call(LIBC.setns(handle, flag))
    finally:
        os.close(handle)
    return True


def _call(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# -- System V objects and POSIX message queues


def _memory(wanted: Wanted, pid: int | None = None) -> Found:
    """Objects of one user, or, in a namespace that is the slot's alone, of everybody."""
    found = Found([], [])
    if pid is not None and not _enter("ipc", pid, CLONE_NEWIPC):
        return found
    for kind, name in OBJECTS.items():
        ids = list(_objects(kind, wanted))
        for each in ids:
            _remove_object(kind, each)
        _tell(found, f"System V {name}", len(ids), len(list(_objects(kind, wanted))))
    with contextlib.suppress(FileNotFoundError):  # a kernel without such queues
        _queues(found, wanted)
    return found


def _objects(kind: str, wanted: Wanted) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError), open(f"/proc/sysvipc/{kind}", encoding="ascii") as table:
        head = table.readline().split()
        for line in table:
            row = dict(zip(head, line.split(), strict=False))
            # A segment that is removed already stays until its last user ends (SHM_DEST).
            gone = kind == "shm" and int(row["perms"], 8) & 0o1000
            ours = wanted.uid is None or str(wanted.uid) in (row["uid"], row["cuid"])
            if ours and not gone and int(row["ctime"]) < wanted.before:
                yield int(row[f"{kind}id" if kind != "msg" else "msqid"])


def _remove_object(kind: str, number: int) -> None:
    if kind == "shm":
        LIBC.shmctl(number, IPC_RMID, None)
    elif kind == "sem":
        LIBC.semctl(number, 0, IPC_RMID)
    else:
        LIBC.msgctl(number, IPC_RMID, None)


def _queues(found: Found, wanted: Wanted) -> None:
    _call(LIBC.unshare(CLONE_NEWNS))
    _call(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    if LIBC.mount(b"mqueue", COVERED.encode(), b"mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, None) < 0:
        if ctypes.get_errno() == 19:  # ENODEV: a kernel without them
            return
        raise OSError(ctypes.get_errno(), "message queues cannot be seen")
    names = _owned(wanted)
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(COVERED, name))
    _tell(found, "POSIX message queues", len(names), len(_owned(wanted)))


def _owned(wanted: Wanted) -> list[str]:
    with os.scandir(COVERED) as listing:
        found = [(each.name, each.stat(follow_symlinks=False)) for each in listing]
    mine = [(name, status) for name, status in found if wanted.uid in (None, status.st_uid)]
    return [name for name, status in mine if status.st_ctime < wanted.before]


# -- files of a private /dev/shm or /tmp


def _files(pid: int, before: float) -> Found:
    """Empty the memory file systems that are the slot's alone.

    A listener that was taken over may have built its own root. So only a file system counts that is in memory
    and that the host does not have: whatever it holds belongs to the slot.
    """
    found, hosts = Found([], []), _host_devices()

    def keep(_name: str, status: os.stat_result) -> bool:
        return status.st_ctime >= before

    for path in PRIVATE:
        with contextlib.ExitStack() as stack:
            try:
                folder = _descend(stack, pid, path)
            except OSError:  # gone, no directory, or a link
                continue
            if _is_tmpfs(folder) and _device(folder) not in hosts:
                swept = empty(folder, keep=keep, deadline=time.monotonic() + FILES_SECONDS)
                left = sum(1 for _ in entries(folder, keep))
                _tell(found, f"files in /{path}", swept.gone + left, left)
    return found


def _descend(stack: contextlib.ExitStack, pid: int, path: str) -> int:
    """A directory below a process's root, with no link followed on the way. Raises OSError."""
    handle = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, handle)
    for part in path.split("/"):
        handle = os.open(part, OPEN, dir_fd=handle)
        stack.callback(os.close, handle)
    return handle


def _device(handle: int) -> str:
    number = os.fstat(handle).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _is_tmpfs(handle: int) -> bool:
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with its type, a long
    _call(LIBC.fstatfs(handle, buffer))
    return ctypes.c_long.from_buffer(buffer).value == TMPFS


def _host_devices() -> set[str]:
    """The devices of all that is mounted on the host (proc(5), mountinfo)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return {line.split()[2] for line in table}


# -- keys


def _keys(uid: int, pid: int | None = None) -> Found:
    """Empty the user's own keyrings, those of a user namespace with ``pid``; an empty one is no residue."""
    found, number = Found([], []), KEYCTL.get(platform.machine())
    if number is None or (pid is not None and not _enter("user", pid, CLONE_NEWUSER)):
        return found
    if pid is None:
        os.setgroups([])
    os.setresuid(uid, uid, uid)

    def keyctl(*arguments: int | None) -> int:
        return int(LIBC.syscall(number, *(ctypes.c_long(each or 0) for each in arguments)))

    if keyctl(JOIN_SESSION, None) < 0:  # a kernel without keys, or one that forbids them
        return found
    rings = dict(KEYRINGS)
    if (persistent := keyctl(GET_PERSISTENT, uid, -2)) > 0:
        rings["persistent keyring"] = persistent
    for name, ring in rings.items():
        before = max(0, keyctl(READ, ring, None, 0)) // 4
        if ring == KEYRINGS["user session keyring"]:
            before = max(0, before - 1)  # it holds a link to the user keyring
        keyctl(CLEAR, ring)
        _tell(found, f"keys in the {name}", before, max(0, keyctl(READ, ring, None, 0)) // 4)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
