"""Run code that came out of packages, so that it reaches its own environment and a folder for answers only.

It runs under the user who may write the store: without this it could change published environments, the
caches that all share files with, and read the credentials of channels. See `_confine` for how.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runnerctl.envs import _confine
from runnerctl.errors import UnavailableError

__all__ = [
    "Ended",
    "Rules",
    "command",
    "is_available",
    "read_answer",
    "read_within",
    "run",
    "scratch",
]

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc")
DEVICES = ("/dev/zero", "/dev/urandom")
OUTPUT_BYTES = 4 << 20
PLAIN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
LATE_SECONDS = 5.0


@dataclass(frozen=True)
class Rules:
    """What a program may do; see `_confine.Order`. ``read`` comes on top of the system's own folders.

    ``file_bytes``: of the largest file that it writes. ``cpu_seconds``: of each process.
    """

    write: tuple[Path, ...]
    read: tuple[Path, ...] = ()
    make: tuple[Path, ...] = ()
    network: bool = False
    ours: bool = False
    anyway: bool = False
    tied: bool = True
    file_bytes: int = 256 << 20
    cpu_seconds: int = 3600
    open_files: int = 1024


@dataclass(frozen=True)
class Ended:
    """How a program ended: ``code`` None when its time was over. ``output``: both of its streams."""

    code: int | None
    output: bytes


def is_available() -> bool:
    """Whether this kernel can confine a program."""
    return _confine.version() >= 1


def command(
    rules: Rules, program: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> list[str]:
    """The command line that runs ``program`` confined; ``environment``: all that it sees, None: as it is."""
    order: _confine.Order = {
        "write": list(map(str, rules.write)),
        "make": list(map(str, rules.make)),
        "read": [*SYSTEM, *DEVICES, *map(str, rules.read)],
        "network": rules.network,
        "ours": rules.ours,
        "tied": rules.tied,
        "anyway": rules.anyway,
        "limits": {
            "RLIMIT_FSIZE": rules.file_bytes,
            "RLIMIT_CPU": rules.cpu_seconds,
            "RLIMIT_NOFILE": rules.open_files,
        },
        "environment": None if environment is None else dict(environment),
    }
    return [sys.executable, "-I", "-S", _confine.__file__, json.dumps(order), *program]


def run(
    rules: Rules, program: Sequence[str], *, environment: Mapping[str, str], folder: Path, seconds: float
) -> Ended:
    """Run a program in ``folder`` to its end or deadline; then nothing that it started is left.

    Raises UnavailableError when the kernel would not confine it: it was not run then.
    """
    with tempfile.TemporaryFile() as said:  # a file is bounded by the limits, a pipe is not
        process = subprocess.Popen(
            command(rules, program),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        said.seek(max(0, said.seek(0, os.SEEK_END) - OUTPUT_BYTES))
        output = said.read()
    if code == _confine.CANNOT and b" was not run: " in output:
        what = output.decode("utf-8", "replace").strip()[-300:]
        raise UnavailableError(what, remedy="see what this host's kernel and the unit's filter allow")
    return Ended(code, output)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and whatever it left running: it could not leave its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(LATE_SECONDS)


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A new folder for a confined program; what it put there is removed, and no link of it followed."""
    from runnerctl.envs.store_files import remove_tree

    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix=f"runnerctl-{purpose}-")))
    try:
        yield folder
    finally:
        remove_tree(folder)


def read_answer(file: Path, *, limit: int, names: int | None = 1) -> bytes | None:
    """What a confined program wrote, as it may be a link to what it cannot read itself.

    None for what is not there, is no plain file, has another number of ``names`` (None: any), or more than
    ``limit`` bytes. The caller has ended the program, and knows the folders above.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        if names is not None and status.st_nlink != names:
            return None
        return stream.read(limit + 1)[:limit]


def read_within(file: Path, prefix: Path, *, limit: int) -> str:
    """The text of an environment's file, which a package may have made a link to somewhere else.

    Raises OSError for one that cannot be read, ValueError for one that leads out of ``prefix``, is no plain
    file, no UTF-8, or has more than ``limit`` bytes.
    """
    real = Path(os.path.realpath(file))
    text = read_answer(real, limit=limit, names=None)
    if text is None or not real.is_relative_to(os.path.realpath(prefix)):
        raise ValueError(f"{file.name} is no file of its environment")
    return text.decode("utf-8")
