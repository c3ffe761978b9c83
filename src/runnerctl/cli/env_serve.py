"""``runnerctl env serve``: the service that builds environments for this host's jobs."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.errors import UnavailableError, UsageError

__all__ = ["app", "serve"]

EXAMPLE = """
runnerctl env serve
systemctl status runnerctl-env.socket runnerctl-env.service
journalctl -u runnerctl-env.service
"""
_FIRST_HANDED = 3  # sd_listen_fds(3)
_BACKLOG = 128
STORE = "/var/lib/runnerctl/env"
app = new_app()

SocketOption = Annotated[
    str | None, typer.Option("--socket", metavar="PATH", hidden=True, help="Listen here, without systemd.")
]
StoreOption = Annotated[str, typer.Option("--store", metavar="PATH", hidden=True, help="The store.")]
HostFileOption = Annotated[
    str | None, typer.Option("--host-file", metavar="PATH", hidden=True, help="The host's spec.")
]


@app.command("serve", cls=Command, epilog=EXAMPLE)
def serve(
    context: typer.Context,
    socket_path: SocketOption = None,
    store: StoreOption = STORE,
    host_file: HostFileOption = None,
) -> int:
    """Build environments for this host's jobs; run by its unit.

    systemd runs it as runnerctl-env.service under a user of its own, with the socket that jobs ask. Who asks,
    the kernel says; what he may see, the host's spec. It goes on until it is told to stop.
    """
    from runnerctl.envs.service import Service, notify
    from runnerctl.envs.service_policy import PolicyFile
    from runnerctl.envs.service_shelf import StoreShelf

    command: Context = context.obj
    credentials = _credentials(command.env)
    listener = _listening(socket_path) if socket_path else _handed(command.env)
    address = command.env.get("NOTIFY_SOCKET")

    say = _teller(command, credentials)
    Service(
        shelf=StoreShelf(Path(os.path.abspath(store)), say=say),
        policies=PolicyFile(
            Path(host_file) if host_file else command.paths.host_file,
            say=say,
            credentials=credentials,
        ),
        listener=listener,
        command=[sys.executable, "-I", "-m", "runnerctl.envs.service_work"],
        say=say,
        notify=lambda text: notify(text, address),
    ).run()
    return 0


def _teller(command: Context, credentials: str | None) -> Callable[[str], None]:
    """What writes a line of the log: names harmless, no credential in it."""
    from runnerctl.cli.output import escape
    from runnerctl.envs.service_secrets import scrubber

    scrub = scrubber(credentials)

    def say(text: str) -> None:
        plain = scrub(text.encode("utf-8", "backslashreplace")).decode()
        command.note(f"runnerctl: {escape(plain)}")

    return say


def _credentials(env: Mapping[str, str]) -> str | None:
    """The file of channel credentials that systemd gives this unit alone (systemd.exec(5))."""
    folder = env.get("CREDENTIALS_DIRECTORY")
    path = os.path.join(folder, "channels") if folder else ""
    return path if path and os.path.isfile(path) else None


def _handed(env: Mapping[str, str]) -> socket.socket:
    """The listening socket that systemd hands over. Raises UsageError."""
    if env.get("LISTEN_PID") != str(os.getpid()) or env.get("LISTEN_FDS") != "1":
        raise UsageError(
            "gets its socket from systemd",
            where="runnerctl env serve",
            remedy="start runnerctl-env.socket: systemctl start runnerctl-env.socket",
        )
    os.set_inheritable(_FIRST_HANDED, False)
    return socket.socket(fileno=_FIRST_HANDED)


def _listening(path: str) -> socket.socket:
    """A socket of our own, in place of one that an earlier process left. Raises UnavailableError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise UnavailableError(f"cannot listen: {reason}", where=path, remedy="choose another") from None
    return listener
