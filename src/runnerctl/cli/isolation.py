"""``runnerctl isolation``: open a slot's own devices to it, and prove that it reaches nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, Group, new_app
from runnerctl.cli.options import OutputOption
from runnerctl.errors import AccessError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runnerctl.core.device_nodes import Node

__all__ = ["app", "devices", "verify"]

SCHEMA = "runnerctl.devices/1"
DEVICES_EXAMPLE = """
runnerctl isolation devices gpu0
runnerctl isolation devices gpu0 --apply
"""
VERIFY_EXAMPLE = """
sudo runnerctl isolation verify
sudo runnerctl isolation verify gpu0 -o json
"""
app = new_app(
    cls=Group,
    name="isolation",
    help="Prove what a slot's jobs can and cannot reach.",
    epilog="runnerctl isolation verify\nrunnerctl isolation devices gpu0",
)
SlotArgument = Annotated[str, typer.Argument(metavar="SLOT", help="The slot's name, as in `runnerctl list`.")]


@app.command("devices", cls=Command, epilog=DEVICES_EXAMPLE)
def devices(
    context: typer.Context,
    slot: SlotArgument,
    apply: Annotated[
        bool, typer.Option("--apply", help="Have systemd open them to the slot's unit; as root.")
    ] = False,
    output: OutputOption = None,
) -> int:
    """Show which device nodes belong to a slot's GPUs now.

    The numbers behind a UUID may change when the driver is loaded again; so a slot's unit asks anew before
    each start. Where a UUID of the slot is not on this host it fails, and the slot does not start.
    """
    from runnerctl.core.device_nodes import compare
    from runnerctl.probes.device_nodes import end_sparing, open_nodes, read_rules, read_table, unit_files

    command: Context = context.obj
    if apply and command.user_id() != 0:
        raise AccessError("only root may open devices to a unit", where="--apply", remedy="run it with sudo")
    texts = unit_files(slot, command.paths.root)
    if not texts:
        remedy = "`runnerctl list` shows the slots; ansible-playbook provision.yml makes them"
        raise ConfigError("has no unit on this host", where=slot, remedy=remedy)
    if apply:
        _refuse_shared(command, slot, texts)
    shown: list[dict[str, Any]] = []
    for unit, text in texts.items():
        if apply:
            end_sparing(unit, command.env, rootfs=command.paths.root)
        rules = read_rules(unit, text, command.env)
        nodes = _nodes(command, rules.gpus, engine=rules.engine, load=apply)
        differences = compare(rules.allow, nodes, table=read_table(command.paths.root))
        changed = bool(differences.missing or differences.foreign)
        if apply and changed:
            open_nodes(unit, nodes, command.env)
        shown.append(_entry(unit, nodes, opened=apply or not changed, changed=apply and changed))
    _say(command, slot, shown, output)
    return 0


def _refuse_shared(context: Context, slot: str, texts: Mapping[str, str]) -> None:
    """Raises a RunnerctlError while a job of another slot has one of this slot's GPUs."""
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_gpus import refuse_shared
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

    from runnerctl.cli.host import host_errors
    from runnerctl.core.device_nodes import parse_slot_unit

    gpus = {uuid for text in texts.values() for uuid in parse_slot_unit(text)[0]}
    with host_errors():
        refuse_shared(slot, sorted(gpus), Layout(context.paths.root), System())


def _nodes(context: Context, claims: tuple[str, ...], *, engine: bool, load: bool) -> tuple[Node, ...]:
    from runnerctl.core.device_nodes import resolve
    from runnerctl.probes.device_nodes import find_places, load_uvm, read_table, wait_for_places

    table = read_table(context.paths.root)
    if not claims:  # NVML need not be asked
        return resolve((), {}, table=table, engine=engine)
    find = wait_for_places if load else find_places
    places = find(claims, rootfs=context.paths.root)
    if load:
        table = load_uvm(table, context.env)
    return resolve(claims, places, table=table, engine=engine)


def _entry(unit: str, nodes: tuple[Node, ...], *, opened: bool, changed: bool) -> dict[str, Any]:
    listed = [{"path": node.path, "major": node.major, "minor": node.minor} for node in nodes]
    return {"unit": unit, "nodes": listed, "opened": opened, "changed": changed}


def _say(context: Context, slot: str, shown: list[dict[str, Any]], output: str | None) -> None:
    if context.wants_json(output):
        context.say_json({"schema": SCHEMA, "slot": slot, "units": shown})
        return
    for entry in shown:
        state = "opened" if entry["opened"] else "not opened; the next start does it, or --apply"
        context.say(f"{entry['unit']}: {state}")
        for node in entry["nodes"]:
            context.say(f"  {node['path']:<32} {node['major']}:{node['minor']}")
        if not entry["nodes"]:
            context.say("  no device: the slot has no GPU")


@app.command("verify", cls=Command, epilog=VERIFY_EXAMPLE)
def verify(
    context: typer.Context,
    slot: Annotated[
        str | None, typer.Argument(metavar="SLOT", help="One slot. Default: all.", show_default=False)
    ] = None,
    output: OutputOption = None,
) -> int:
    """Try, from within a slot's unit, all that its jobs must not be able to do.

    Exit codes are those of monitoring plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. It needs root.
    """
    from runnerctl.cli.isolation_verify import verify_slots
    from runnerctl.cli.render_health import render_json, render_text
    from runnerctl.core.health import exit_code

    command: Context = context.obj
    verdict = verify_slots(command, slot)
    if command.wants_json(output):
        command.say(render_json(verdict).rstrip("\n"))
    else:
        text = render_text(verdict, width=command.width, colour=command.colour())
        command.say(text.rstrip("\n"))
    return exit_code(verdict.status)
