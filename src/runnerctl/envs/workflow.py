"""What a step of a GitHub workflow writes for the steps after it, and into its log. Standard library only.

The files named by ``GITHUB_ENV`` and ``GITHUB_PATH`` activate an environment for later steps, without a login
shell. Formats: docs.github.com, "Workflow commands for GitHub Actions".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from runnerctl.errors import DataError, UnavailableError, UsageError

__all__ = [
    "annotation",
    "append",
    "denied",
    "end_group",
    "env_lines",
    "exportable",
    "file_from",
    "group",
    "harmless",
    "in_workflow",
    "path_lines",
    "summary_line",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Each of these changes what every later program of the job is: git, node (the runner refuses NODE_OPTIONS).
_DENIED = frozenset({"LD_LIBRARY_PATH", "LD_PRELOAD", "NODE_OPTIONS", "PATH", "PYTHONHOME", "PYTHONPATH"})
_DENIED_STARTS = ("ACTIONS_", "GITHUB_", "RUNNER_")


def in_workflow(environ: Mapping[str, str]) -> bool:
    """Whether this runs in a step of a workflow."""
    return environ.get("GITHUB_ACTIONS") == "true"


def denied(name: str) -> bool:
    """Whether a variable is not set for later steps: it would change programs that are not ours."""
    return name in _DENIED or name.upper().startswith(_DENIED_STARTS)


def exportable(variables: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The variables that later steps get, and a line about each that they do not get.

    Raises DataError for a name that no shell could use, or a value with a null character.
    """
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            remedy = "use letters, digits and underscores, and no digit first"
            raise DataError(f"{name!r} cannot be a variable's name", where="variables", remedy=remedy)
        if "\0" in value:
            raise DataError("a value cannot hold a null character", where=f"variables: {name}")
    kept = {name: value for name, value in variables.items() if not denied(name)}
    notes = [f"{name} is not set for later steps: it would reach programs outside" for name in variables]
    return kept, [note for note, name in zip(notes, variables, strict=True) if name not in kept]


def env_lines(variables: Mapping[str, str], delimiter: Callable[[], str] | None = None) -> str:
    """Text for the file ``GITHUB_ENV``: each value between lines of a delimiter that nobody can guess."""
    return "".join(_env(name, value, delimiter or _delimiter) for name, value in variables.items())


def _delimiter() -> str:
    return f"runnerctl_{os.urandom(16).hex()}"


def _env(name: str, value: str, delimiter: Callable[[], str]) -> str:
    mark = delimiter()
    while mark in value:
        mark = _delimiter()
    return f"{name}<<{mark}\n{value}\n{mark}\n"


def path_lines(directories: Sequence[str]) -> str:
    """Text for the file ``GITHUB_PATH``, from directories in the order of PATH.

    The runner puts each line in front of what it has, so the first comes last. Raises DataError for a
    directory that would not stay one line.
    """
    for directory in directories:
        if not directory or ":" in directory or len(directory.splitlines()) != 1:
            raise DataError("cannot stand in PATH", where=repr(directory), remedy="choose another directory")
    return "".join(f"{directory}\n" for directory in reversed(directories))


def file_from(environ: Mapping[str, str], name: str) -> str:
    """The file that the runner named by a variable. Raises UsageError outside a workflow."""
    path = environ.get(name, "")
    if not path:
        remedy = "--github is for the steps of a workflow"
        raise UsageError("is not set", where=name, remedy=remedy)
    return path


def append(path: str, text: str) -> None:
    """Put text at the end of one of the runner's files, in one write, on lines of its own.

    Raises UnavailableError when the file cannot be written.
    """
    if not text:
        return
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with open(handle, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            begun = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # an ``echo -n`` came before
            data = (b"\n" if begun else b"") + text.encode("utf-8", "surrogateescape")
            while data:
                data = data[os.write(handle, data) :]
    except OSError as error:
        raise UnavailableError(f"cannot be written: {error.strerror}", where=path) from None


def group(title: str) -> str:
    """The line that begins a part of the log that can be folded."""
    return f"::group::{_data(title)}"


def end_group() -> str:
    """The line that ends it."""
    return "::endgroup::"


def annotation(
    level: str, message: str, *, file: str | None = None, line: int | None = None, title: str | None = None
) -> str:
    """A line that shows a message beside a file's line; ``level`` is ``error``, ``warning`` or ``notice``."""
    given = {"file": file, "line": None if line is None else str(line), "title": title}
    properties = ",".join(f"{name}={_property(value)}" for name, value in given.items() if value is not None)
    return f"::{level}{' ' if properties else ''}{properties}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def harmless(text: str) -> str:
    """Foreign text for a workflow's log, in which the runner finds no command of its own."""
    lines = [f"| {line}" if line.lstrip().startswith("::") else line for line in _lines(text)]
    return "\n".join(lines).replace("##[", "# #[")


def _lines(text: str) -> Iterable[str]:
    return text.splitlines() or [""]


def summary_line(text: str) -> str:
    """A line of the job's summary, in which nothing of ``text`` is read as Markdown or HTML."""
    plain = " ".join(text.split())
    return "- " + re.sub(r"([\\`*_{}\[\]<>()#+!|&~])", r"\\\1", plain) + "\n"
