"""``runnerctl register``, ``unregister`` and ``restart``: act on the slots of this host, as root."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import MaxWaitOption, OutputOption, seconds_given

if TYPE_CHECKING:
    from runnerctl.cli.host import Done

__all__ = ["app", "register", "restart", "tell", "unregister"]

SCHEMA = "runnerctl.slots/1"
REGISTER_EXAMPLE = """
GH_TOKEN=... runnerctl register
GH_TOKEN=... runnerctl register main -o json
"""
UNREGISTER_EXAMPLE = """
GH_TOKEN=... runnerctl unregister main
GH_TOKEN=... runnerctl unregister --timeout 600
"""
RESTART_EXAMPLE = """
runnerctl restart main
runnerctl restart main --when-idle --timeout 3600
"""
app = new_app()
SlotArgument = Annotated[
    str | None,
    typer.Argument(metavar="SLOT", help="One slot. Default: all of this host's.", show_default=False),
]
TimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--timeout", metavar="SECONDS", help="How long to wait for a job to end.", show_default=False
    ),
]


@app.command("register", cls=Command, epilog=REGISTER_EXAMPLE)
def register(
    context: typer.Context,
    slot: SlotArgument = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Register this host's slots at GitHub and start them.

    It does what a converge does for the slots of /etc/runnerctl/host.json: a slot that is registered and runs
    is left alone, one that differs is repaired, a busy one is not touched. It needs root and a credential.
    """
    from runnerctl.cli.host import Slots

    command: Context = context.obj
    return tell(command, Slots(command).register(slot, max_wait=max_wait), output)


@app.command("unregister", cls=Command, epilog=UNREGISTER_EXAMPLE)
def unregister(
    context: typer.Context,
    slot: SlotArgument = None,
    timeout: TimeoutOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Stop this host's slots and remove them from GitHub.

    Idle slots go at once; a job that runs is waited for, up to --timeout seconds (default:
    github_runner_drain_timeout_seconds).
    Directories and caches stay; `runnerctl register` brings the slot back. It needs root and a credential.
    """
    from runnerctl.cli.host import Slots

    command: Context = context.obj
    done = Slots(command).unregister(slot, seconds=seconds_given(timeout, "--timeout"), max_wait=max_wait)
    return tell(command, done, output)


@app.command("restart", cls=Command, epilog=RESTART_EXAMPLE)
def restart(
    context: typer.Context,
    slot: Annotated[str, typer.Argument(metavar="SLOT", help="The slot's name, as in `runnerctl list`.")],
    when_idle: Annotated[
        bool, typer.Option("--when-idle", help="Wait until no job runs on the slot.")
    ] = False,
    timeout: TimeoutOption = None,
    output: OutputOption = None,
) -> int:
    """Restart a slot's runner, now or when it is idle.

    A job is never killed: on a busy slot the command fails, or waits with --when-idle; without --timeout it
    waits as long as the job takes. It needs root.
    """
    from runnerctl.cli.host import Slots

    command: Context = context.obj
    seconds = seconds_given(timeout, "--timeout")
    return tell(command, Slots(command).restart(slot, when_idle=when_idle, seconds=seconds), output)


def tell(context: Context, done: Done, output: str | None) -> int:
    """Print what was done; the exit code is that of what could not be."""
    from runnerctl.cli.output import escape

    if context.wants_json(output):
        answer: dict[str, Any] = {"schema": SCHEMA, "slots": done.slots, "actions": done.actions}
        context.say_json({**answer, "waiting": done.waiting})
    else:
        context.say("\n".join(escape(action) for action in done.actions) or "nothing to do")
    for line in done.waiting:
        context.note(f"runnerctl: {escape(line)}")
    return 75 if done.waiting else 0
