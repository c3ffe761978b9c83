"""``runnerctl guard``: root's half of every job, run by ``runnerctl-guard.service``."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.errors import AccessError, UsageError

__all__ = ["app", "guard"]

EXAMPLE = """
runnerctl guard
systemctl status runnerctl-guard.service
journalctl -u runnerctl-guard.service
"""
_FIRST_HANDED = 3  # sd_listen_fds(3)
app = new_app()


@app.command("guard", cls=Command, epilog=EXAMPLE)
def guard(context: typer.Context) -> int:
    """Watch over the slots' jobs: admit them, clean up behind them, write them down.

    systemd runs it as runnerctl-guard.service, with the socket that the runners' hooks ask. It goes on until
    it is told to stop; jobs that run then go on, and the next guard takes them over.
    """
    from runnerctl.guard.daemon import Daemon, notify
    from runnerctl.guard.parts import Parts

    command: Context = context.obj
    if command.user_id() != 0:
        raise AccessError("only root can guard a host", where="runnerctl guard", remedy="let systemd run it")
    listener = _handed(command.env)
    address = command.env.get("NOTIFY_SOCKET")

    def say(text: str) -> None:
        from runnerctl.cli.output import escape

        command.note(f"runnerctl: {escape(text)}")

    Daemon(Parts(say=say), listener, notify=lambda text: notify(text, address)).run()
    return 0


def _handed(env: Mapping[str, str]) -> socket.socket:
    """The listening socket that systemd hands over. Raises UsageError."""
    mine = env.get("LISTEN_PID") == str(os.getpid()) and env.get("LISTEN_FDS") == "1"
    if not mine:
        raise UsageError(
            "gets its socket from systemd",
            where="runnerctl guard",
            remedy="start runnerctl-guard.socket: systemctl start runnerctl-guard.socket",
        )
    os.set_inheritable(_FIRST_HANDED, False)
    return socket.socket(fileno=_FIRST_HANDED)
