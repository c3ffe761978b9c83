"""The way in: run a command, turn whatever happens into one line and an exit code.

No traceback reaches a user. ``RUNNERCTL_DEBUG=1`` adds it to the log of an unexpected error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import typer
from typer.main import get_command

from runnerctl.cli.app import TABLE, VERDICTS, app
from runnerctl.cli.context import Context, OutputClosedError, system_context
from runnerctl.errors import RunnerctlError

__all__ = ["explain", "main", "run"]

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
CLOSED = 141  # 128 + SIGPIPE
USAGE = 64
BUG = 70
UNKNOWN = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script. Returns the exit code."""
    context = system_context()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return run(arguments, context)
    finally:
        _let_go_of_closed_streams()


def run(arguments: Sequence[str], context: Context) -> int:
    """Run one command line within ``context``. Returns the exit code; raises nothing."""
    is_verdict = _is_verdict(arguments)
    try:
        code = _invoke(arguments, context)
        context.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputClosedError:
        return UNKNOWN if is_verdict else CLOSED
    except Exception as error:
        code, line = explain(error, context)
        context.note(line)
        return UNKNOWN if is_verdict else code


def _is_verdict(arguments: Sequence[str]) -> bool:
    """Whether the command is one whose exit code is a verdict: one word, or a group's and its command's."""
    at = next((at for at, word in enumerate(arguments) if word in TABLE), len(arguments))
    words = [word for word in arguments[at:] if not word.startswith("-")][:2]
    return bool(words) and (words[0] in VERDICTS or " ".join(words) in VERDICTS)


def _invoke(arguments: Sequence[str], context: Context) -> int:
    command = get_command(app)
    settings: dict[str, Any] = {
        "obj": context,
        "color": None if context.colour() else False,
        "max_content_width": 80,
        "help_option_names": ["-h", "--help"],
    }
    try:
        result = command.main(list(arguments), prog_name="runnerctl", standalone_mode=False, **settings)
    except SystemExit as leaving:  # Typer's completion leaves this way
        return leaving.code if isinstance(leaving.code, int) else 0
    return result if isinstance(result, int) else 0


def explain(error: Exception, context: Context) -> tuple[int, str]:
    """The exit code and the line for an error."""
    from runnerctl.cli.output import escape

    if isinstance(error, RunnerctlError):
        return error.exit_code, f"runnerctl: {escape(str(error))}"
    if isinstance(error, typer.TyperException):
        return USAGE, _usage(error)
    if isinstance(error, typer.Abort):
        return INTERRUPTED, "runnerctl: stopped"
    _trace(context)
    text = escape(" ".join(f"{type(error).__name__}: {error}".split()))
    remedy = "please report it, with the output of the same command under RUNNERCTL_DEBUG=1"
    return BUG, f"runnerctl: this is a bug in runnerctl ({text}); {remedy}"


def _usage(error: typer.TyperException) -> str:
    """Typer's complaint as one line, with where to read on."""
    from runnerctl.cli.output import escape

    where = getattr(getattr(error, "ctx", None), "command_path", "runnerctl")
    text = escape(" ".join(error.format_message().split())).rstrip(".").replace(": Value error, ", ": ")
    return f"{where}: {text[:1].lower()}{text[1:]}; see {where} --help"


def _trace(context: Context) -> None:
    if context.env.get("RUNNERCTL_DEBUG") not in (None, "", "0"):
        import traceback

        context.note(traceback.format_exc().rstrip())


def _let_go_of_closed_streams() -> None:
    """Keep the interpreter from complaining at its end about a pipe that nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _let_go(stream)


def _let_go(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
