"""``runnerctl env gc``."""

from __future__ import annotations

from runnerctl.cli.lazy import Command, new_app
from runnerctl.errors import UnavailableError

app = new_app()


@app.command("gc", cls=Command, epilog="runnerctl env gc")
def command() -> int:
    """Not there yet."""
    raise UnavailableError("not there yet")
