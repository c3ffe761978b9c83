"""This machine: where we keep things, what it must have, and the settings its hosts need as well."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = [
    "CACHE",
    "ROOT",
    "HostsError",
    "as_root",
    "call",
    "ensure_programs",
    "locked",
    "pip_settings",
    "say",
    "speak_through",
]

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
KEY = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]  # tells the checkouts of one machine apart
APT_DEADLINE_SECONDS = 600
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout")


class HostsError(RuntimeError):
    """Test hosts cannot be had here; the text says why and what to do."""


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"hosts: {text}\n")
    sys.stderr.flush()


_voices: list[Callable[[str], None]] = [_to_stderr]


def say(text: str) -> None:
    """One line of progress; on stderr, for stdout is for answers, unless `speak_through` said otherwise."""
    _voices[-1](text)


def speak_through(voice: Callable[[str], None]) -> None:
    """Let something else show progress from now on."""
    _voices.append(voice)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process of this checkout at a time into a section."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def call(argv: Sequence[str], *, seconds: float, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and give its output; raises HostsError with the last lines when it fails."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            env=None if env is None else {**os.environ, **env},
        )
    except subprocess.TimeoutExpired as error:
        raise HostsError(f"`{' '.join(argv)}` did not end within {seconds:.0f} s") from error
    except OSError as error:
        raise HostsError(f"`{argv[0]}` cannot be run: {error}") from error
    if done.returncode:
        tail = "\n  ".join(done.stdout.strip().splitlines()[-12:])
        raise HostsError(f"`{' '.join(argv)}` failed with {done.returncode}:\n  {tail}")
    return done.stdout


def as_root(argv: Sequence[str]) -> list[str]:
    """The command, through sudo where we are not root already."""
    return list(argv) if os.geteuid() == 0 else ["sudo", "-n", *argv]


def ensure_programs(packages: Mapping[str, str]) -> None:
    """Install the Debian packages whose program is missing.

    ``packages``: program -> package, or several apart by blanks. Raises HostsError where there is no apt.
    """
    missing = {program: package for program, package in packages.items() if not _which(program)}
    if not missing:
        return
    names = sorted({name for packages_ in missing.values() for name in packages_.split()})
    if not shutil.which("apt-get"):
        raise HostsError(f"install {', '.join(names)}: missing are the programs {', '.join(sorted(missing))}")
    say(f"installing {', '.join(names)}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    with locked("apt"):
        call(as_root([*apt, "update"]), seconds=APT_DEADLINE_SECONDS, env=env)
        install = [*apt, "install", "-y", "--no-install-recommends", *names]
        call(as_root(install), seconds=APT_DEADLINE_SECONDS, env=env)


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


@functools.cache
def pip_settings() -> tuple[tuple[str, str], ...]:
    """What this machine's pip is told that a host needs as well: (name, value), the last one counts.

    Folders of this machine are left out. ``cert`` stays a path of this machine: the image carries a copy.
    """
    listed = call([sys.executable, "-m", "pip", "config", "list"], seconds=60)
    found: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        value = value.strip("'")
        remote = [word for word in value.split() if not word.startswith(("file:", "/"))]
        if name == "cert":
            found[name] = value
        elif name in PIP_SETTINGS and remote:
            found[name.removeprefix("default-")] = " ".join(remote)
    return tuple(sorted(found.items()))
