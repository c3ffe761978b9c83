"""What a job might try, tried: one short attempt each, made from within a slot's unit as the slot's user.

Runs in a child that has given up all that a job has not. Standard library only, and nothing is imported late:
the file system is the slot's by then. No attempt changes anything: files are opened and closed again, what is
created is removed, and calls get arguments that do nothing where they are allowed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable

__all__ = ["ATTEMPTS", "attempt", "main"]

ALLOWED, BLOCKED, ABSENT = "allowed", "blocked", "absent"
_SUDO_SECONDS = 5.0
_CLONE_NEWUSER = 0x10000000
_LIBC = ctypes.CDLL(None, use_errno=True)
# The kernel looked at the device, not at the rules: they let it through.
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)

Result = tuple[str, str]


def attempt(kind: str, target: str) -> Result:
    """One attempt: ``allowed``, ``blocked`` or ``absent``, and what the kernel said."""
    try:
        said = ATTEMPTS[kind](target)
    except OSError as error:
        return _told(kind, error)
    return ALLOWED, said


def _told(kind: str, error: OSError) -> Result:
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    if error.errno in _NOT_THERE:
        return ABSENT, name
    if error.errno in _REFUSALS:
        return BLOCKED, name
    if kind == "connect":  # nobody listens, or it is a socket of another type: that one was reached
        return (ALLOWED if error.errno == errno.EPROTOTYPE else BLOCKED), name
    return (ALLOWED if kind == "device" else BLOCKED), name


def _device(path: str) -> str:
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    return "opened"


def _read(path: str) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            os.read(handle, 1)
    finally:
        os.close(handle)
    return "read"


def _list(path: str) -> str:
    os.listdir(path)
    return "listed"


def _write(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    return "opened for writing"


def _create(folder: str) -> str:
    path = f"{folder}/.runnerctl-{os.getpid()}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.unlink(path)
    return "a file was made"


def _connect(path: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        client.connect(path)
    return "connected"


def _signal(pid: str) -> str:
    os.kill(int(pid), 0)
    return "may be signalled"


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(_target: str) -> str:
    _checked(_LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None))
    _LIBC.umount(b"/tmp")
    return "mounted"


def _user_namespace(_target: str) -> str:
    _checked(_LIBC.unshare(_CLONE_NEWUSER))
    return "made"


def _clock(_target: str) -> str:
    time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns())
    return "set"


def _limit(_target: str) -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        raise OSError(errno.EPERM, "there is none to raise")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
    except ValueError:
        raise OSError(errno.EPERM, "refused") from None
    return "raised"


def _root(_target: str) -> str:
    os.setuid(0)
    return "became root"


def _sudo(program: str) -> str:
    os.stat(program)
    try:
        done = subprocess.run(
            [program, "-n", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SUDO_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.EPERM, "no answer") from None
    if done.returncode:
        raise OSError(errno.EPERM, "refused")
    return "gave root"


def _suid(_target: str) -> str:
    path = f"/tmp/.runnerctl-{os.getpid()}"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
    try:
        os.fchmod(handle, 0o4700)
    finally:
        os.close(handle)
        os.unlink(path)
    return "made"


def _node(_target: str) -> str:
    path = f"/tmp/.runnerctl-{os.getpid()}"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 1))
    os.unlink(path)
    return "made"


ATTEMPTS: dict[str, Callable[[str], str]] = {
    "device": _device,
    "read": _read,
    "list": _list,
    "write": _write,
    "create": _create,
    "connect": _connect,
    "signal": _signal,
    "mount": _mount,
    "user-namespace": _user_namespace,
    "clock": _clock,
    "limit": _limit,
    "root": _root,
    "sudo": _sudo,
    "suid": _suid,
    "node": _node,
}


def main() -> None:
    """Read attempts from stdin, one JSON array of kind and target a line; write a result a line."""
    for line in sys.stdin:
        kind, target = json.loads(line)
        print(json.dumps(attempt(kind, target)), flush=True)


if __name__ == "__main__":
    main()
