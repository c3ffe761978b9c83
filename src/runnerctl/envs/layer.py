"""A private, writable layer over an environment nobody may change: a virtual environment made by hand.

Standard library only, and quick (a hundred scripts take some milliseconds): every job makes one. It has links
to the environment's interpreter, so ``sys.prefix`` is the layer and the environment is its
"system" (PEP 405); a copy of each of the environment's Python scripts that starts the layer's interpreter, so
that ``pytest`` and ``pip`` see what is installed here; and links to what the environment has in ``share`` and
``etc/jupyter``, since packages look for their data below ``sys.prefix``. So ``pip install -e .``, ``pip
install X``, ``pip install -U X`` (which then hides the environment's own X) and ``uv pip install`` work as in
an environment of one's own. What differs from a hosted runner, where the environment itself is written to:

- what the environment brought cannot be removed or changed in place; ``pip uninstall X`` says so;
- ``$CONDA_PREFIX/bin/python`` sees the environment alone: say ``python``;
- ``conda install`` cannot change the environment: what is wanted belongs into ``environment.yml``;
- a wheel that puts data where the environment has some (``share/proj``) is refused: those are links;
- ``pip install --user`` is refused, as in every virtual environment;
- ``sys.base_prefix`` and ``sys.prefix`` are not the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from runnerctl.errors import ConfigError, TryAgainError, UnavailableError, UsageError

__all__ = ["LAYER_MARK", "Layer", "layer_place", "make_layer", "rewritten"]

LAYER_MARK = ".runnerctl-layer"
LOCK_SECONDS = 30.0
_FORMAT = "1"
_OURS = "runnerctl-layer"
_SHEBANG_LIMIT = 127  # bytes with "#!" and the line's end: BINPRM_BUF_SIZE before Linux 5.1
_PYTHON = re.compile(r"python(3(\.\d+t?)?)?")
_LIB = re.compile(r"python(\d+\.\d+)t?")
_SH = re.compile(
    rb"#![ \t]*/bin/sh\n'''exec' (?P<quote>[\"']?)(?P<python>[^\"'\n]+?)(?P=quote)"
    rb"(?P<args>(?: [^\"'\n]*?)?) \"\$0\" \"\$@\"[^\n]*\n' '''\n"
)
_PLAIN = re.compile(rb"#![ \t]*(?P<python>[^ \t\r\n]+)[ \t]*(?P<args>[^\r\n]*)\r?\n")
# Nobody looks for these below sys.prefix, and wheels do put files there.
_NOT_DATA = frozenset({"applications", "bash-completion", "doc", "fish", "icons", "info", "licenses"})
_NOT_DATA |= {"gtk-doc", "locale", "man", "mime", "zsh"}
_MERGED = {"share": (*_NOT_DATA,), "share/jupyter": (), "share/jupyter/kernels": (), "etc/jupyter": ()}
_MERGED |= {"share/jupyter/labextensions": (), "share/jupyter/nbextensions": ()}
_MERGED |= {f"etc/jupyter/{name}.d": () for name in ("jupyter_server_config", "jupyter_notebook_config")}


class Layer(NamedTuple):
    """A layer that is complete. ``path``: its prefix; ``bin``: to stand first in PATH; ``made``: not reused.

    ``variables``: what a process needs besides PATH, so that uv and others find the layer.
    """

    path: str
    bin: str
    python: str
    made: bool
    seconds: float
    variables: dict[str, str]


def layer_place(choice: str, digest: str, runner_temp: str | None) -> str | None:
    """Where a layer goes: ``auto`` is in the job's own temporary directory, and no layer without a job.

    The place is named by the environment's digest, so that a second step finds what the first made.
    Raises UsageError for a path that is empty.
    """
    if choice == "none" or (choice == "auto" and not runner_temp):
        return None
    if choice == "auto":
        return os.path.join(runner_temp or "", f"env-{digest}")
    if not choice:
        raise UsageError("is empty", where="--layer", remedy="give auto, none or a path")
    return os.path.abspath(choice)


def make_layer(prefix: str, python: str, scripts: Sequence[str] | None, where: str) -> Layer:
    """A layer over the environment at ``prefix``, in the directory ``where``.

    ``python``: path of the interpreter below the prefix; ``scripts``: names in the prefix's ``bin`` to copy,
    None for all that are Python's. A complete layer of this environment is taken as it is, with everything
    that was installed into it; a half one, or one of another environment, is replaced. Raises UsageError for
    a directory that holds something else, ConfigError for an environment that is not there, TryAgainError
    when another process works on the layer for too long, UnavailableError when it cannot be written.
    """
    began = time.monotonic()
    prefix, where = os.path.abspath(prefix), os.path.abspath(where)
    interpreter = _interpreter(prefix, python)
    try:
        os.makedirs(where, exist_ok=True)
        with _locked(where):
            made = _state(where) != _mark(prefix)
            if made:
                _clear(where)
                _fill(where, prefix, interpreter, scripts)
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else where
        raise UnavailableError(f"cannot make a layer: {error.strerror}", where=place) from None
    seconds = time.monotonic() - began
    binaries = os.path.join(where, "bin")
    return Layer(where, binaries, os.path.join(binaries, "python"), made, seconds, {"VIRTUAL_ENV": where})


def rewritten(content: bytes, prefix: str, python: str) -> bytes | None:
    """A script of ``prefix`` for the interpreter ``python``; None when it is not started by the prefix's own.

    Knows a plain first line, and the two lines of shell that installers write where it would be too long.
    """
    found = _SH.match(content) or _PLAIN.match(content)
    if found is None:
        return None
    folder, name = os.path.split(os.fsdecode(found["python"]))
    own = {os.path.join(prefix, "bin"), os.path.join(os.path.realpath(prefix), "bin")}
    if folder not in own or not _PYTHON.fullmatch(name):
        return None
    return _first_lines(os.fsencode(python), found["args"].strip()) + content[found.end() :]


def _first_lines(python: bytes, args: bytes) -> bytes:
    line = b"#!" + python + (b" " + args if args else b"") + b"\n"
    if len(line) <= _SHEBANG_LIMIT and not re.search(rb"\s", python):
        return line
    import shlex

    quoted = os.fsencode(shlex.quote(os.fsdecode(python)))  # sh starts Python; Python sees a string
    return b"#!/bin/sh\n'''exec' " + quoted + (b" " + args if args else b"") + b' "$0" "$@"\n' + b"' '''\n"


def _interpreter(prefix: str, python: str) -> str:
    path = os.path.join(prefix, python)
    if not os.access(path, os.X_OK):
        remedy = "run runnerctl env ensure again"
        raise ConfigError("the environment's interpreter is not there", where=path, remedy=remedy)
    return path


def _mark(prefix: str) -> str:
    return f"{_FORMAT} {prefix}\n"


def _state(where: str) -> str | None:
    try:
        with open(os.path.join(where, LAYER_MARK), encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def _locked(where: str) -> Iterator[None]:
    """One process at a time; the directory itself is the lock, so nothing is left beside it."""
    handle = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + LOCK_SECONDS
        while not _lock(handle):
            if time.monotonic() > until:
                raise TryAgainError("another process works on the layer", where=where, remedy="try again")
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _clear(where: str) -> None:
    """Empty what is a layer or the remains of one; nothing else is touched."""
    names = os.listdir(where)
    if not names:
        return
    if not _is_ours(where):
        remedy = "name a directory that is empty or does not exist"
        raise UsageError("holds something that is no layer", where=where, remedy=remedy)
    import shutil  # it loads every kind of archive, and most layers are new

    last = "pyvenv.cfg"  # says whose the rest is, should this be stopped on the way
    for name in sorted(names, key=lambda name: (name == last, name != LAYER_MARK)):
        path = os.path.join(where, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _is_ours(where: str) -> bool:
    try:
        with open(os.path.join(where, "pyvenv.cfg"), encoding="utf-8", errors="replace") as file:
            return any(line.startswith(_OURS) for line in file)
    except FileNotFoundError:
        return False


def _fill(where: str, prefix: str, interpreter: str, scripts: Sequence[str] | None) -> None:
    lib = _library(prefix)
    _config(where, prefix, interpreter, lib)
    binaries = os.path.join(where, "bin")
    os.mkdir(binaries)
    os.makedirs(os.path.join(where, "lib", lib, "site-packages"))
    os.symlink("lib", os.path.join(where, "lib64"))
    os.symlink(interpreter, os.path.join(binaries, "python"))
    names = {"python3", lib, lib.rstrip("t")}
    for name in names:
        os.symlink("python", os.path.join(binaries, name))
    _copy_scripts(prefix, binaries, scripts)
    for folder, without in _MERGED.items():
        _link_all(os.path.join(prefix, folder), os.path.join(where, folder), without)
    _write(os.path.join(where, LAYER_MARK), _mark(prefix).encode())


def _library(prefix: str) -> str:
    """The name of the interpreter's own directory in ``lib``: ``python3.12``, ``python3.13t``."""
    lib = os.path.join(prefix, "lib")
    names = [name for name in sorted(os.listdir(lib)) if _LIB.fullmatch(name)]
    found = [name for name in names if os.path.exists(os.path.join(lib, name, "os.py"))]
    if not found:
        raise ConfigError("there is no Python in this environment", where=prefix, remedy="use --layer none")
    return found[-1]


