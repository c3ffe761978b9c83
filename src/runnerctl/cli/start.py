"""The way in. What every job does, asking for its environment, goes a short way; the rest is `cli.main`'s.

The short way is the same words and exit codes from the same functions, without what they do not need: no
Typer, no msgspec, no YAML. Whatever it does not know at once, it leaves to the long way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    from runnerctl.cli.env_shown import Environment
    from runnerctl.errors import RunnerctlError

__all__ = ["Plain", "main", "plain", "short"]

_VALUES = {"--cuda": "cuda", "--engine": "engine", "--lock": "lock", "--layer": "layer"}
_OUTPUTS = ("text", "json")
_ENGINES = ("rattler", "conda", "mamba")
INTERRUPTED, CLOSED = 130, 141  # as `cli.main` has them


class Plain(NamedTuple):
    """A command line that the short way knows. ``options``: fields of `shown.Asked` that were given."""

    command: str
    file: str | None
    options: dict[str, Any]
    github: bool = False
    as_json: bool = False
    rest: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None, *, socket_path: str | None = None) -> int:
    """Entry point of the console script. Returns the exit code. ``socket_path``: of the host's service."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wanted = plain(arguments)
    if wanted is not None and not os.environ.get("RUNNERCTL_ENV_STORE"):
        from runnerctl.envs.client import is_there
        from runnerctl.envs.wire import SOCKET

        path = socket_path or SOCKET
        if is_there(path):
            return short(wanted, path)
    from runnerctl.cli import main as cli

    return cli.main(arguments)


def plain(arguments: Sequence[str]) -> Plain | None:
    """The command line, when the short way knows every word of it; None for any other, right or wrong."""
    words = list(arguments)
    if words[:2] not in (["env", "ensure"], ["env", "exec"]):
        return None
    command, words, rest = words[1], words[2:], []
    if command == "exec":
        at = words.index("--") if "--" in words else len(words)
        words, rest = words[:at], words[at + 1 :]
        if not rest:
            return None
    return _options(command, words, tuple(rest))


def _options(command: str, words: list[str], rest: tuple[str, ...]) -> Plain | None:
    file, github, as_json = None, False, False
    options: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in _VALUES and (equals or words):
            given = value if equals else words.pop(0)
            if given.startswith("-") or (name == "--engine" and given not in _ENGINES):
                return None
            options[_VALUES[name]] = given
        elif word == "--github" and command == "ensure":
            github = True
        elif word in ("-o", "--output") and words and words[0] in _OUTPUTS and command == "ensure":
            as_json = words.pop(0) == "json"
        elif word and not word.startswith("-") and file is None:
            file = word
        else:
            return None
    return Plain(command, file, options, github, as_json, rest)


def short(wanted: Plain, socket_path: str) -> int:
    """Do it without the command line's machinery. Returns the exit code; raises nothing."""
    from runnerctl.errors import RunnerctlError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        _do(wanted, socket_path)
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _close(sys.stdout)
        return CLOSED
    except RunnerctlError as error:
        _note([f"runnerctl: {_escaped(str(error))}"])
        return error.exit_code
    except Exception as error:
        from runnerctl.cli import main as cli
        from runnerctl.cli.context import system_context

        code, line = cli.explain(error, system_context())
        _note([line])
        return code


def _do(wanted: Plain, socket_path: str) -> None:
    from runnerctl.cli import env_shown as shown

    asked = shown.Asked(file=shown.find_file(wanted.file), **wanted.options)
    if wanted.github:
        shown.github_files(os.environ)  # before a build that takes minutes
    environment = _environment(asked, socket_path)
    if wanted.command == "exec":
        _note(shown.notes_text(environment.notes, os.environ))
        shown.replace_process(wanted.rest, shown.for_process(environment, os.environ))
    notes = _for_later(environment, asked.file) if wanted.github else []
    _note(shown.notes_text([*environment.notes, *notes], os.environ))
    if wanted.as_json:
        from runnerctl.cli.output import to_json

        _say(to_json(shown.answer(environment, github=wanted.github, notes=notes)))
    else:
        _say(shown.text_of(environment, github=wanted.github))


def _environment(asked: Any, socket_path: str) -> Environment:
    from runnerctl.cli import env_shown as shown
    from runnerctl.envs import client
    from runnerctl.envs.client_files import reader
    from runnerctl.errors import RunnerctlError

    progress = shown.Progress(sys.stderr, os.environ, f"Environment of {asked.file}")
    try:
        ready = client.ask(
            "ensure",
            {"request": shown.request_of(asked)},
            socket_path=socket_path,
            on_event=progress,
            read=reader(os.path.dirname(asked.file)),
        )
        return shown.prepare(ready, asked.layer, os.environ)
    except RunnerctlError as error:
        progress.close()
        _annotate(error)
        raise
    finally:
        progress.close()


def _for_later(environment: Environment, file: str) -> list[str]:
    from runnerctl.cli import env_shown as shown
    from runnerctl.errors import RunnerctlError

    try:
        return shown.to_github(environment, os.environ, file)
    except RunnerctlError as error:
        _annotate(error)
        raise


def _annotate(error: RunnerctlError) -> None:
    from runnerctl.cli.env_shown import trouble

    line = trouble(error, os.environ)
    if line:
        _note([line])


def _escaped(text: str) -> str:
    from runnerctl.cli.output import escape

    return escape(text)


def _note(lines: Sequence[str]) -> None:
    """Lines of the log. When even that fails there is nobody left to tell."""
    try:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def _say(text: str) -> None:
    """The answer. Raises BrokenPipeError, or UnavailableError when it cannot be written."""
    from runnerctl.errors import UnavailableError

    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        _close(sys.stdout)
        raise UnavailableError(f"cannot write the answer: {reason}", where="standard output") from None


def _close(stream: TextIO) -> None:
    """Keep the interpreter from complaining at its end about a pipe that nobody reads."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
