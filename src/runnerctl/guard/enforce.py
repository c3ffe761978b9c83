"""Which processes a job may have before it is admitted, and after it was refused. Pure.

Before its hook has asked, a runner unpacks actions and starts the hook; nothing else of the job's runs. After
a refusal only the hooks may run: a job that goes on all the same (``if: always()``) is ended.
"""

from __future__ import annotations

import posixpath
from typing import Literal

__all__ = ["ARCHIVERS", "SHELLS", "Fate", "fate", "is_system_program"]

SHELLS = frozenset({"bash", "sh", "dash"})
ARCHIVERS = frozenset({"tar", "gzip", "bsdtar", "unzip", "xz", "bzip2", "zstd", "pigz", "ldd", "ldconfig"})
_PLACES = ("/usr/bin/", "/bin/", "/usr/local/bin/", "/usr/sbin/", "/sbin/")
Fate = Literal["fine", "check", "wrong"]


def is_system_program(path: str, names: frozenset[str]) -> bool:
    """Whether a program (the path that it was executed from) is one of these, where the system has them."""
    return posixpath.basename(path) in names and path.startswith(_PLACES)


def fate(program: str, *, hook: bool, of_worker: bool, python: str, refused: bool) -> Fate:
    """What is made of one process. ``hook``: it is a hook of ours, or a child of one.

    ``of_worker``: it is the worker's own child. ``python``: what the hooks' client is executed from.
    """
    if hook:
        return "fine" if program == python or is_system_program(program, SHELLS) else "wrong"
    if not program:
        return "fine"  # it ends, or has not begun
    if not refused and is_system_program(program, ARCHIVERS):
        return "fine"
    if of_worker and is_system_program(program, SHELLS):
        return "check"
    return "wrong"
