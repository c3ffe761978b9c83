"""Write metrics where the node exporter's textfile collector finds them: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from runnerctl.errors import UnavailableError, UsageError
from runnerctl.replace import replace_file

__all__ = ["check_name", "write_metrics"]

_MODE = 0o644  # the exporter runs as a user of its own


def check_name(file: str) -> None:
    """Raises UsageError when a collector would not read a file of this name."""
    if Path(file).suffix != ".prom":
        remedy = "collectors read files named *.prom only"
        raise UsageError("does not end in .prom", where=file, remedy=remedy)


def write_metrics(file: str, text: str) -> None:
    """Replace ``file`` by ``text`` at once, readable for everybody.

    The temporary file lies in the same directory and does not end in ``.prom``: no collector reads it.
    Raises UsageError when the file cannot be one of a collector, UnavailableError when it cannot be written.
    """
    check_name(file)
    path = Path(file)
    try:
        replace_file(path, text.encode(), mode=_MODE)
    except OSError as error:
        raise _failed(file, error) from None


def _failed(file: str, error: OSError) -> UnavailableError:
    remedy = "give a file in a directory that exists and that you may write to"
    return UnavailableError(f"cannot be written: {error.strerror or error}", where=file, remedy=remedy)
