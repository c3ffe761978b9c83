"""Build one environment in its place, and publish it when everything is on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from runnerctl.envs import bytecode
from runnerctl.envs.model import Activation, EngineName, Event, Manifest, Solution
from runnerctl.envs.ports import Engine, Order, Tell
from runnerctl.envs.store import Store
from runnerctl.envs.store_files import harden, walk
from runnerctl.errors import ConfigError, TryAgainError, UnavailableError

__all__ = ["Build", "build", "scripts_of"]

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
    notes = bytecode.compile_missing(prefix, installed, work.tell, anyway=work.order.anyway)
    activation = installed.activation or _activation(work, prefix)
    activation = msgspec.structs.replace(activation, notes=(*activation.notes, *notes))
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

    return find_activation(prefix, anyway=work.order.anyway)


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
