"""``runnerctl drain`` and ``runnerctl resume``: take slots or hosts out of use, and bring them back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import LimitOption, OutputOption, seconds_given
from runnerctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runnerctl.cli.drain_here import Here

__all__ = ["app", "drain", "resume"]

DRAIN_EXAMPLE = """
runnerctl drain main --reason "a new power supply"
runnerctl drain --all --wait --timeout 3600
GH_TOKEN=... runnerctl drain -i inventory --limit gpu-07 --reason "new fans"
"""
RESUME_EXAMPLE = """
runnerctl resume main
runnerctl resume main --force
GH_TOKEN=... runnerctl resume -i inventory --limit gpu-07
"""
BATCH = re.compile(r"[1-9][0-9]{0,5}|[1-9][0-9]?%|100%")
app = new_app()
SlotsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="SLOT", help="Slots by name, as in `runnerctl list`.", show_default=False),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every slot of this host.")]
InventoryOption = Annotated[
    str | None,
    typer.Option(
        "--inventory",
        "-i",
        metavar="INVENTORY",
        help="The hosts of this Ansible inventory, instead of slots of this host.",
        show_default=False,
    ),
]
SlotOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slot",
        metavar="NAME",
        help="With -i: only this slot of each host; again for more.",
        show_default=False,
    ),
]
BatchOption = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="N|N%",
        help="With -i: how many hosts at once. Default: 5.",
        show_default=False,
    ),
]
RoutingOption = Annotated[
    bool, typer.Option("--no-routing", help="Leave GitHub alone: touch holds on the hosts only.")
]
CheckOption = Annotated[
    bool, typer.Option("--check", "--dry-run", help="With -i: say what would happen, and write nothing.")
]


@app.command("drain", cls=Command, epilog=DRAIN_EXAMPLE)
def drain(
    context: typer.Context,
    slots: SlotsArgument = None,
    all_slots: AllOption = False,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    slot: SlotOption = None,
    batch: BatchOption = None,
    reason: Annotated[
        str | None,
        typer.Option("--reason", metavar="TEXT", help="Why, for `list` and for jobs.", show_default=False),
    ] = None,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait/--no-wait",
            help="Wait until the running job has ended. Default: only with -i.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="SECONDS", help="How long to wait.", show_default=False),
    ] = None,
    quiet: Annotated[
        str | None,
        typer.Option(
            "--quiet",
            metavar="SECONDS",
            help="How long jobs may be on their way. Default: github_runner_drain_quiet_seconds.",
            show_default=False,
        ),
    ] = None,
    no_routing: RoutingOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="With -i: also when the fleet's circuit breaker says no.")
    ] = False,
    check: CheckOption = False,
    held: Annotated[
        bool, typer.Option("--held", help="Only wait and stop, for the hold that is there already.")
    ] = False,
    output: OutputOption = None,
) -> int:
    """Put a slot on hold; the job that runs is left alone.

    With a GitHub credential the slot is cut from routing first, and a quiet period lets jobs arrive that were
    on their way; without one, a job that slips in fails with the reason. Then the listener is stopped at once
    when it is idle, and otherwise when its job has ended. The hold stays over reboots and converges, until
    `runnerctl resume`. On a host it needs root.

    With -i it drains hosts of an Ansible inventory, batch by batch, and waits for their jobs. A circuit
    breaker refuses to take more than runnerctl_fleet_max_held_percent of the fleet out of service. Exit code
    75: a job still runs, or the breaker refused; 69: a host did not answer.
    """
    command: Context = context.obj
    fleet = {"--limit": limit, "--slot": slot, "--batch": batch, "--check": check, "--force": force}
    _refuse_mixture(inventory, slots=slots, every=all_slots, fleet=fleet)
    seconds, pause = seconds_given(timeout, "--timeout"), seconds_given(quiet, "--quiet")
    if inventory is None:
        from runnerctl.cli.slots import tell

        here = _here(command, slots, every=all_slots, routing=not no_routing and not held)
        if held:
            return tell(command, here.finish(seconds), output)
        done = here.drain(reason, seconds=seconds, wait=bool(wait), quiet=pause)
        return tell(command, done, output)
    from runnerctl.cli.drain_fleet import drain_variables, fleet_variables, rollout

    own = drain_variables(reason=reason, quiet=pause, wait=wait is not False, timeout=seconds, force=force)
    return rollout(
        command,
        "drain",
        variables={**own, **fleet_variables("drain", routing=not no_routing, slots=slot, batch=batch)},
        inventory=inventory,
        limit=limit,
        check=check,
        output=output,
    )


@app.command("resume", cls=Command, epilog=RESUME_EXAMPLE)
def resume(
    context: typer.Context,
    slots: SlotsArgument = None,
    all_slots: AllOption = False,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    slot: SlotOption = None,
    batch: BatchOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="On the host: lift a hold of the health verdict as well.")
    ] = False,
    no_routing: RoutingOption = False,
    check: CheckOption = False,
    output: OutputOption = None,
) -> int:
    """Take a slot's hold away and start it.

    With a GitHub credential it waits until the runner is online, and then gives it its labels and its group
    back. A hold that the health verdict set ends by itself when the GPUs are well again; --force ends it now,
    and brings GPUs back that were taken out. On a host it needs root. With -i it brings hosts of an Ansible
    inventory back.
    """
    command: Context = context.obj
    fleet = {"--limit": limit, "--slot": slot, "--batch": batch, "--check": check}
    _refuse_mixture(inventory, slots=slots, every=all_slots, fleet=fleet)
    if inventory is None:
        from runnerctl.cli.slots import tell

        here = _here(command, slots, every=all_slots, routing=not no_routing)
        return tell(command, here.resume(force=force), output)
    if force:
        raise UsageError("--force lifts a verdict's hold on its own host only", remedy="run it on that host")
    from runnerctl.cli.drain_fleet import fleet_variables, rollout

    return rollout(
        command,
        "resume",
        variables=fleet_variables("resume", routing=not no_routing, slots=slot, batch=batch),
        inventory=inventory,
        limit=limit,
        check=check,
        output=output,
    )


def _refuse_mixture(
    inventory: str | None, *, slots: list[str] | None, every: bool, fleet: Mapping[str, object]
) -> None:
    """A host's own slots are arguments, an inventory's are options; ``fleet`` has no meaning without one.

    Raises UsageError.
    """
    if inventory is not None:
        batch = str(fleet["--batch"] or "5")
        if not BATCH.fullmatch(batch):
            raise UsageError(f"{batch!r} is no number of hosts", where="--batch", remedy="give 5, or 20%")
        if slots or every:
            remedy = "say -i INVENTORY --slot NAME"
            raise UsageError("slots of an inventory's hosts are given by --slot", remedy=remedy)
        return
    if alone := [name for name, value in fleet.items() if value]:
        raise UsageError(f"{alone[0]} needs an inventory", remedy="give one with -i")
    if bool(slots) == every:
        remedy = "name slots of this host, or give --all, or an inventory with -i"
        raise UsageError("both slots and --all are given" if every else "no slot is given", remedy=remedy)


def _here(context: Context, slots: list[str] | None, *, every: bool, routing: bool) -> Here:
    from runnerctl.cli.drain_here import here

    return here(context, None if every else list(slots or []), routing=routing)
