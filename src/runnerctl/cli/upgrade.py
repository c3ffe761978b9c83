"""``runnerctl upgrade``: bring a fleet's runners to another release, one host first, then batch by batch."""

from __future__ import annotations

from typing import Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import InventoryOption, LimitOption, OutputOption, seconds_given
from runnerctl.errors import UsageError

__all__ = ["app", "upgrade"]

EXAMPLE = """
GH_TOKEN=... runnerctl upgrade -i inventory --check
GH_TOKEN=... runnerctl upgrade -i inventory --canary gpu-01 --batch 10%
GH_TOKEN=... runnerctl upgrade -i inventory --version 2.337.0 --limit gpu-07
"""
app = new_app()


@app.command("upgrade", cls=Command, epilog=EXAMPLE)
def upgrade(
    context: typer.Context,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="VERSION",
            help="The release to go to. Default: the inventory's pin, or what GitHub expects.",
            show_default=False,
        ),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(
            "--canary",
            metavar="HOST",
            help="The host that goes first, alone. Default: the inventory's first.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        str,
        typer.Option("--batch", metavar="N|N%", help="How many hosts at once after the first one."),
    ] = "20%",
    quiet: Annotated[
        str | None,
        typer.Option(
            "--quiet",
            metavar="SECONDS",
            help="How long jobs may be on their way. Default: github_runner_drain_quiet_seconds.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="How long to wait for running jobs. Default: github_runner_drain_timeout_seconds.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do without the fleet's circuit breaker.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Take a release that was rolled back on a host before.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", "--dry-run", help="Print the plan, and write nothing.")
    ] = False,
    output: OutputOption = None,
) -> int:
    """Bring a fleet to another runner release, batch by batch.

    The release is downloaded and its SHA-256, from two sources, compared before a runner is touched. Each
    runner is then cut from routing, left until its job has ended, switched, started, and routed again when
    GitHub shows it online with the new release. One that does not come online goes back to the release it
    ran, and the first batch in which that happens is the last. No job is ever killed. A run that was
    interrupted is carried on by the next one.

    The plan shows how many days GitHub still lets each release run jobs. Exit code 75: some runners still run
    a job and keep their release for now; 69: a release was rolled back, or a host did not answer.
    """
    from runnerctl.cli.upgrade_fleet import Wanted, rollout

    if inventory is None:
        raise UsageError("upgrade needs an inventory", remedy="give one with -i")
    wanted = Wanted(
        inventory=inventory,
        limit=limit,
        version=_version(version),
        canary=canary,
        batch=_batch(batch),
        quiet=seconds_given(quiet, "--quiet"),
        timeout=seconds_given(timeout, "--timeout"),
        force=force,
        retry=retry,
        check=check,
    )
    command: Context = context.obj
    return rollout(command, wanted, output=output)


def _version(given: str | None) -> str | None:
    import re

    if given is not None and not re.fullmatch(r"\d+\.\d+\.\d+", given):
        raise UsageError(f"{given!r} is no version", where="--version", remedy="give one like 2.337.0")
    return given


def _batch(given: str) -> str | int:
    """Hosts, or a share of them, as Ansible's ``serial`` takes it. Raises UsageError."""
    number = given.removesuffix("%")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise UsageError(f"{given!r} is no number of hosts", where="--batch", remedy="give 5, or 20%")
    return given if given.endswith("%") else int(number)
