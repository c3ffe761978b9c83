"""Become a program that reads, writes and reaches no more than it was given.

::

    python -I -S _confine.py ORDER PROGRAM [ARGUMENT]...

``ORDER`` is JSON, see `Order`. By Landlock (Linux 5.13 or newer; ``landlock(7)``) and, for code that came out
of a package, by a filter of system calls (``seccomp(2)``), as Landlock says nothing about changing modes,
signals on older kernels, or UDP. Neither needs rights, and every child inherits them. Standard library only,
and nothing of runnerctl: it starts at once, and nothing of an environment is imported. Exit code 124: the
kernel cannot do it, and the program was not run.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import stat
import struct
import sys
from collections.abc import Iterable
from typing import TypedDict

__all__ = ["CANNOT", "Order", "main", "version"]

CANNOT = 124

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture
VERSION_FLAG = 1
RULE_PATH_BENEATH = 1
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
FILTER_MODE = 2
# Landlock's rights, by the number of their bit
READ = (1 << 0) | (1 << 2) | (1 << 3)  # execute, read a file, list a folder
WRITE = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))  # write, remove, make of every kind
REFER, TRUNCATE, DEVICES = 1 << 13, 1 << 14, 1 << 15  # since versions 2, 3, 5
OF_FILES = (1 << 0) | (1 << 1) | (1 << 2) | TRUNCATE | DEVICES  # all that means something for no folder
TCP = 3  # bind and connect, since version 4
SCOPES = 3  # abstract sockets and signals, since version 6

# What a filter looks at: offsets in ``struct seccomp_data``, and the words of its little language
AT_NUMBER, AT_MACHINE, AT_FIRST = 0, 4, 16
LOAD, EQUAL, AT_LEAST, ANSWER = 0x20, 0x15, 0x35, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
X32 = 0x40000000  # a second table of system calls on x86_64
# Sockets; modes, owners, attributes and times of files; truncation by name; other processes and their limits;
# a group of its own (ours is ended as a whole); keys; and what goes round a filter
EVERYWHERE = (424, 425, 438, 452, 463, 466, 469)
ON_X86_64: tuple[int, ...] = (41, 76, 90, 91, 92, 93, 94, 101, 109, 112, 132, 188, 189, 190, 197, 198, 199)
ON_X86_64 += (235, 248, 249, 250, 260, 261, 268, 280, 298, 304, 310, 311, 312, 321)
ON_AARCH64: tuple[int, ...] = (5, 6, 7, 14, 15, 16, 45, 52, 53, 54, 55, 88, 117, 154, 157, 198, 217, 218)
ON_AARCH64 += (219, 241, 265, 270, 271, 272, 280)
MACHINES = {"x86_64": (0xC000003E, ON_X86_64), "aarch64": (0xC00000B7, ON_AARCH64)}
SIGNALS = {"x86_64": (62, 129, 200, 234, 297), "aarch64": (129, 130, 131, 138, 240)}
LIMITS_OF = {"x86_64": 302, "aarch64": 261}  # prlimit64: of ourselves only


class Order(TypedDict):
    """``write``: folders to do anything in. ``make``: folders to make, replace and remove files in, where
    none that is there is truncated (kernels from 6.2). ``read``: folders and files to read and run.

    ``network``: whether TCP stays open. ``ours``: the program is no package's, and needs no filter.
    ``tied``: it ends with the thread that started it. ``anyway``: run it where the kernel cannot confine it.
    ``limits``: name of a limit of `resource` -> value. ``environment``: all that it sees; None: ours.
    """

    write: list[str]
    make: list[str]
    read: list[str]
    network: bool
    ours: bool
    tied: bool
    anyway: bool
    limits: dict[str, int]
    environment: dict[str, str] | None


class UnconfinedError(Exception):
    """The kernel refused; the message says what."""


def version() -> int:
    """The kernel's version of Landlock; 0: it has none, or this machine is one that we have no filter for."""
    if os.uname().machine not in MACHINES:
        return 0
    found = _libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(VERSION_FLAG))
    return max(0, int(found))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _done(answer: int, what: str) -> int:
    if answer < 0:
        raise UnconfinedError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return answer


