"""``runnerctl spec``: what a host should be, shown and checked, without touching any host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, Group, new_app
from runnerctl.cli.options import InventoryOption, LimitOption, OutputOption, RootfsOption
from runnerctl.errors import UsageError

if TYPE_CHECKING:
    from runnerctl.cli.inventory import Resolved

__all__ = ["app", "show", "validate"]

LINT_SCHEMA = "runnerctl.lint/1"
SPECS_SCHEMA = "runnerctl.specs/1"
SHOW_EXAMPLE = """
runnerctl spec show
runnerctl spec show -i inventory --limit gpu-01 -o json
"""
VALIDATE_EXAMPLE = """
runnerctl spec validate -i inventory
runnerctl spec validate /etc/runnerctl/host.json -o json
"""
app = new_app(
    cls=Group,
    name="spec",
    help="Show or check what a host should be.",
    epilog="runnerctl spec show\nrunnerctl spec validate -i inventory",
)
FileArgument = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="A host.json. Default: this host's.", show_default=False),
]


@app.command("show", cls=Command, epilog=SHOW_EXAMPLE)
def show(
    context: typer.Context,
    file: FileArgument = None,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    rootfs: RootfsOption = None,
    output: OutputOption = None,
) -> int:
    """Show what a host should be.

    On a runner host that is /etc/runnerctl/host.json. With -i, Ansible resolves the inventory first, and the
    spec of every host is shown as the host would get it. As text each line is a variable of the inventory.
    """
    command: Context = context.obj
    _check(file, inventory, limit)
    if inventory:
        return _show_inventory(command, inventory, limit, output)
    path = _path(command, file, rootfs)
    spec = _load(path)
    command.say_json(spec) if command.wants_json(output) else command.say(_text(spec))
    return 0


@app.command("validate", cls=Command, epilog=VALIDATE_EXAMPLE)
def validate(
    context: typer.Context,
    file: FileArgument = None,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    rootfs: RootfsOption = None,
    output: OutputOption = None,
) -> int:
    """Check a spec and name every problem, without touching a host.

    It finds what a converge would refuse: misspelt or mistyped variables, impossible labels, URLs, slots and
    pins. Exit code 0: clean, 1: something was found.
    """
    command: Context = context.obj
    _check(file, inventory, limit)
    if inventory:
        findings = _inventory_findings(command, inventory, limit)
    else:
        findings = _file_findings(_path(command, file, rootfs))
    if command.wants_json(output):
        command.say_json({"schema": LINT_SCHEMA, "findings": findings})
    else:
        command.say("\n".join(map(_finding_line, findings)) or "no problem found")
    return 1 if findings else 0


def _check(file: str | None, inventory: str | None, limit: str | None) -> None:
    if file and inventory:
        raise UsageError("give a FILE or an inventory, not both", where="-i")
    if limit and not inventory:
        raise UsageError("limits an inventory, and none is given", where="--limit", remedy="add -i INVENTORY")


def _path(context: Context, file: str | None, rootfs: str | None) -> Path:
    path = Path(file) if file else context.at(rootfs).host_file
    if not path.exists():
        remedy = "check the path" if file else "give a FILE or -i INVENTORY, or provision this host first"
        raise UsageError("no such file", where=str(path), remedy=remedy)
    return path


def _load(path: Path) -> dict[str, Any]:
    import msgspec

    from runnerctl.hostfile import load_host_spec

    spec = load_host_spec(path)
    built: dict[str, Any] = msgspec.to_builtins(spec)
    return {"schema": built.pop("schema"), **built}


def _show_inventory(context: Context, inventory: str, limit: str | None, output: str | None) -> int:
    from runnerctl.cli.inventory import resolve

    hosts = resolve(context, inventory, limit=limit)
    if context.wants_json(output):
        shown = [{"host": host.host, "spec": host.spec, "problems": list(host.problems)} for host in hosts]
        context.say_json({"schema": SPECS_SCHEMA, "hosts": shown})
    else:
        context.say("\n\n".join(_text(host.spec) for host in hosts if host.spec))
        for host in hosts:
            for problem in host.problems:
                context.note(f"runnerctl: {host.host}: {_message(problem)}")
    return 65 if any(host.problems for host in hosts) else 0


def _text(spec: dict[str, Any]) -> str:
    """A spec as the variables of an inventory, one a line."""
    import json

    from runnerctl.cli.output import escape
    from runnerctl.core.spec import SECTIONS

    lines = [f"# {spec['host']}"]
    for section in SECTIONS:
        lines += [
            f"{section}_{name}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in spec[section].items()
        ]
    return "\n".join(escape(line) for line in lines)


def _file_findings(path: Path) -> list[dict[str, Any]]:
    from runnerctl.hostfile import check_host_file, read_host_file

    _, problems = check_host_file(read_host_file(path) or b"")
    return [
        _finding(problem.id, str(path), problem.line, f"{problem.message}; {problem.remedy}")
        for problem in problems
    ]


def _inventory_findings(context: Context, inventory: str, limit: str | None) -> list[dict[str, Any]]:
    from runnerctl.cli.inventory import resolve

    hosts = resolve(context, inventory, limit=limit)
    return [
        _finding("spec.rule", inventory, None, f"{host.host}: {_message(problem)}")
        for host in hosts
        for problem in host.problems
    ] + [
        _finding("spec.rule", inventory, None, f"runner name {name} is claimed by two hosts; rename a slot")
        for name in _claimed_twice(hosts)
    ]


def _claimed_twice(hosts: list[Resolved]) -> list[str]:
    """Runner names that two hosts of the inventory would claim in one scope."""
    import msgspec

    from runnerctl.core.spec import HostSpec, duplicate_runner_names

    specs = {host.host: msgspec.convert(host.spec, HostSpec) for host in hosts if host.spec}
    return duplicate_runner_names(specs)


def _message(problem: dict[str, str]) -> str:
    return f"{problem['variable']}: {problem['message']}; {problem['remedy']}"


def _finding(rule: str, file: str, line: int | None, message: str) -> dict[str, Any]:
    return {
        "id": rule,
        "file": file,
        "line": line,
        "severity": "error",
        "message": message,
        "fixable": False,
    }


def _finding_line(finding: dict[str, Any]) -> str:
    from runnerctl.cli.output import escape

    place = finding["file"] if finding["line"] is None else f"{finding['file']}:{finding['line']}"
    return escape(f"{place}: {finding['message']} [{finding['id']}]")
