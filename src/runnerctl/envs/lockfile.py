"""The lock of an environment: an engine's own lock text, and above it what it was made from.

::

    # runnerctl environment lock 1
    # engine: rattler
    # input: sha256:<64 hex digits>
    # pip: name==version            (one line each of what pip's section came to)
    version: 7
    ...

The lines above are comments to everybody else, so other tools read the file, too. The input's hash covers the
channels in order, the dependencies in any order, the pip section and the files it names; not the name,
comments, or variables, which change nothing about the packages.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

import msgspec

from runnerctl.envs.key import normal_pip, normal_spec
from runnerctl.envs.model import EngineName, EnvironmentFile
from runnerctl.errors import DataError

__all__ = ["Lock", "check", "fingerprint", "read", "write"]

FIRST = "# runnerctl environment lock 1"
MAKE_ANEW = "make it anew: runnerctl env lock"
_FIELD = re.compile(r"# (engine|input|pip): (.+)")
_PIN = re.compile(r"[A-Za-z0-9._-]+===?[A-Za-z0-9.!+_-]+")


class Lock(msgspec.Struct, frozen=True):
    """A lock that was read. ``body``: the engine's own text; ``pip``: pins ``name==version``."""

    body: str
    input: str
    engine: EngineName = "rattler"
    pip: tuple[str, ...] = ()


def fingerprint(file: EnvironmentFile, files: Mapping[str, str]) -> str:
    """``sha256:`` and 64 hex digits of everything in a file that decides packages."""
    parts = {
        "channels": [line.text for line in file.channels],
        "specs": sorted({normal_spec(line.text) for line in file.specs}),
        "pip": [normal_pip(line.text) for line in file.pip],
        "files": sorted(files.items()) if file.pip else [],
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def write(
    lock: str,
    file: EnvironmentFile,
    *,
    files: Mapping[str, str],
    engine: EngineName = "rattler",
    pip: Sequence[str] = (),
) -> str:
    """A lock for ``file``. ``lock``: an engine's text, or a lock written before, whose head is replaced."""
    body = read(lock).body if lock.startswith(FIRST) else lock
    pins = [f"# pip: {pin}" for pin in sorted(pip)]
    head = [FIRST, f"# engine: {engine}", f"# input: {fingerprint(file, files)}", *pins]
    return "\n".join([*head, body])


def read(text: str, where: str = "the lock") -> Lock:
    """Raises DataError when this is no lock that `write` made."""
    lines = text.splitlines()
    if not lines or lines[0].rstrip() != FIRST:
        remedy = f"its first line has to be {FIRST!r}; {MAKE_ANEW}"
        raise DataError("is no lock of an environment", where=f"{where}:1", remedy=remedy)
    found: dict[str, list[str]] = {"engine": [], "input": [], "pip": []}
    count = 1
    for line in lines[1:]:
        match = _FIELD.fullmatch(line.rstrip())
        if match is None:
            break
        found[match[1]].append(match[2])
        count += 1
    wrong = [pin for pin in found["pip"] if not _PIN.fullmatch(pin)]
    fine = len(found["input"]) == 1 and re.fullmatch(r"sha256:[0-9a-f]{64}", found["input"][0])
    if wrong or not fine or found["engine"] not in (["rattler"], ["conda"], ["mamba"]):
        raise DataError("the head of the lock is damaged", where=f"{where}:1", remedy=MAKE_ANEW)
    engine: EngineName = msgspec.convert(found["engine"][0], EngineName)
    return Lock("\n".join(lines[count:]) + "\n", found["input"][0], engine, tuple(found["pip"]))


def check(lock: Lock, file: EnvironmentFile, *, files: Mapping[str, str], engine: EngineName) -> None:
    """Raises DataError when ``file`` asks for something else than at the time of the lock."""
    if lock.input != fingerprint(file, files):
        raise DataError("has changed since its lock was written", where=file.where, remedy=MAKE_ANEW)
    if lock.engine != engine:
        what = f"the lock was written by the engine {lock.engine}, not {engine}"
        raise DataError(what, where=file.where, remedy=f"give --engine {lock.engine}, or {MAKE_ANEW}")
