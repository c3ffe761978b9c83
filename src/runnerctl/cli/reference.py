"""The reference of all commands as Markdown, made from their help: ``python -m runnerctl.cli.reference``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from runnerctl.cli.app import LINTERS, VERDICTS, app
from runnerctl.cli.context import Context

__all__ = ["commands", "help_text", "markdown"]

HEAD = """\
# Commands

<!-- Made by scripts/docs from the help of the commands: change that, not this file. -->

Every command takes `-o text|json`; JSON is one document with a `schema`. The answer goes to standard output,
the log to standard error. Names that come from GitHub or from a job are shown with their control characters
escaped.

| exit code | of `{verdicts}` | of `{linters}` | of every other command |
|---|---|---|---|
| 0 | OK | clean | done |
| 1 | WARNING | something was found | |
| 2 | CRITICAL | | |
| 3 | UNKNOWN, or the command itself failed | | |
| 64 | | wrong option | wrong option |
| 65 | | | a file's content cannot be used |
| 69 | | something outside did not answer | something outside did not answer |
| 70 | | a bug | a bug |
| 75 | | | it will work later: a busy slot, a rate limit |
| 77 | | not allowed | not allowed: a credential is missing or too weak, or root is needed |
| 78 | | wrong configuration | wrong configuration |
| 130 | interrupted | interrupted | interrupted |
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name, groups before what is in them."""
    root = get_command(app)
    yield "runnerctl", root
    yield from _below("runnerctl", root)


def _below(name: str, group: Any) -> Iterator[tuple[str, Any]]:
    for word in getattr(group, "commands", {}):
        command = group.commands[word]
        yield f"{name} {word}", command
        yield from _below(f"{name} {word}", command)


def help_text(name: str, command: Any) -> str:
    """What ``name --help`` prints at 80 columns."""
    context = Context(env={}, stdout=io.StringIO(), stderr=io.StringIO())
    settings: dict[str, Any] = {"obj": context, "terminal_width": 78, "help_option_names": ["-h", "--help"]}
    made: Any = typer.Context(command, info_name=name, **settings)
    return str(command.get_help(made)).rstrip()


def markdown() -> str:
    """The whole page."""
    parts = [HEAD.format(verdicts=", ".join(sorted(VERDICTS)), linters=", ".join(sorted(LINTERS)))]
    parts += [f"## {name}\n\n```\n{help_text(name, command)}\n```\n" for name, command in commands()]
    return "\n".join(parts)


if __name__ == "__main__":
    print(markdown(), end="")
