"""``runnerctl slots``: lay this host's slots out over its GPUs, CPUs and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, Group, new_app
from runnerctl.cli.options import (
    InventoryOption,
    LimitOption,
    MaxWaitOption,
    OutputOption,
    RootfsOption,
    seconds_given,
)
from runnerctl.errors import UsageError

if TYPE_CHECKING:
    from runnerctl.cli.layout_plan import Seen

__all__ = ["app", "apply", "plan"]

PLAN_EXAMPLE = """
runnerctl slots plan
runnerctl slots plan -o json > here.json
runnerctl slots plan -i inventory --limit gpu-01 --from here.json
"""
APPLY_EXAMPLE = """
runnerctl slots apply
GH_TOKEN=... runnerctl slots apply --timeout 600
"""
app = new_app(
    cls=Group,
    name="slots",
    help="Lay this host's slots out over its GPUs.",
    epilog="runnerctl slots plan\nGH_TOKEN=... runnerctl slots apply",
)
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Hardware that `slots plan -o json` saved, instead of this host's.",
        show_default=False,
    ),
]
PerSlotOption = Annotated[
    str | None,
    typer.Option(
        "--gpus-per-slot",
        metavar="NUMBER",
        help="Plan as if github_runner_gpus_per_slot were this.",
        show_default=False,
    ),
]


@app.command("plan", cls=Command, epilog=PLAN_EXAMPLE)
def plan(
    context: typer.Context,
    hardware: FromOption = None,
    gpus_per_slot: PerSlotOption = None,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    rootfs: RootfsOption = None,
    output: OutputOption = None,
) -> int:
    """Show which GPUs, CPUs and memory each slot gets, and what would change.

    GPUs of one slot are kept together by NVLink and NUMA node; a slot that can keep its GPUs does. Nothing is
    changed. With -i the hosts of an inventory are asked for their hardware. What cannot be, like a GPU that
    is claimed twice, ends with exit code 78 and the GPUs that were found.
    """
    from runnerctl.cli import layout_plan

    command: Context = context.obj
    if limit and not inventory:
        raise UsageError("limits an inventory, and none is given", where="--limit", remedy="add -i INVENTORY")
    size = _number(gpus_per_slot)
    if inventory:
        seen = layout_plan.of_inventory(command, inventory, limit=limit, saved=hardware, per_slot=size)
    else:
        seen = [layout_plan.of_host(command.at(rootfs), saved=hardware, per_slot=size)]
    return _say(command, seen, output)


@app.command("apply", cls=Command, epilog=APPLY_EXAMPLE)
def apply(
    context: typer.Context,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="How long to wait for jobs of slots that go. Default: not at all.",
            show_default=False,
        ),
    ] = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Lay the slots out over the hardware as it is now, and bring them to that.

    Writes /etc/runnerctl/host.json, removes slots that go from this host and from GitHub, registers new ones
    and changes labels. No job is ended: what has to wait for one is told, with exit code 75. It needs root,
    and a credential only if something changes at GitHub.
    """
    from runnerctl.cli.layout_apply import Applying
    from runnerctl.cli.slots import tell

    command: Context = context.obj
    seconds = seconds_given(timeout, "--timeout") or 0.0
    return tell(command, Applying(command).apply(seconds=seconds, max_wait=max_wait), output)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UsageError(f"is {text!r}", where="--gpus-per-slot", remedy="give a number of GPUs, like 2")
    return int(text)


def _say(context: Context, seen: list[Seen], output: str | None) -> int:
    """Print the plans; the exit code says whether all can be."""
    from runnerctl.cli.layout_view import plan_json, plan_text

    if context.wants_json(output):
        plans = [plan_json(each) for each in seen]
        context.say_json(plans[0] if len(plans) == 1 else {"schema": "runnerctl.layouts/1", "hosts": plans})
    else:
        context.say("\n\n".join(plan_text(each, width=context.width) for each in seen))
    for each in seen:
        for problem in each.problems:
            context.note(f"runnerctl: {problem.line(each.before.host)}")
    return 78 if any(each.problems for each in seen) else 0
