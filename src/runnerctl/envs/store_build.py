"""Build one environment in its place, and publish it when everything is on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from runnerctl.envs.model import Activation, EngineName, Event, Manifest, Solution
from runnerctl.envs.ports import Engine, Installed, Order, Tell
from runnerctl.envs.store import Store
from runnerctl.envs.store_files import harden, walk
from runnerctl.errors import ConfigError, TryAgainError, UnavailableError

__all__ = ["Build", "build", "missing_bytecode", "scripts_of"]

COMPILE_SECONDS = 1800.0
COMPILERS = 4  # at most; a host's other cores belong to jobs
LONGEST_PREFIX = 200  # conda writes paths into places of 255 characters, and a path goes on below the prefix
_HEAD = 512


class Build(msgspec.Struct, frozen=True):
    """What is built, where, by whom. ``activate``: what activating a prefix would do."""

    store: Store
    digest: str
    engine: Engine
    order: Order
    solution: Solution
    engine_name: EngineName
    boot: str
    now: Callable[[], float]
    tell: Tell
    activate: Callable[[Path], Activation] | None = None


def build(work: Build) -> Manifest:
    """Build and publish; the caller holds the digest's lock. What an earlier build left is thrown away.

    Raises what the engine raises, TryAgainError when the disk is full. Nothing is published then.
    """
    prefix = work.store.prefix(work.digest)
    if len(str(prefix)) > LONGEST_PREFIX:
        what = f"the store's path is too long: {len(str(prefix))} characters with an environment's name"
        raise ConfigError(what, where=str(work.store.root), remedy="give a shorter one with --store")
    work.store.discard(work.digest)
    try:
        manifest = _built(work, prefix)
        work.tell(Event("publish", work.digest))
        work.store.publish(manifest)
    except OSError as error:
        work.store.discard(work.digest)
        work.store.empty_trash()
        raise _disk_error(error, work.store) from None
    except BaseException:
        work.store.discard(work.digest)
        work.store.empty_trash()
        raise
    work.store.empty_trash()
    return manifest


def _built(work: Build, prefix: Path) -> Manifest:
    installed = work.engine.install(work.order, work.solution.packages, prefix, work.tell)
    _compile(prefix, installed, work.tell)
    activation = installed.activation or _activation(work, prefix)
    scripts = scripts_of(prefix)
    files, size = harden(prefix)
    return Manifest(
        digest=work.digest,
        prefix=str(prefix),
        engine=work.engine_name,
        packages=work.solution.packages,
        activation=activation,
        created_at=work.now(),
        boot_id=work.boot,
        files=files,
        size_bytes=size,
        pip=installed.pip,
        python=installed.python,
        python_version=installed.python_version,
        scripts=scripts,
        owner=work.store.owner,
        lock=work.solution.lock,
    )


def _disk_error(error: OSError, store: Store) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free space, or run runnerctl env gc with a smaller --budget"
        return TryAgainError("no space is left on the disk", where=str(store.root), remedy=remedy)
    what = f"the environment could not be written: {error.strerror or error}"
    return UnavailableError(what, where=str(error.filename or store.root), remedy="see the store's disk")


def _activation(work: Build, prefix: Path) -> Activation:
    if work.activate is not None:
        return work.activate(prefix)
    from runnerctl.envs.activation import find_activation

    return find_activation(prefix)


def missing_bytecode(prefix: Path) -> Iterator[str]:
    """Every module below ``lib/python*`` without bytecode: where nobody may write it never gets any."""
    for library in sorted((prefix / "lib").glob("python*")):
        modules, compiled = [], set()
        for entry in walk(library):
            folder, _, name = entry.path.rpartition("/")
            if name.endswith(".py"):
                modules.append(entry.path)
            elif name.endswith(".pyc") and folder.endswith("/__pycache__"):
                compiled.add(f"{folder.removesuffix('/__pycache__')}/{name.partition('.')[0]}.py")
        yield from (path for path in modules if path not in compiled)


def _compile(prefix: Path, installed: Installed, tell: Tell, seconds: float = COMPILE_SECONDS) -> None:
    """Compile what has no bytecode, by the environment's own Python. What is not Python 3 is passed over.

    ``unchecked-hash``: the sources never change, and a date must not decide (PEP 552).
    """
    missing = list(missing_bytecode(prefix)) if installed.python else []
    if not missing or installed.python is None:
        return
    tell(Event("compile", "bytecode", 0, len(missing)))
    with tempfile.NamedTemporaryFile(
        "w", suffix=".list", encoding="utf-8", errors="surrogateescape"
    ) as names:
        names.write("\n".join(name for name in missing if "\n" not in name) + "\n")
        names.flush()
        workers = str(max(1, min(COMPILERS, os.cpu_count() or 1)))
        argv = [str(prefix / installed.python), "-I", "-S", "-m", "compileall", "-q", "-q", "-j", workers]
        argv += ["--invalidation-mode", "unchecked-hash", "-i", names.name]
        _run(argv, seconds)
    tell(Event("compile", "bytecode", len(missing), len(missing)))


def _run(argv: Sequence[str], seconds: float) -> None:
    """Run to its end; its exit code says only that some file is no Python 3."""
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    try:
        child.wait(seconds)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(5)
        if isinstance(error, subprocess.TimeoutExpired):
            what = f"compiling the environment's modules took more than {seconds:.0f} s"
            raise UnavailableError(what, where=argv[0], remedy="see what else runs on this host") from None
        raise


def scripts_of(prefix: Path) -> tuple[str, ...]:
    """The names in ``bin`` that begin with the prefix's interpreter, also by way of ``/bin/sh``."""
    interpreter = re.escape(os.fsencode(prefix / "bin/python"))
    head = re.compile(
        rb"#!\s*" + interpreter + rb"|#!\s*/(usr/)?bin/(env )?sh\s*\n'''exec' \"?" + interpreter
    )
    found = []
    for entry in walk(prefix / "bin"):
        if entry.is_file() and "/" not in os.path.relpath(entry.path, prefix / "bin"):
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                if head.match(file.read(_HEAD)):
                    found.append(entry.name)
    return tuple(sorted(found))
