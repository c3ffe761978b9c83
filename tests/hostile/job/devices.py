"""Device nodes: the neighbour's GPU, memory, disks, consoles, and nodes of its own making."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import termios
from pathlib import Path

from .report import ReachedError, attempt, config

# What `DevicePolicy=closed` leaves to everybody (systemd.resource-control), and pseudo terminals.
_HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
_PTS = range(136, 144)


def _open(path: str, flags: int = os.O_RDWR) -> str:
    """Open a node. That there is no driver behind it means that the kernel would have opened it."""
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise ReachedError(f"{path}: let through ({errno.errorcode[error.errno]})") from error
        if error.errno is None:
            raise
        return errno.errorcode[error.errno]
    raise ReachedError(f"{path}: opened")


@attempt("device.neighbour-gpu")
def neighbour_gpu() -> str:
    """The GPU of another slot, for reading, writing and both."""
    said = [
        _open(path, flags)
        for path in config()["other_devices"]
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY)
    ]
    return ",".join(sorted(set(said)))


@attempt("device.every-other")
def every_other() -> str:
    """Each node under /dev that is neither harmless nor the slot's own."""
    tried = 0
    own = set(config()["own_devices"])
    for directory, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(directory, name)
            found = os.lstat(path)
            if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)) or path in own:
                continue
            major = os.major(found.st_rdev)
            if (major, os.minor(found.st_rdev)) in _HARMLESS or major in _PTS:
                continue
            tried += 1
            _open(path, os.O_RDONLY)
    return f"{tried} tried"


@attempt("device.memory")
def memory() -> str:
    """The machine's memory and its kernel's log."""
    return ",".join(_open(path, os.O_RDONLY) for path in ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg"))


@attempt("device.make-node")
def make_node() -> str:
    """A node of its own, for a GPU, a disk and the machine's memory."""
    kinds = ((stat.S_IFCHR, 195, 1), (stat.S_IFCHR, 1, 1), (stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 254, 0))
    for number, (kind, major, minor) in enumerate(kinds):
        for directory in (".", "/tmp", "/dev/shm"):
            path = os.path.join(directory, f"node{number}")
            try:
                os.mknod(path, kind | 0o666, os.makedev(major, minor))
            except OSError:
                continue
            _open(path, os.O_RDONLY)
    return "none could be opened"


@attempt("device.disks")
def disks() -> str:
    """Every block device that the kernel tells of."""
    names = os.listdir("/sys/block") if os.path.isdir("/sys/block") else []
    for name in names:
        if os.path.exists(f"/dev/{name}"):
            _open(f"/dev/{name}", os.O_RDONLY)
    return f"{len(names)} known"


@attempt("device.type-into-terminal")
def type_into_terminal() -> str:
    """Push key strokes into terminals that root may sit at (TIOCSTI)."""
    said = set()
    for path in ["/dev/tty", "/dev/console", "/dev/tty1", *map(str, Path("/dev/pts").glob("[0-9]*"))]:
        try:
            terminal = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
            fcntl.ioctl(terminal, termios.TIOCSTI, b"\n")
        except OSError as error:
            said.add(errno.errorcode.get(error.errno or 0, "?"))
        else:
            raise ReachedError(path)
    return ",".join(sorted(said))
