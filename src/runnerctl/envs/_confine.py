"""Run a program that can write below one folder only.

::

    python -I -S _confine.py FOLDER PROGRAM [ARGUMENT]...

By Landlock, which needs no rights and which every child inherits (Linux 5.13 or newer; ``landlock(7)``).
Where the kernel has none the program runs as it is: what it may write to is then up to its user. Standard
library only, so that it starts at once and nothing of an environment is imported.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

__all__ = ["confine", "main"]

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture
VERSION_FLAG = 1
RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38
# write, remove, and make of every kind; then what newer versions of the interface know besides
WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))
REFER, TRUNCATE = 1 << 13, 1 << 14
TO_FILES = (1 << 1) | TRUNCATE  # all that can be allowed for something that is no folder


def confine(folder: str) -> bool:
    """Let this process write below ``folder`` and /dev/null only, from now on; False: the kernel cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(VERSION_FLAG))
    if version < 1:
        return False
    handled = WRITES | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=Q", handled)
    rules = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    if rules < 0:
        return False
    for place, allowed in ((folder, handled), (os.devnull, handled & TO_FILES)):
        handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", allowed, handle)
        if libc.syscall(ADD_RULE, rules, RULE_PATH_BENEATH, rule, ctypes.c_uint(0)) < 0:
            return False
        os.close(handle)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    done = bool(libc.syscall(RESTRICT_SELF, rules, ctypes.c_uint(0)) == 0)
    os.close(rules)
    return done


def main(arguments: list[str]) -> None:
    """Confine this process, then become the program."""
    folder, program, *rest = arguments
    confine(folder)
    os.execvp(program, [program, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
