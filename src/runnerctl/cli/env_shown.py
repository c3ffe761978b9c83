"""What the commands about environments read and print, the same on the quick way and on the other.

Standard library only. Answers of a store are plain mappings here (`model.Ready` as JSON has it).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TextIO

from runnerctl.cli.output import escape, fields
from runnerctl.envs import workflow
from runnerctl.envs.client_files import named_files
from runnerctl.envs.layer import Layer, layer_place, make_layer
from runnerctl.errors import DataError, RunnerctlError, UnavailableError, UsageError

__all__ = [
    "ENGINES",
    "FILES",
    "SCHEMA",
    "Asked",
    "Environment",
    "Progress",
    "answer",
    "counted",
    "find_file",
    "for_process",
    "github_files",
    "notes_text",
    "prepare",
    "read_text",
    "replace_process",
    "request_of",
    "shell_lines",
    "size_text",
    "text_of",
    "to_github",
    "trouble",
]

SCHEMA = "runnerctl.env.ensure/1"
ENGINES = ("rattler", "conda", "mamba")
FILES = ("environment.yml", "environment.yaml")
MOST_BYTES = 4 * 1024 * 1024  # of one file; the service has narrower bounds of its own
_LINE_SECONDS = 1.0  # between two lines of a log about one step
_DRAW_SECONDS = 0.1  # between two drawings of a terminal's line
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){0,2}")
_STEPS = {
    "wait": "waiting",
    "solve": "solving",
    "fetch": "fetching",
    "link": "installing",
    "pip": "installing with pip",
    "compile": "compiling",
    "publish": "publishing",
    "check": "looking at",
}


class Asked(NamedTuple):
    """What the command line asks for. ``lock``: path of a file; ``layer``: ``auto``, ``none`` or a path."""

    file: str
    cuda: str = "auto"
    engine: str = "rattler"
    lock: str | None = None
    refresh_seconds: int | None = None
    layer: str = "auto"


class Environment(NamedTuple):
    """An environment as a command uses it. ``path``: in front of PATH, in order; ``notes``: a line each."""

    ready: Mapping[str, Any]
    layer: Layer | None
    path: tuple[str, ...]
    variables: dict[str, str]
    notes: tuple[str, ...]


def find_file(given: str | None, folder: str = ".") -> str:
    """The file meant: the one given, or the one of the usual name. Raises UsageError without one."""
    if given:
        return given
    for name in FILES:
        path = name if folder == "." else os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    raise UsageError("is not here", where=FILES[0], remedy="name the file, or change to its directory")


def read_text(path: str) -> str:
    """A file's content. Raises DataError for one that is missing, too large or not UTF-8, with its line."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe must not hold us
        with open(handle, "rb") as file:
            data = file.read(MOST_BYTES + 1) or b""
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"cannot be read: {reason}", where=path, remedy="check the name") from None
    if len(data) > MOST_BYTES:
        raise DataError(f"is larger than {MOST_BYTES >> 20} MiB", where=path, remedy="is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError("is not UTF-8", where=f"{path}:{line}", remedy="save it as UTF-8") from None


def request_of(asked: Asked) -> dict[str, Any]:
    """`model.Request` as JSON has it, without what is as usual.

    Raises UsageError for an option that means nothing, DataError for a file of no use.
    """
    if asked.cuda not in ("auto", "none") and not _VERSION.fullmatch(asked.cuda):
        remedy = "give auto, none or a version such as 12.8"
        raise UsageError(f"is {asked.cuda!r}", where="--cuda", remedy=remedy)
    if asked.engine not in ENGINES:
        raise UsageError(f"is {asked.engine!r}", where="--engine", remedy=f"give {', '.join(ENGINES)}")
    text = read_text(asked.file)
    given: dict[str, Any] = {"text": text, "where": asked.file}
    given["lock"] = read_text(asked.lock) if asked.lock else None
    given["refresh_seconds"] = asked.refresh_seconds
    given["cuda"] = None if asked.cuda == "auto" else asked.cuda
    given["engine"] = None if asked.engine == ENGINES[0] else asked.engine
    given["files"] = named_files(text, os.path.dirname(asked.file)) or None
    return {name: value for name, value in given.items() if value is not None}


def prepare(ready: Mapping[str, Any], layer: str, environ: Mapping[str, str]) -> Environment:
    """The environment with its layer, made where that is wanted; what activation means, all told.

    Raises UsageError, ConfigError, TryAgainError or UnavailableError as `make_layer` does.
    """
    activation = ready["activation"]
    prefix, notes = str(ready["prefix"]), list(activation.get("notes") or ())
    place = layer_place(layer, str(ready["digest"]), environ.get("RUNNER_TEMP"))
    made = None
    if place is not None and ready.get("python"):
        made = make_layer(prefix, ready["python"], ready.get("scripts") or (), place)
    elif place is not None:
        notes.append("the environment has no Python: there is no layer to install into")
    usual = {"CONDA_PREFIX": prefix, "CONDA_DEFAULT_ENV": prefix, "PYTHONNOUSERSITE": "1"}
    variables = {**usual, **(activation.get("variables") or {}), **(made.variables if made else {})}
    path = tuple(activation["path"])
    return Environment(ready, made, (made.bin, *path) if made else path, variables, tuple(notes))


def github_files(environ: Mapping[str, str]) -> list[str]:
    """The runner's files that activation is written to. Raises UsageError outside a workflow."""
    return [workflow.file_from(environ, name) for name in ("GITHUB_ENV", "GITHUB_PATH")]


def to_github(environment: Environment, environ: Mapping[str, str], file: str) -> list[str]:
    """Activate it for the later steps of the job; lines about variables that these do not get.

    Raises UsageError outside a workflow, DataError for a variable or directory that cannot be handed on,
    UnavailableError when the runner's files cannot be written.
    """
    targets = github_files(environ)
    variables, notes = workflow.exportable(environment.variables)
    if environ.get("VIRTUAL_ENV") and not environment.layer:
        variables["VIRTUAL_ENV"] = ""  # an earlier step's layer is not this environment's; nothing unsets
    texts = workflow.env_lines(variables), workflow.path_lines(environment.path)
    for target, text in zip(targets, texts, strict=True):
        workflow.append(target, text)
    if environ.get("GITHUB_STEP_SUMMARY"):
        line = workflow.summary_line(f"{file}: {_headline(environment)}")
        with contextlib.suppress(UnavailableError):  # it is for people; the steps go on without
            workflow.append(environ["GITHUB_STEP_SUMMARY"], line)
    return notes


def answer(environment: Environment, *, github: bool, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The answer as JSON: what the store said, the layer, and what was written for later steps."""
    ready = {name: value for name, value in environment.ready.items() if name not in ("schema", "scripts")}
    layer = environment.layer
    made = {"path": layer.path, "made": layer.made, "duration_seconds": layer.seconds} if layer else None
    activation = {"path": list(environment.path), "variables": environment.variables}
    written = ["GITHUB_ENV", "GITHUB_PATH"] if github else []
    rest = {"activation": activation, "layer": made, "written": written}
    return {"schema": SCHEMA, **ready, **rest, "notes": [*environment.notes, *notes]}


def text_of(environment: Environment, *, github: bool) -> str:
    """The answer for people."""
    ready, layer = environment.ready, environment.layer
    pairs: dict[str, object] = {"environment": _headline(environment), "prefix": ready["prefix"]}
    if ready.get("python_version"):
        pairs["python"] = ready["python_version"]
    if ready.get("files"):
        pairs["size"] = f"{size_text(ready.get('size_bytes', 0))} in {counted(ready['files'], 'file')}"
    if layer:
        verb = f"made in {_duration(layer.seconds)}" if layer.made else "was there"
        pairs["layer"] = f"{layer.path} ({verb})"
    if github:
        pairs["active"] = "in the steps after this one"
    return fields(pairs)


def _headline(environment: Environment) -> str:
    ready = environment.ready
    words = {"hit": "was there", "linked": "solved anew, was there", "built": "built"}
    said = words.get(str(ready["status"]), str(ready["status"]))
    return f"{ready['digest']} ({said}; {_duration(float(ready['duration_seconds']))})"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def size_text(size: float) -> str:
    """Bytes for people: ``751 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB" if size < 1024 else f"{size / 1024:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """``1 package``, ``2 packages``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shell_lines(environment: Environment) -> str:
    """Activation for a shell that evaluates it (``sh`` and those like it)."""
    import shlex

    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.variables.items()]
    path = shlex.quote(os.pathsep.join(environment.path))
    return "\n".join([*exports, f'export PATH={path}"${{PATH:+:$PATH}}"'])


def for_process(environment: Environment, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process inside the environment; another virtual environment's are gone."""
    kept = {name: value for name, value in environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")}
    search = [*environment.path, *filter(None, environ.get("PATH", os.defpath).split(os.pathsep))]
    return {**kept, **environment.variables, "PATH": os.pathsep.join(dict.fromkeys(search))}


def replace_process(argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Become the command: its exit code and the signals it gets are its own. No shell is involved.

    Raises UsageError for a command that is not there or cannot be executed.
    """
    import signal

    # Python ignores them, and the command would inherit that.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        os.execvpe(argv[0], list(argv), dict(environ))
    except (FileNotFoundError, NotADirectoryError):
        remedy = "add what brings it to the environment's file"
        raise UsageError("there is no such command", where=argv[0], remedy=remedy) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnavailableError(f"cannot be executed: {reason}", where=argv[0]) from None
    finally:  # there was no such command: this process goes on as it was
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_IGN)


def trouble(error: RunnerctlError, environ: Mapping[str, str], near: str = "") -> str | None:
    """In a workflow: the line that shows an error beside the file's line it is about.

    ``near``: the environment's file, from whose directory the files are named that it includes.
    """
    if not workflow.in_workflow(environ):
        return None
    file, _, rest = error.where.partition(":")
    beside = os.path.join(os.path.dirname(near), file)
    file = beside if near and os.path.isfile(beside) and not os.path.isfile(file) else file
    line = rest.partition(":")[0]
    message = f"{error.what}; {error.remedy}" if error.remedy else error.what
    if not os.path.isfile(file):
        return workflow.annotation("error", escape(str(error)), title="runnerctl env")
    workspace = environ.get("GITHUB_WORKSPACE") or "."
    path = os.path.relpath(os.path.realpath(file), os.path.realpath(workspace))
    at = int(line) if line.isascii() and line.isdigit() else None
    return workflow.annotation("error", escape(message), file=path, line=at, title="runnerctl env")


class Progress:
    """Shows events: a line that changes on a terminal, a group in a workflow's log, nothing elsewhere."""

    def __init__(
        self,
        stream: TextIO,
        environ: Mapping[str, str],
        title: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._clock, self._title = stream, clock, title
        self._log = workflow.in_workflow(environ)
        self._draws = not self._log and environ.get("TERM") != "dumb" and _is_terminal(stream)
        self._open = False
        self._shown: dict[str, float] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event (`model.Event` as JSON has it)."""
        if not (self._log or self._draws):
            return
        step, now = str(event.get("step", "")), self._clock()
        pause = _LINE_SECONDS if self._log else _DRAW_SECONDS
        if now - self._shown.get(step, float("-inf")) < pause and event.get("done") != event.get("total"):
            return
        self._shown[step] = now
        self._show(_event_text(step, event))

    def close(self) -> None:
        """End what is open; the cursor stands at the beginning of an empty line."""
        if self._open:
            self._write("\r\x1b[K" if self._draws else workflow.end_group() + "\n")
        self._open = False

    def _show(self, text: str) -> None:
        if self._draws:
            self._write(f"\r{text[: _columns() - 1]}\x1b[K")
        else:
            start = "" if self._open else workflow.group(self._title) + "\n"
            self._write(f"{start}{workflow.harmless(text)}\n")
        self._open = True

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            return  # nobody looks any more; the work goes on


def _event_text(step: str, event: Mapping[str, Any]) -> str:
    words = [_STEPS.get(step, step)]
    done, total = event.get("done"), event.get("total")
    if done is not None:
        words.append(f"{done}/{total}" if total else str(done))
    if event.get("text"):
        words.append(str(event["text"]))
    return escape(" ".join(words))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def notes_text(notes: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """Lines of the log about what could not be carried over; harmless in a workflow's."""
    lines = [f"runnerctl: {escape(note)}" for note in notes]
    return [workflow.harmless(line) for line in lines] if workflow.in_workflow(environ) else lines