def _config(where: str, prefix: str, interpreter: str, lib: str) -> None:
    pairs = {
        "home": os.path.join(prefix, "bin"),
        "include-system-site-packages": "true",
        "version": lib.removeprefix("python").rstrip("t"),
        "executable": interpreter,
        _OURS: _FORMAT,
    }
    text = "".join(f"{name} = {value}\n" for name, value in pairs.items())
    _write(os.path.join(where, "pyvenv.cfg"), text.encode())


def _copy_scripts(prefix: str, binaries: str, scripts: Sequence[str] | None) -> None:
    source, python = os.path.join(prefix, "bin"), os.path.join(binaries, "python")
    for name in os.listdir(source) if scripts is None else scripts:
        content = None if "/" in name else _script(os.path.join(source, name))
        copy = rewritten(content, prefix, python) if content is not None else None
        if copy is not None and not os.path.lexists(path := os.path.join(binaries, name)):
            _write(path, copy, mode=0o755)


def _script(path: str) -> bytes | None:
    """What a script says; None for what is no script (an interpreter of 30 MB is not read to see that)."""
    try:
        with open(path, "rb") as file:
            return b"#!" + file.read() if file.read(2) == b"#!" else None
    except (FileNotFoundError, IsADirectoryError):
        return None


def _link_all(source: str, target: str, without: Sequence[str]) -> None:
    """Link what a directory of the environment holds; a link that stood for a directory becomes one."""
    if not os.path.isdir(source):
        return
    if os.path.islink(target):
        os.unlink(target)
    os.makedirs(target, exist_ok=True)
    for name in os.listdir(source):
        if name not in without:
            os.symlink(os.path.join(source, name), os.path.join(target, name))


def _write(path: str, content: bytes, *, mode: int = 0o644) -> None:
    """Whole or not at all: a layer's files are looked for by name."""
    part = f"{path}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(handle, "wb") as file:
        file.write(content)
    os.rename(part, path)