def _landlock(order: Order, known: int) -> None:
    """Restrict this process. Raises UnconfinedError."""
    libc = _libc()
    write = WRITE | (REFER if known >= 2 else 0) | (TRUNCATE if known >= 3 else 0)
    write |= DEVICES if known >= 5 else 0
    network = TCP if known >= 4 and not order["network"] else 0
    words = [READ | write, *([network] if known >= 4 else []), *([SCOPES] if known >= 6 else [])]
    attributes = struct.pack(f"={len(words)}Q", *words)
    size = ctypes.c_size_t(len(attributes))
    rules = _done(libc.syscall(CREATE_RULESET, attributes, size, ctypes.c_uint(0)), "no set of rules")
    allowed = [(place, READ | write) for place in order["write"]]
    allowed += [(place, READ | write & ~TRUNCATE) for place in order["make"]]
    allowed += [(os.devnull, READ | write)] + [(place, READ) for place in order["read"]]
    for place, rights in allowed:
        _allow(libc, rules, place, rights)
    _done(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "new rights stay possible")
    _done(libc.syscall(RESTRICT_SELF, rules, ctypes.c_uint(0)), "no restriction")
    os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, place: str, rights: int) -> None:
    """What is not there is no rule."""
    try:
        handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        rule = struct.pack("=Qi", rights if folder else rights & OF_FILES, handle)
        _done(libc.syscall(ADD_RULE, rules, RULE_PATH_BENEATH, rule, ctypes.c_uint(0)), f"no rule of {place}")
    finally:
        os.close(handle)


def _filter(known: int) -> None:
    """Refuse what Landlock does not know. Raises UnconfinedError."""
    machine = os.uname().machine
    number, refused = MACHINES[machine]
    refused += EVERYWHERE + (SIGNALS[machine] if known < 6 else ())
    program = [(LOAD, 0, 0, AT_MACHINE), (EQUAL, 1, 0, number), (ANSWER, 0, 0, KILL)]
    program += [(LOAD, 0, 0, AT_NUMBER), (AT_LEAST, 0, 1, X32), (ANSWER, 0, 0, REFUSE)]
    for call in refused:
        program += [(EQUAL, 0, 1, call), (ANSWER, 0, 0, REFUSE)]
    program += [(EQUAL, 0, 3, LIMITS_OF[machine]), (LOAD, 0, 0, AT_FIRST), (EQUAL, 1, 0, 0)]
    program += [(ANSWER, 0, 0, REFUSE), (ANSWER, 0, 0, ALLOW)]
    _seccomp(program)


def _seccomp(program: Iterable[tuple[int, int, int, int]]) -> None:
    text = b"".join(struct.pack("=HBBI", *words) for words in program)
    held = ctypes.create_string_buffer(text, len(text))
    whole = struct.pack("@HP", len(text) // 8, ctypes.addressof(held))
    _done(_libc().prctl(PR_SET_SECCOMP, FILTER_MODE, whole, 0, 0), "no filter of system calls")


def _limit(limits: dict[str, int]) -> None:
    for name, value in {**limits, "RLIMIT_CORE": 0}.items():
        which = getattr(resource, name)
        _, hard = resource.getrlimit(which)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))


def _confine(order: Order) -> None:
    known = version()
    if known < 1:
        if not order["anyway"]:
            raise UnconfinedError("the kernel has no Landlock")
        return
    _landlock(order, known)
    if not order["ours"]:
        _filter(known)


def main(arguments: list[str]) -> None:
    """Confine this process, then become the program."""
    order: Order = json.loads(arguments[0])
    program, *rest = arguments[1:]
    if order["tied"]:
        _libc().prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    environment = dict(os.environ) if order["environment"] is None else order["environment"]
    _limit(order["limits"])
    try:
        _confine(order)
        os.execvpe(program, [program, *rest], environment)
    except (UnconfinedError, OSError) as error:
        sys.stderr.write(f"{program} was not run: {error}\n")
        os._exit(CANNOT)


if __name__ == "__main__":
    main(sys.argv[1:])
