"""Build and probe a virtual environment from a wheel that was brought to the host."""

from __future__ import annotations

import os
import re
import tarfile
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

from .download import file_sha256, need_space, working_directory
from .errors import HostError
from .process import Result, run

__all__ = ["EXTRAS", "Python", "Source", "build", "find_python", "pip_error", "probe"]

OLDEST = (3, 10)
NEWEST_KNOWN = 15
PROBE_SECONDS = 30
VENV_SECONDS = 180
PIP_SECONDS = 900
SIZE_BYTES = 200_000_000
EXTRA_BYTES = 300_000_000
# An extra of the package -> what it must bring.
EXTRAS = {"env": ("rattler", "uv", "yaml")}
WHEEL_NAME = re.compile(r"[A-Za-z0-9_.+!-]+\.whl")


@dataclass(frozen=True)
class Python:
    """An interpreter of the host that can make virtual environments."""

    path: str
    version: str  # as in "3.11"


@dataclass(frozen=True)
class Source:
    """Where packages come from: the wheel, and for the rest a wheelhouse or the host's own package index.

    ``wheelhouse`` is an address, or with ``wheelhouse_sha256`` the path of a tar file of wheels.
    ``extras``: of EXTRAS.
    """

    wheel: str
    sha256: str
    wheelhouse: str | None = None
    wheelhouse_sha256: str | None = None
    extras: tuple[str, ...] = ()


def find_python(directory: str = "/usr/bin") -> Python | None:
    """The distribution's Python, or the newest beside it: 3.10 or newer, with ``venv`` and ``ensurepip``."""
    names = ["python3", *(f"python3.{minor}" for minor in range(NEWEST_KNOWN, OLDEST[1] - 1, -1))]
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for name in names:
        path = os.path.join(directory, name)
        if not os.access(path, os.X_OK):
            continue
        done = run([path, "-I", "-B", "-c", code], timeout=PROBE_SECONDS)
        version = done.out.strip()
        if done.rc == 0 and tuple(int(part) for part in version.split(".")) >= OLDEST:
            return Python(path, version)
    return None


def probe(directory: str, extras: Sequence[str] = ()) -> bool:
    """Whether the environment's Python is still there and finds the package and what is compiled of it."""
    python = os.path.join(directory, "bin", "python")
    if not os.access(python, os.X_OK) or not os.access(os.path.join(directory, "bin", "runnerctl"), os.X_OK):
        return False
    names = ["msgspec", "runnerctl.errors", *(name for extra in extras for name in EXTRAS[extra])]
    return run([python, "-I", "-B", "-c", f"import {', '.join(names)}"], timeout=PROBE_SECONDS).rc == 0


def build(directory: str, python: Python, source: Source, *, lock: int) -> None:
    """Make the environment and install into it. Raises HostError with pip's own reason as one line.

    The commands keep the lock: one left behind by a killed run still keeps the next run waiting.
    """
    _check(source.wheel, source.sha256)
    size = SIZE_BYTES + EXTRA_BYTES * len(source.extras)
    need_space(os.path.dirname(directory), size, what="runnerctl")
    done = run([python.path, "-I", "-m", "venv", directory], timeout=VENV_SECONDS, keep_open=[lock])
    if done.rc != 0:
        raise HostError(f"no virtual environment can be made: {pip_error(done)}", where=python.path)
    with working_directory(os.path.join(os.path.dirname(directory), "install")) as work:
        options = _index_options(source, work)
        pip = [os.path.join(directory, "bin", "python"), "-I", "-m", "pip", "--no-input"]
        pip += ["--disable-pip-version-check", "--timeout", "20", "--retries", "2"]
        wheel = f"{source.wheel}[{','.join(source.extras)}]" if source.extras else source.wheel
        # Its cache would be written to root's home for one use.
        argv = [*pip, "install", "--quiet", "--no-cache-dir", *options, wheel]
        env = {"TMPDIR": work, "PYTHONPATH": None, "PIP_USER": None}
        done = run(argv, timeout=PIP_SECONDS, env=env, keep_open=[lock])
    if done.rc != 0:
        remedy = "make a package index reachable for pip on this host, or set runnerctl_wheelhouse"
        if source.wheelhouse:
            remedy = f"add what is missing to the wheelhouse (this host has Python {python.version})"
        raise HostError(f"pip cannot install runnerctl: {pip_error(done)}", remedy=remedy)
    if not probe(directory, source.extras):
        raise HostError("was installed and does not start", where=directory, remedy="run again")


def _index_options(source: Source, work: str) -> list[str]:
    if source.wheelhouse is None:
        return []
    if source.wheelhouse_sha256 is None:
        address = urllib.parse.urlsplit(source.wheelhouse)
        trusted = ["--trusted-host", address.netloc.rpartition("@")[2]] if address.scheme == "http" else []
        return ["--no-index", "--find-links", source.wheelhouse, *trusted]  # plain http was asked for by name
    _check(source.wheelhouse, source.wheelhouse_sha256)
    place = os.path.join(work, "wheelhouse")
    os.mkdir(place, 0o755)
    with tarfile.open(source.wheelhouse) as archive:
        for member in archive:
            data = archive.extractfile(member) if member.isreg() else None
            if data is None or not WHEEL_NAME.fullmatch(member.name):
                raise HostError(f"{member.name!r} is no wheel", where="runnerctl_wheelhouse")
            with open(os.path.join(place, member.name), "wb") as file:
                file.write(data.read())
    return ["--no-index", "--find-links", place]


def _check(path: str, sha256: str) -> None:
    found = file_sha256(path)
    if found != sha256:
        what = f"SHA-256 is {found}, expected {sha256}"
        raise HostError(what, where=path, remedy="it was damaged on its way to the host: run again")


def pip_error(done: Result) -> str:
    """The line that says why."""
    lines = [line.strip() for line in f"{done.out}\n{done.err}".splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        return "no space left on the host"
    errors = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("ERROR:", "Error:"))]
    unreachable = [line for line in lines if "Failed to establish a new connection" in line]
    if unreachable and errors:
        return f"{errors[0]} (the package index cannot be reached)"
    return errors[0] if errors else (lines[-1] if lines else f"exit status {done.rc}")
