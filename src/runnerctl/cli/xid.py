"""``runnerctl xid``: what an Xid of the NVIDIA driver means, and what runnerctl makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption
from runnerctl.errors import UsageError

if TYPE_CHECKING:
    from runnerctl.core.xid_table import Xid

__all__ = ["app", "xid"]

SCHEMA = "runnerctl.xid/1"
EXAMPLE = """
runnerctl xid 79
runnerctl xid -o json
"""
_DOES: Mapping[str, str] = {
    "INFO": "writes it down; nothing else",
    "JOB": "counts it as a program's fault; the runner goes on",
    "WARN": "warns for 24 hours; jobs run on",
    "PROBE": "warns, and has the GPU compute once it is idle; one that fails is held and reset",
    "RESET": "says CRITICAL: no more jobs for its slots until the GPU was reset",
    "REBOOT": "says CRITICAL: no more jobs for its slots until the host was booted again",
    "POWER": "says CRITICAL: no more jobs until someone cut the power and released the GPU",
    "RMA": "says CRITICAL: the GPU is out of service until someone releases it",
}
_ENDS: Mapping[str, str] = {
    "INFO": "at once",
    "JOB": "at once",
    "WARN": "24 hours later",
    "PROBE": "with a probe that passes, a reset of the GPU, or a boot",
    "RESET": "with a reset of the GPU, or a boot",
    "REBOOT": "with a boot",
    "POWER": "when the GPU is released (`runnerctl resume --force`)",
    "RMA": "when the GPU is released (`runnerctl resume --force`)",
}
_NEXT: Mapping[str, str] = {
    "RESET": "a second one within 24 hours asks for a reboot",
    "REBOOT": "a second one within 24 hours asks for a power cycle",
    "POWER": "a second one within 24 hours asks for a replacement",
}
app = new_app()
CodeArgument = Annotated[
    str | None,
    typer.Argument(metavar="CODE", help="The number after Xid. Default: list all.", show_default=False),
]


@app.command("xid", cls=Command, epilog=EXAMPLE)
def xid(context: typer.Context, code: CodeArgument = None, output: OutputOption = None) -> int:
    """Explain an Xid error of the NVIDIA driver.

    Says what it means, what usually causes it, what NVIDIA's catalogue asks for at once, what runnerctl does
    about it, and when that ends. A code that is not in the table is not an error here: runnerctl asks for a
    probe of the GPU then. Without a code it lists them all.
    """
    from runnerctl.core import xid_table

    command: Context = context.obj
    if code is None:
        _list(command, list(xid_table.TABLE.values()), as_json=command.wants_json(output))
        return 0
    entry = xid_table.xid(_number(code))
    if command.wants_json(output):
        command.say_json({"schema": SCHEMA, "xids": [_json(entry)]})
    else:
        command.say(_text(entry, command.width))
    return 0


def _number(code: str) -> int:
    digits = code.strip().lower().removeprefix("xid").strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 6):
        raise UsageError(f"{code!r} is no Xid", where="CODE", remedy="give a number such as 79")
    return int(digits)


def _json(entry: Xid) -> dict[str, Any]:
    from runnerctl.core.xid_table import BUCKETS

    return {
        "code": entry.code,
        "known": entry.known,
        "meaning": entry.meaning,
        "cause": entry.cause,
        "nvidia_bucket": entry.bucket or None,
        "nvidia_says": BUCKETS.get(entry.bucket),
        "action": entry.action,
        "does": _DOES[entry.action],
        "ends": _ends(entry),
        "repeated": _repeated(entry) or None,
        "reset_when_idle": entry.idle_reset,
        "note": entry.note or None,
    }


def _ends(entry: Xid) -> str:
    return "with a reset of the GPU, or a boot" if entry.idle_reset else _ENDS[entry.action]


def _repeated(entry: Xid) -> str:
    if entry.repeat == "RMA":
        return "a second one within 24 hours takes the GPU out of service"
    if entry.repeat == "PROBE":
        return "a second one within 24 hours asks for a probe"
    return _NEXT.get(entry.action, "")


def _text(entry: Xid, width: int) -> str:
    from runnerctl.core.xid_table import BUCKETS

    says = f"{BUCKETS[entry.bucket]} ({entry.bucket})" if entry.bucket else "the catalogue names no action"
    does = _DOES[entry.action]
    if entry.idle_reset:
        does = "warns until the GPU was reset; jobs run on"
    rows = {
        "cause": entry.cause,
        "NVIDIA": says if entry.known else "not in the catalogue that this runnerctl knows",
        "runnerctl": f"{does} [{entry.action}]",
        "ends": _ends(entry),
        "repeated": _repeated(entry) or "the same again",
        "note": entry.note,
    }
    head = f"Xid {entry.code}: {entry.meaning}" if entry.known else entry.meaning
    lines = [line for name, value in rows.items() if value for line in _row(name, value, width)]
    return "\n".join([*_wrapped(head, width), "", *lines])


def _row(name: str, value: str, width: int) -> list[str]:
    first, *more = _wrapped(value, width - 14)
    return [f"  {name:<10}  {first}", *(" " * 14 + line for line in more)]


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, max(width, 20), break_on_hyphens=False)


def _list(context: Context, entries: list[Xid], *, as_json: bool) -> None:
    if as_json:
        context.say_json({"schema": SCHEMA, "xids": [_json(entry) for entry in entries]})
        return
    from runnerctl.cli.output import table

    rows = [(entry.code, entry.action, entry.bucket, entry.meaning) for entry in entries]
    context.say(table(("XID", "ACTION", "NVIDIA", "MEANING"), rows, width=context.width))
