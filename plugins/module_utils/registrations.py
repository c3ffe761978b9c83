"""Which runners a host holds: every ``.runner`` on it, and whether one is being made. Standard library only.

The answer decides whether a record at GitHub may be deleted, so what cannot be read is said, never skipped.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .slot_files import Layout, runner_fields

__all__ = ["LOCK", "Found", "Registrations", "read_registrations"]

LOCK = "/var/lib/runnerctl/slots.lock"  # held by whoever converges the host's slots (see slot.py)
LARGEST_BYTES = 65536  # of a registration's file
STOCK = "actions.runner.*.service"  # the name that GitHub's own svc.sh gives to the units it installs


@dataclass(frozen=True)
class Found:
    """One registration. ``place`` is the slot, or the directory of a runner that is no slot."""

    place: str
    agent_id: int


@dataclass
class Registrations:
    """What the host holds. ``problems``: why this is not all of it; then nobody may rely on it."""

    found: list[Found] = field(default_factory=list)
    registering: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The module's return values."""
        return asdict(self)


def read_registrations(layout: Layout) -> Registrations:
    """Read slots, their state, and the runners that svc.sh installed."""
    answer = Registrations()
    if os.geteuid() != 0:
        answer.problems.append("was not read as root; set ansible_become: true")
    for root in _entries(layout.path("/var/lib/gha-runner"), answer):
        _runner(root, root.name, answer)
    for state in _entries(layout.path("/var/lib/runnerctl/slots"), answer):
        if state.suffix == ".json":
            _state(state, answer)
    for unit in sorted(layout.units.glob(STOCK)):
        _stock(layout, unit, answer)
    if _locked(layout.path(LOCK)):
        answer.problems.append("is being converged at this moment")
    return answer


def _entries(folder: Path, answer: Registrations) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        answer.problems.append(f"has a directory {folder} that cannot be read: {error.strerror}")
        return []


def _runner(root: Path, place: str, answer: Registrations) -> None:
    """The registration in a runner's directory. A file that says nothing could be any runner's."""
    file = root / ".runner"
    try:
        content = _content(file)
    except OSError as error:
        answer.problems.append(f"has a file {file} that cannot be read: {error.strerror}")
        return
    if content is None:
        return
    fields = runner_fields(content)
    if fields is None:
        answer.problems.append(f"has a file {file} that cannot be read")
        return
    answer.found.append(Found(place, int(fields["agentid"])))


def _content(file: Path) -> bytes | None:
    """Its first bytes; none of what is no plain file; None when there is none.

    The directory may belong to somebody who runs jobs: a pipe must not stop root, nor a link to a device fill
    its memory.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(descriptor, "rb") as opened:
        plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return opened.read(LARGEST_BYTES) if plain else b""


def _state(file: Path, answer: Registrations) -> None:
    """Our own notes on a slot: an id that ``.runner`` does not show any more still counts as held."""
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        answer.problems.append(f"has a file {file} that cannot be read")
        return
    if data.get("registering") or data.get("mode") == "ephemeral":  # which may have another id by now
        answer.registering.append(file.stem)
    agent_id = data.get("agent_id")
    if isinstance(agent_id, int) and not isinstance(agent_id, bool):
        answer.found.append(Found(f"the notes on slot {file.stem}", agent_id))


def _stock(layout: Layout, unit: Path, answer: Registrations) -> None:
    try:
        lines = unit.read_text(errors="replace").splitlines()
    except OSError as error:
        answer.problems.append(f"has a unit {unit} that cannot be read: {error.strerror}")
        return
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == "WorkingDirectory" and value.strip().startswith("/"):
            _runner(layout.path(value.strip()), value.strip(), answer)


def _locked(path: Path) -> bool:
    """Whether another process holds the lock on this host's slots right now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
