"""Bounded reads of small files under a root: /proc, /sys and our own state."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runnerctl.core.snapshot import Unavailable

__all__ = ["LARGEST_BYTES", "read_bytes", "read_line", "under"]

LARGEST_BYTES = 1024 * 1024


def under(rootfs: Path, path: str) -> Path:
    """An absolute path as it stands below another root."""
    return rootfs / path.lstrip("/")


def read_bytes(path: Path, limit: int = LARGEST_BYTES) -> bytes | Unavailable | None:
    """A file's content up to ``limit`` bytes; None when there is no such file.

    What is no regular file is refused: a FIFO would keep its reader waiting for ever.
    """
    try:
        with open(path, "rb", opener=_at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return Unavailable(f"{path} is no regular file", remedy=f"look at `ls -l {path}`")
            return stream.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return Unavailable(f"{path} may not be read", kind="denied")
    except OSError as error:
        return Unavailable(f"{path}: {error.strerror}")


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: a FIFO that nobody writes to blocks otherwise."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def read_line(path: Path) -> str | None:
    """The first line of a file, stripped; None when there is none or it cannot be read."""
    data = read_bytes(path, 4096)
    if not isinstance(data, bytes):
        return None
    return data.decode("utf-8", "replace").strip().partition("\n")[0].strip()
