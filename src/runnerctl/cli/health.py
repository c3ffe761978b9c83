"""``runnerctl health`` and ``runnerctl snapshot``: probe the host, judge it, or save what was seen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption, RootfsOption
from runnerctl.errors import DataError, UsageError

if TYPE_CHECKING:
    from runnerctl.core.snapshot import Snapshot

__all__ = ["app", "health", "snapshot"]

GITHUB_SECONDS = 10.0  # without a deadline of the caller's
SHORTEST_SECONDS = 0.2  # for an answer that is on its way
LARGEST_BYTES = 64 * 1024 * 1024
HEALTH_EXAMPLE = """
runnerctl health
runnerctl health -o json
runnerctl health --from snapshot.json
"""
SNAPSHOT_EXAMPLE = """
runnerctl snapshot -o json > snapshot.json
runnerctl health --from snapshot.json
"""
app = new_app()
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="FILE", help="Judge this saved snapshot; - reads it from stdin.", show_default=False
    ),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        min=0.1,
        max=600,
        help="When the verdict must be there. Default: 5, and 4 for each GPU that must first be initialised.",
        show_default=False,
    ),
]
NetworkOption = Annotated[
    bool,
    typer.Option("--network/--no-network", help="Measure the network, and ask GitHub."),
]

ActOption = Annotated[
    bool,
    typer.Option("--act", help="Hold slots with sick GPUs, mend what can be mended, release them; as root."),
]


@app.command("health", cls=Command, epilog=HEALTH_EXAMPLE)
def health(
    context: typer.Context,
    file: FromOption = None,
    rootfs: RootfsOption = None,
    deadline: DeadlineOption = None,
    network: NetworkOption = True,
    act: ActOption = False,
    output: OutputOption = None,
) -> int:
    """Judge this host: GPUs, runners, disk, network.

    Exit codes are those of monitoring plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. With a GitHub
    credential it also asks GitHub about this host's runners. A host that was never provisioned has no
    expectations to miss: it is judged by its facts.
    """
    from runnerctl.cli.render_health import render_json, render_text
    from runnerctl.core.health import exit_code, judge

    command: Context = context.obj
    if file and rootfs:
        raise UsageError("give --from or --rootfs, not both", where="--from")
    if act and (file or rootfs):
        raise UsageError(
            "acts on the running host only", where="--act", remedy="leave --from and --rootfs out"
        )
    found = _saved(file) if file else _taken(command, rootfs, deadline, network=network)
    verdict = judge(found)
    if act:
        from runnerctl.cli.act import act_here

        act_here(command, found, verdict)
    if command.wants_json(output):
        text = render_json(verdict)
    else:
        text = render_text(verdict, width=command.width, colour=command.colour())
    command.say(text.rstrip("\n"))
    return exit_code(verdict.status)


@app.command("snapshot", cls=Command, epilog=SNAPSHOT_EXAMPLE)
def snapshot(
    context: typer.Context,
    redact: Annotated[
        bool,
        typer.Option("--redact/--no-redact", help="Hide serials, UUIDs, names and URLs."),
    ] = True,
    rootfs: RootfsOption = None,
    deadline: DeadlineOption = None,
    network: NetworkOption = True,
    output: OutputOption = None,
) -> int:
    """Save what the host looks like, for a bug report.

    As JSON it is everything that `runnerctl health` judges; `runnerctl health --from FILE` judges it again on
    any machine. Serials, UUIDs, names and URLs are replaced unless --no-redact is given.
    """
    from runnerctl.core.redaction import redacted
    from runnerctl.core.snapshot import encode

    command: Context = context.obj
    found = _taken(command, rootfs, deadline, network=network)
    found = redacted(found) if redact else found
    if command.wants_json(output):
        from runnerctl.cli.output import ascii_json

        command.say(ascii_json(encode(found).decode()).rstrip("\n"))
    else:
        command.say(_text(found))
        command.note("runnerctl: `runnerctl snapshot -o json` saves all of it")
    return 0


def _taken(context: Context, rootfs: str | None, deadline: float | None, *, network: bool) -> Snapshot:
    """What the host looks like now; what GitHub says of it comes within the same deadline."""
    from runnerctl.cli.remote import has_credential
    from runnerctl.probes.collect import collect

    root = context.at(rootfs).root
    if not root.is_dir():
        raise UsageError("no such directory", where=str(root), remedy="give the root of a host's file system")
    found = collect(
        root,
        deadline_seconds=deadline,
        api_urls=None if network else (),
        environ=context.env,
        clock=context.clock,
    )
    if not network or not has_credential(context):
        return found
    from runnerctl.cli.github_view import with_github

    left = GITHUB_SECONDS if deadline is None else deadline - found.duration_seconds
    return with_github(context, found, deadline_seconds=max(left, SHORTEST_SECONDS))


def _saved(file: str) -> Snapshot:
    from runnerctl.core.snapshot import decode

    where = "standard input" if file == "-" else file
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot be read: {reason}", where=where, remedy="give a saved snapshot") from None
    if len(content) > LARGEST_BYTES:
        raise DataError("is too large to be a snapshot", where=where, remedy="give a saved snapshot")
    try:
        content.decode()
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", where=where, remedy="give a saved snapshot") from None
    return decode(content, where=where)


def _text(found: Snapshot) -> str:
    """The gist of a snapshot."""
    from runnerctl.cli.output import NONE, fields
    from runnerctl.core.snapshot import Unavailable

    gpus = found.gpus
    slots = found.slots
    return fields(
        {
            "host": found.host.name,
            "time": f"{found.time:%Y-%m-%dT%H:%M:%SZ}",
            "system": f"{found.host.os_name}, Linux {found.host.kernel}, {found.host.machine}",
            "driver": NONE if isinstance(found.nvml, Unavailable) else found.nvml.driver_version,
            "GPUs": f"not known: {gpus.reason}" if isinstance(gpus, Unavailable) else len(gpus),
            "slots": (
                f"not known: {slots.reason}"
                if isinstance(slots, Unavailable)
                else ", ".join(slot.name for slot in slots) or "none"
            ),
            "redacted": found.redacted,
        }
    )
