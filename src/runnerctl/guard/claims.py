"""What a job says of itself: read from its hook's environment and its event, bounded, and trusted by nobody.

Reading another process's environment is reading its memory, and its files may lie on a file system that it
serves itself: all of this may hang, so it is done in a child with a deadline (`runnerctl.guard.errands`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from runnerctl.guard.ports import JobClaims

__all__ = ["Asking", "HookFacts", "claims_of", "danger", "environment", "fork_of", "read_event", "read_facts"]

_LONGEST_ENVIRONMENT = 8 * 1024 * 1024  # the kernel takes a quarter of the stack's limit, 2 MiB as a rule
_LARGEST_EVENT = 32 * 1024 * 1024  # GitHub's payloads are 25 MB at most
_LONGEST_TEXT = 512
_LARGEST_NUMBER = 1 << 53
_DEEPEST = 16
_LINKER_MAY = frozenset({"LD_LIBRARY_PATH", "LD_BIND_NOW"})
_SHELL = frozenset({"BASH_ENV", "SHELLOPTS", "BASHOPTS", "GCONV_PATH", "LOCPATH"})
_PULL_REQUEST = "pull_request"


class HookFacts(msgspec.Struct, frozen=True):
    """What was found: the claims, and why the hook's environment makes them worthless, if it does."""

    claims: JobClaims = JobClaims()
    danger: str = ""
    script: bool = False


def environment(data: bytes) -> dict[str, str]:
    """An environment as /proc/PID/environ has it; of several entries of a name the first counts."""
    found: dict[str, str] = {}
    for entry in data.split(b"\0"):
        name, sign, value = entry.partition(b"=")
        if sign and name:
            found.setdefault(name.decode("utf-8", "replace"), value.decode("utf-8", "replace"))
    return found


def danger(environ: Mapping[str, str], *, writable: Path, owner: int = 0) -> str:
    """What in an environment changes the shell that the hook runs in, or the programs it starts; or nothing.

    ``writable``: the slot's directory; ``owner``: root. Python's variables do not count: the hook's
    Python ignores them (-I).
    """
    for name, value in environ.items():
        shell = name in _SHELL or name.startswith("BASH_FUNC_") or value.startswith("() {")
        if shell or (name.startswith("LD_") and name not in _LINKER_MAY):
            return name
    path = environ.get("LD_LIBRARY_PATH", "")
    if path and not all(_is_roots(entry, writable, owner) for entry in path.split(":")):
        return "LD_LIBRARY_PATH"
    return ""


def _is_roots(entry: str, writable: Path, owner: int) -> bool:
    """Whether nobody but root can put a library there. An empty entry is the working directory (ld.so(8))."""
    if not entry.startswith("/") or "$" in entry:
        return False
    path = Path(os.path.realpath(entry))
    if any(path == place or place in path.parents for place in (writable, *_OTHERS)):
        return False
    while True:
        try:
            state = path.stat()
        except OSError:
            path = path.parent
            continue
        return state.st_uid == owner and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


_OTHERS = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/run/user", "/home")))


def read_event(path: str, root: Path, *, view: Path) -> dict[str, Any] | None:
    """The event's payload: a regular file below the slot's directory, of bounded size; None otherwise.

    No link is followed anywhere on the way: the directories are the job's to change. ``view``: the root of
    the file systems as the job sees them.
    """
    parts = Path(path).parts
    top = root.parts
    if parts[: len(top)] != top or ".." in parts or len(parts) - len(top) > _DEEPEST:
        return None
    try:
        data = _read_below(view, parts[1:])
        event = msgspec.json.decode(data) if data is not None else None
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return event if isinstance(event, dict) else None


def _read_below(view: Path, names: tuple[str, ...]) -> bytes | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(view, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            inner = os.open(name, flags, dir_fd=handle)
            os.close(handle)
            handle = inner
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or state.st_size > _LARGEST_EVENT:
            return None
        return _all_of(handle)
    finally:
        os.close(handle)


def _all_of(handle: int) -> bytes | None:
    parts, size = [], 0
    while part := os.read(handle, 1024 * 1024):
        size += len(part)
        if size > _LARGEST_EVENT:
            return None
        parts.append(part)
    return b"".join(parts)


def fork_of(name: str | None, event: Mapping[str, Any] | None) -> bool | None:
    """Whether an event is about a pull request from a fork; None when that cannot be told.

    Whatever carries a pull request counts, ``pull_request_target`` and reviews included. A head whose
    repository has been deleted (null) was a fork. docs.github.com/webhooks/webhook-events-and-payloads
    """
    if name is None or event is None:
        return None
    request = event.get(_PULL_REQUEST)
    if not isinstance(request, Mapping):
        return None if name.startswith(_PULL_REQUEST) else False
    head, base = (_repository(request.get(side)) for side in ("head", "base"))
    if base is None:
        return None
    return head is None or head != base


def _repository(side: Any) -> str | None:
    repository = side.get("repo") if isinstance(side, Mapping) else None
    name = repository.get("full_name") if isinstance(repository, Mapping) else None
    return name.lower() if isinstance(name, str) and name else None


def claims_of(environ: Mapping[str, str], event: Mapping[str, Any] | None) -> JobClaims:
    """The claims in an environment, each bounded and printable."""
    name = _text(environ, "GITHUB_EVENT_NAME")
    return JobClaims(
        repository=_text(environ, "GITHUB_REPOSITORY"),
        workflow=_text(environ, "GITHUB_WORKFLOW"),
        workflow_ref=_text(environ, "GITHUB_WORKFLOW_REF"),
        job=_text(environ, "GITHUB_JOB"),
        run_id=_number(environ, "GITHUB_RUN_ID"),
        run_attempt=_number(environ, "GITHUB_RUN_ATTEMPT"),
        actor=_text(environ, "GITHUB_ACTOR"),
        event=name,
        ref=_text(environ, "GITHUB_REF"),
        fork=fork_of(name, event),
    )


def _text(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name, "")[: _LONGEST_TEXT + 1]
    if not value or len(value) > _LONGEST_TEXT or not value.isprintable():
        return None  # one that was cut could be taken for another
    return value


def _number(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "")
    digits = value.isascii() and value.isdigit() and len(value) < 17
    return int(value) if digits and int(value) < _LARGEST_NUMBER else None


class Asking(NamedTuple):
    """Who asks: the worker, the shell that is its child, and the process at the other end of the socket."""

    worker: int
    shell: int
    asker: int


def read_facts(proc: Path, asking: Asking, *, root: Path, hook: str) -> HookFacts:
    """The facts of a hook. May hang. Raises OSError.

    ``root``: the slot's directory. ``script``: whether the shell was started to run ``hook``.
    """
    data = _bytes(proc / str(asking.shell) / "environ", _LONGEST_ENVIRONMENT)
    if len(data) >= _LONGEST_ENVIRONMENT:
        return HookFacts(danger="its size")
    environ = environment(data)
    found = danger(environ, writable=root)
    if not found and asking.asker != asking.shell:
        again = _bytes(proc / str(asking.asker) / "environ", _LONGEST_ENVIRONMENT)
        found = danger(environment(again), writable=root)
    words = _bytes(proc / str(asking.shell) / "cmdline", 65536).split(b"\0")
    view = proc / str(asking.worker) / "root"
    event = read_event(environ.get("GITHUB_EVENT_PATH", ""), root, view=view)
    return HookFacts(claims_of(environ, event), found, hook.encode() in words[1:4])


def _bytes(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(limit)
