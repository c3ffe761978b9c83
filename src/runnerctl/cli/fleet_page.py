"""Where ``runnerctl fleet --html`` puts its page: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from runnerctl.core.fleet import Fleet
from runnerctl.errors import UnavailableError, UsageError

__all__ = ["check_place", "write_page"]

MODE = 0o644  # a web server runs as a user of its own


def check_place(file: str) -> None:
    """Raises UsageError when no page can be put there."""
    path = Path(file)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else "is in no directory that exists"
        raise UsageError(what, where=file, remedy="give --html a file in a directory that exists")


def write_page(file: str, found: Fleet, *, refresh_seconds: float | None = None) -> None:
    """Replace ``file`` by the page of ``found``, readable for everybody. Raises UnavailableError."""
    from runnerctl.cli.render_fleet_html import render_html
    from runnerctl.replace import replace_file

    text = render_html(found, refresh_seconds=refresh_seconds)
    try:
        replace_file(Path(file), text.encode("utf-8", "backslashreplace"), mode=MODE)
    except OSError as error:
        remedy = "give a file in a directory that you may write to"
        raise UnavailableError(
            f"cannot be written: {error.strerror or error}", where=file, remedy=remedy
        ) from None
