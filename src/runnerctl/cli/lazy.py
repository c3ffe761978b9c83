"""Typer's classes, made quick and plain: a command is built when called, and its help ends in an example.

Start-up is part of every job, so the list of commands is a table of names and short helps; the module of a
command is imported only when that command runs or its own help is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

__all__ = ["Command", "Entry", "Group", "new_app"]


class Entry(NamedTuple):
    """Where a command lives, and what the list of commands says about it."""

    module: str
    short_help: str


def new_app(**settings: Any) -> typer.Typer:
    """A Typer app without boxes, colours or tracebacks of its own."""
    settings = {
        "rich_markup_mode": None,
        "pretty_exceptions_enable": False,
        "add_completion": False,
        **settings,
    }
    return typer.Typer(**settings)


_NOT_PLAIN = object()


class _QuickOption(TyperOption):
    """An option that needs no coercion for plain text."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        plain = _plain(self, value)
        return super().process_value(ctx, value) if plain is _NOT_PLAIN else _finish(self, ctx, plain)


class _QuickArgument(TyperArgument):
    """An argument that needs no coercion for plain text, and stands in the usage line as people write it."""

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().get_usage_pieces(ctx)]

    def process_value(self, ctx: Any, value: Any) -> Any:
        plain = _plain(self, value)
        return super().process_value(ctx, value) if plain is _NOT_PLAIN else _finish(self, ctx, plain)


def quicken(params: list[Any]) -> list[Any]:
    """Give parameters a short way for plain values.

    Typer coerces each value through pydantic, whose import takes longer than everything else at start-up.
    What is not plain (a number, a wrong choice) still goes Typer's way, its error message included.
    """
    for param in params:
        if type(param) is TyperOption:
            param.__class__ = _QuickOption
        elif type(param) is TyperArgument:
            param.__class__ = _QuickArgument
    return params


def _plain(param: Any, value: Any) -> Any:
    """The value a command gets when it needs no work: text, a default, one of the choices, a list of text."""
    if value is None or value is param.default:
        return _NOT_PLAIN if param.required else () if param.multiple and value is None else value
    descriptor = getattr(param, "type_descriptor", None)
    kind = getattr(descriptor, "annotation", None)
    choices = getattr(descriptor, "choices", None)
    if choices is not None:
        return value if value in choices else _NOT_PLAIN
    if kind is str and isinstance(value, str):
        return value
    if kind == list[str] and isinstance(value, (list, tuple)):
        return tuple(value)
    return _NOT_PLAIN


def _finish(param: Any, ctx: Any, value: Any) -> Any:
    return value if param.callback is None else param.callback(ctx, param, value)


class Command(TyperCommand):
    """A command whose help closes with an example, kept line by line."""

    def get_params(self, ctx: Any) -> list[Any]:
        return quicken(super().get_params(ctx))

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        _write_example(self.epilog, formatter)


def _write_example(epilog: str | None, formatter: Any) -> None:
    if not epilog:
        return
    with formatter.section("Example"):
        for line in epilog.strip().splitlines():
            formatter.write(f"  {line.strip()}\n")


class Commands(MutableMapping[str, Any]):
    """Name -> command, built on first use."""

    def __init__(self, table: Mapping[str, Entry], built: Mapping[str, Any]) -> None:
        self.table = table
        self._built: dict[str, Any] = dict(built)

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _build(name, self.table[name])
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.table, *(name for name in self._built if name not in self.table)])

    def __len__(self) -> int:
        return len(list(iter(self)))


def _build(name: str, entry: Entry) -> Any:
    """The command ``name`` of a module's ``app``; an app with several commands is a group of that name."""
    app = import_module(entry.module).app
    command = get_command(app)
    if isinstance(command, TyperGroup):
        command = command if command.name == name else command.commands[name]
    command.name = name
    return command


class Group(TyperGroup):
    """A group of commands that are loaded when called. ``table`` is set by a subclass, or empty."""

    table: Mapping[str, Entry] = {}

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        super().__init__(commands={}, **settings)
        self.commands = Commands(self.table, commands or {})

    def get_params(self, ctx: Any) -> list[Any]:
        return quicken(super().get_params(ctx))

    def list_commands(self, _ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        limit = formatter.width - 6 - max(len(name) for name in self.commands)
        rows = [(name, self._short_help(name, limit)) for name in self.commands]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _short_help(self, name: str, limit: int) -> str:
        if name in self.table:
            return self.table[name].short_help
        return str(self.commands[name].get_short_help_str(limit))

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        _write_example(self.epilog, formatter)
