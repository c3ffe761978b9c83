"""Write metrics where the node exporter's textfile collector finds them: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from runnerctl.errors import UnavailableError, UsageError

__all__ = ["write_metrics"]

_MODE = 0o644  # the exporter runs as a user of its own


def write_metrics(file: str, text: str) -> None:
    """Replace ``file`` by ``text`` at once, readable for everybody.

    The temporary file lies in the same directory and does not end in ``.prom``: no collector reads it.
    Raises UsageError when the file cannot be one of a collector, UnavailableError when it cannot be written.
    """
    path = Path(file)
    if path.suffix != ".prom":
        raise UsageError(
            "does not end in .prom", where=file, remedy="collectors read files named *.prom only"
        )
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    except OSError as error:
        raise _failed(file, error) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), _MODE)
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise _failed(file, error) from None


def _failed(file: str, error: OSError) -> UnavailableError:
    remedy = "give a file in a directory that exists and that you may write to"
    return UnavailableError(f"cannot be written: {error.strerror or error}", where=file, remedy=remedy)
