"""Bounded reads of small files under a root: /proc, /sys and our own state."""

from __future__ import annotations

from pathlib import Path

from runnerctl.core.snapshot import Unavailable

__all__ = ["LARGEST_BYTES", "read_bytes", "read_line", "under"]

LARGEST_BYTES = 1024 * 1024


def under(rootfs: Path, path: str) -> Path:
    """An absolute path as it stands below another root."""
    return rootfs / path.lstrip("/")


def read_bytes(path: Path, limit: int = LARGEST_BYTES) -> bytes | Unavailable | None:
    """A file's content up to ``limit`` bytes; None when there is no such file."""
    try:
        with path.open("rb") as stream:
            return stream.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return Unavailable(f"{path} may not be read", kind="denied")
    except OSError as error:
        return Unavailable(f"{path}: {error.strerror}")


def read_line(path: Path) -> str | None:
    """The first line of a file, stripped; None when there is none or it cannot be read."""
    data = read_bytes(path, 4096)
    if not isinstance(data, bytes):
        return None
    return data.decode("utf-8", "replace").strip().partition("\n")[0].strip()
