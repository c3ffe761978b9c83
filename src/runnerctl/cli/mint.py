"""``runnerctl mint``: the next registration of an ephemeral slot. Its unit runs it before each start."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption
from runnerctl.errors import AccessError, RunnerctlError, UnavailableError, UsageError

if TYPE_CHECKING:
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout

__all__ = ["app", "mint"]

SCHEMA = "runnerctl.mint/1"
EXAMPLE = """
runnerctl mint main
runnerctl mint main -o json
"""
app = new_app()
SlotArgument = Annotated[str, typer.Argument(metavar="SLOT", help="The ephemeral slot.")]


@app.command("mint", cls=Command, epilog=EXAMPLE)
def mint(context: typer.Context, slot: SlotArgument, output: OutputOption = None) -> int:
    """Mint an ephemeral slot's next registration; run by its unit.

    It removes the record that an earlier start left behind, and asks GitHub for a registration that is good
    for one job. Only root may run it, and only its unit, gha-mint@SLOT.service, holds the App's key.
    After a failure it waits before it tries again: 5 seconds, then 10, 20, at most 300.
    """
    command: Context = context.obj
    if command.user_id() != 0:
        raise AccessError("only root may mint registrations", remedy="its unit runs it: gha-mint@SLOT")
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,26}[a-z0-9])?", slot):
        raise UsageError(f"{slot!r} is no slot name", remedy="use up to 28 lower-case letters and digits")
    agent_id = _mint(command, slot)
    if command.wants_json(output):
        command.say_json({"schema": SCHEMA, "slot": slot, "agent_id": agent_id})
    else:
        command.say(f"slot {slot} has registration {agent_id} for its next job")
    return 0


def _mint(context: Context, slot: str) -> int:
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout

    from runnerctl.minting_pace import Pace
    from runnerctl.redact import redact

    layout = Layout(context.paths.root)
    pace = Pace(slot, layout, context.clock, context.sleep)
    waited = pace.wait()
    if waited:
        context.note(f"runnerctl: slot {slot}: waited {waited:.0f} s after a failure")
    try:
        agent_id = _once(context, layout, slot)
    except (RunnerctlError, HostError, OSError) as error:
        reason = redact(" ".join(str(error).split()))
        seconds = pace.failed(reason)
        problem = UnavailableError(
            f"no registration for slot {slot}: {reason}", remedy=f"tried again in {seconds:.0f} s by itself"
        )
        problem.exit_code = getattr(error, "exit_code", problem.exit_code)
        raise problem from None
    pace.succeeded()
    return agent_id


def _once(context: Context, layout: Layout, slot: str) -> int:
    import os

    from runnerctl.core.scope import api_url_for, parse_scope
    from runnerctl.github.auth import credentials
    from runnerctl.github.connect import Connector
    from runnerctl.github.registry import Registry
    from runnerctl.minting import Minting, app_environment, read_ticket

    ticket = read_ticket(layout, slot)
    added = app_environment(layout, context.env, ticket)
    os.environ.update(added)  # requests looks for proxies there
    env = {**context.env, **added}
    scope = parse_scope(ticket.url)
    api_url = added.get("RUNNERCTL_API_URL") or api_url_for(scope.url)
    connect = Connector(env, api_url, max_wait="60", sleep=context.sleep)
    credential = credentials(env, api_url=api_url, scope=scope, connect=connect)
    registry = Registry(connect(credential), scope)
    return Minting(ticket, layout, registry, sleep=context.sleep).run()
