"""The next job looks for what the hostile one left. It is on the side of the law, and looks hard."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
from collections.abc import Callable
from pathlib import Path

from .leave import KEY_CALLS, LIBC
from .report import ReachedError, attempt, config

_PROCESSES = ("double-fork", "new-session", "ignores", "respawn", "worker", "holds-gpu")
_IDS = ("double-fork", "new-session", "ignores-signals", "respawning", "named-like-a-worker", "holds-gpu")


def _processes(mark: str) -> list[str]:
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = Path(path).read_bytes()
        except OSError:
            continue
        if mark.encode() in words:
            found.append(words.decode(errors="replace")[-60:])
    return found


def _looker(name: str) -> Callable[[], str]:
    def look() -> str:
        mark = "home/Runner.Worker" if name == "worker" else f"{config()['left_mark']}-{name}"
        found = _processes(mark)
        if found:
            raise ReachedError(f"{len(found)} processes: {found[:2]}")
        return "none"

    return look


for _id, _name in zip(_IDS, _PROCESSES, strict=True):
    attempt(f"left.{_id}", "look")(_looker(_name))


def _files(*places: str) -> str:
    """Nothing under these places bears the mark, in its name or in its content."""
    mark, looked = config()["left_mark"], 0
    for place in places:
        for directory, names, files in os.walk(place):
            for name in [*names, *files]:
                path = os.path.join(directory, name)
                looked += 1
                if mark in name or (os.path.isfile(path) and mark.encode() in _start(path)):
                    raise ReachedError(path)
    return f"{looked} looked at"


def _start(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""


@attempt("left.home", "look")
def home() -> str:
    """The home directory is as new."""
    said = _files(str(Path.home()))
    if len(os.listdir(Path.home())) > 3:
        raise ReachedError(str(os.listdir(Path.home())))
    return said


@attempt("left.work", "look")
def work() -> str:
    """No workspace, no action of the last job's."""
    root = Path(config()["root"]) / "_work"
    return _files(*(str(path) for path in root.iterdir() if path.name != "_tool"))


@attempt("left.tool-cache", "look")
def tool_cache() -> str:
    """The tool cache holds nothing of the last job's."""
    return _files(config()["root"] + "/_work/_tool")


@attempt("left.temporary", "look")
def temporary() -> str:
    """Temporary places are empty."""
    return _files("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev/mqueue")


@attempt("left.ipc", "look")
def ipc() -> str:
    """No System V or POSIX object with the last job's name."""
    for name, arguments in (("shmget", (0x48, 1, 0)), ("semget", (0x48, 1, 0)), ("msgget", (0x48, 0))):
        if getattr(LIBC, name)(*arguments) != -1:
            raise ReachedError(name)
    for name in ("shm", "sem", "msg"):
        lines = Path(f"/proc/sysvipc/{name}").read_text(encoding="ascii").splitlines()[1:]
        if lines:
            raise ReachedError(f"{name}: {lines[:2]}")
    if ctypes.CDLL("librt.so.1").mq_open(b"/hostile", os.O_RDWR) != -1:
        raise ReachedError("mq_open")
    return "none"


@attempt("left.keyring", "look")
def keyring() -> str:
    """No ring of the user's holds the key."""
    return _rings((-4, -5))


@attempt("left.session-keyring", "look")
def session_keyring() -> str:
    """Nor does the ring that all of a listener's processes share."""
    return _rings((-1, -2, -3))


def _rings(rings: tuple[int, ...]) -> str:
    said = set()
    for ring in rings:
        if LIBC.syscall(KEY_CALLS["keyctl"], 10, ring, b"user", b"hostile", 0) != -1:  # KEYCTL_SEARCH
            raise ReachedError(f"ring {ring}")
        said.add(errno.errorcode.get(ctypes.get_errno(), "?"))
    return ",".join(sorted(said))


@attempt("left.links", "look")
def links() -> str:
    """No link to root's directories is left."""
    for directory, names, files in os.walk(config()["root"] + "/_work"):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            if os.path.islink(path) and "hostile-victim" in os.readlink(path):
                raise ReachedError(path)
    return "none"


@attempt("left.strange-files", "look")
def strange_files() -> str:
    """None of the odd ones."""
    home, workspace = Path.home(), Path.cwd()
    for path in (home / "d", workspace / "pipe", workspace / "sparse", workspace / "locked2"):
        if os.path.lexists(path):
            raise ReachedError(str(path))
    return "none"


@attempt("left.race", "look")
def race() -> str:
    """The turning directory is gone."""
    if os.path.lexists(config()["root"] + "/_work/race"):
        raise ReachedError("it is there")
    return "none"


@attempt("left.environment", "look")
def environment() -> str:
    """Nothing of the last job's environment, and no secret of anybody's."""
    for name, value in os.environ.items():
        if "HOSTILE_LEFT" in name or name.startswith(("ACTIONS_RUNNER_INPUT_", "BASH_FUNC", "LD_")):
            raise ReachedError(f"{name}={value[:40]}")
    return f"{len(os.environ)} variables"
