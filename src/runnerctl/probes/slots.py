"""What a host knows about its slots: their files, and the processes in their control groups."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.snapshot import Minting, Process, Registration, SlotState, Unavailable, Unit
from runnerctl.core.spec import SLOT_NAME, HostSpec
from runnerctl.probes.files import read_bytes, under
from runnerctl.probes.units import unit_of

__all__ = [
    "ROOTS",
    "STATE",
    "bound_version",
    "count_connections",
    "count_oom_kills",
    "minting",
    "note",
    "parse_established",
    "parse_registration",
    "read_processes",
    "slot_environ",
    "slot_names",
    "slot_state",
]

ROOTS = "/var/lib/gha-runner"
STATE = "/var/lib/runnerctl"
_LISTENER = "Runner.Listener"
_ESTABLISHED = "01"
_BOUND = re.compile(r"/opt/actions-runner/(\d[0-9A-Za-z.+-]*)/(?:bin|externals)\b")


def slot_names(rootfs: Path, spec: HostSpec | None) -> tuple[str, ...]:
    """The spec's slots in its order, then those found on disk only."""
    names = [slot.name for slot in spec.github_runner.slots] if spec else []
    found = set(_listed(under(rootfs, ROOTS)))
    found |= {name.removesuffix(".json") for name in _listed(under(rootfs, f"{STATE}/slots"))}
    return (*names, *sorted(name for name in found - set(names) if SLOT_NAME.fullmatch(name)))


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def parse_registration(data: bytes | Unavailable | None) -> Registration | Unavailable | None:
    """The runner's ``.runner``: JSON, perhaps with a byte order mark, keys in any case."""
    if data is None or isinstance(data, Unavailable):
        return data
    try:
        fields = {str(key).lower(): value for key, value in msgspec.json.decode(_no_mark(data)).items()}
        return Registration(
            agent_id=int(fields["agentid"]),
            name=str(fields["agentname"]),
            url=str(fields["githuburl"]) if fields.get("githuburl") else None,
        )
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError):
        return Unavailable("the runner's .runner cannot be understood; it may be cut off")


def _no_mark(data: bytes) -> bytes:
    return data.removeprefix(b"\xef\xbb\xbf")


def slot_state(rootfs: Path, slot: str) -> SlotState | Unavailable | None:
    """What the toolkit wrote down about a slot."""
    data = read_bytes(under(rootfs, f"{STATE}/slots/{slot}.json"))
    if data is None or isinstance(data, Unavailable):
        return data
    try:
        fields: dict[str, Any] = {"name": slot, **msgspec.json.decode(data, type=dict[str, Any])}
        return msgspec.convert({"reading": "taken", **fields}, SlotState)
    except msgspec.MsgspecError as error:
        return Unavailable(f"{STATE}/slots/{slot}.json cannot be understood: {error}")


def minting(rootfs: Path, slot: str) -> Minting | Unavailable | None:
    """Why an ephemeral slot waits for its next registration; None while it does not."""
    data = read_bytes(under(rootfs, f"{STATE}/minting/{slot}.json"), 4096)
    if data is None or isinstance(data, Unavailable):
        return data
    try:
        return msgspec.convert(
            {"reading": "taken", **msgspec.json.decode(data, type=dict[str, Any])}, Minting
        )
    except msgspec.MsgspecError as error:
        return Unavailable(f"{STATE}/minting/{slot}.json cannot be understood: {error}")


def note(path: Path) -> str | Unavailable | None:
    """The text of a marker such as a hold; None when there is none."""
    data = read_bytes(path, 4096)
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else data


def bound_version(rootfs: Path, slot: str, state: SlotState | Unavailable | None) -> str | Unavailable | None:
    """The version whose copy the unit binds into the slot; else the one that was written down."""
    unit = unit_of(slot, ephemeral=isinstance(state, SlotState) and state.ephemeral)
    data = read_bytes(under(rootfs, f"/etc/systemd/system/{unit}.d/10-slot.conf"))
    found = _BOUND.search(data.decode("utf-8", "replace")) if isinstance(data, bytes) else None
    if found:
        return found[1]
    return state.version if isinstance(state, SlotState) else state


def read_processes(rootfs: Path, unit: Unit | Unavailable) -> tuple[Process, ...] | Unavailable:
    """The processes in a unit's control group and those below it."""
    if isinstance(unit, Unavailable):
        return unit
    if not unit.control_group:
        return ()
    for hierarchy in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        group = under(rootfs, hierarchy + unit.control_group)
        if group.is_dir():
            break
    else:
        return Unavailable(f"control group {unit.control_group} cannot be found")
    pids = [pid for folder, _, _ in os.walk(group) for pid in _pids(Path(folder))]
    found = []
    for pid in sorted(pids):
        comm = read_bytes(under(rootfs, f"/proc/{pid}/comm"), 64)
        if isinstance(comm, bytes):
            state, parent = parse_stat(read_bytes(under(rootfs, f"/proc/{pid}/stat"), 4096))
            name, uid = comm.decode("utf-8", "replace").strip(), _owner(under(rootfs, f"/proc/{pid}"))
            found.append(Process(pid, name, parent, state, uid))
    return tuple(found)


def _owner(folder: Path) -> int | None:
    """The effective user of a process: the owner of its directory (proc(5))."""
    try:
        return folder.stat().st_uid
    except OSError:
        return None


def count_oom_kills(rootfs: Path, unit: Unit | Unavailable) -> int | None:
    """How many processes of the unit's control group the kernel killed for memory since the unit started.

    None where that is not counted. Version 2 counts those of the groups below, too (kernel, cgroup-v2.rst).
    """
    if isinstance(unit, Unavailable) or not unit.control_group:
        return None
    for hierarchy, name in (
        ("/sys/fs/cgroup", "memory.events"),
        ("/sys/fs/cgroup/memory", "memory.oom_control"),
    ):
        data = read_bytes(under(rootfs, f"{hierarchy}{unit.control_group}/{name}"), 4096)
        words = data.split() if isinstance(data, bytes) else []
        count = dict(zip(words[::2], words[1::2], strict=False)).get(b"oom_kill", b"")
        if count.isdigit():
            return int(count)
    return None


def slot_environ(rootfs: Path, slot: str) -> dict[str, str] | None:
    """The runner's own ``.env``: ``KEY=VALUE`` lines, split at the first ``=`` (actions/runner, Program.cs).

    None where there is none, or where it may not be read.
    """
    data = read_bytes(under(rootfs, f"{ROOTS}/{slot}/.env"))
    if not isinstance(data, bytes):
        return None
    pairs = (line.partition("=") for line in data.decode("utf-8-sig", "replace").splitlines())
    return {name: value for name, sign, value in pairs if name and sign}


def parse_stat(data: bytes | Unavailable | None) -> tuple[str, int]:
    """State and parent of a process: "pid (name) state ppid ..."; the name may hold anything (proc(5))."""
    words = data.rpartition(b")")[2].split() if isinstance(data, bytes) else []
    if len(words) < 2 or not words[1].isdigit():
        return "", 0
    return words[0].decode("ascii", "replace"), int(words[1])


def _pids(group: Path) -> list[int]:
    data = read_bytes(group / "cgroup.procs")
    return [int(line) for line in data.split() if line.isdigit()] if isinstance(data, bytes) else []


def count_connections(
    rootfs: Path, unit: Unit | Unavailable, processes: tuple[Process, ...] | Unavailable
) -> int | Unavailable:
    """The established TCP connections of the listener, in its own network namespace."""
    if isinstance(unit, Unavailable):
        return unit
    if isinstance(processes, Unavailable):
        return processes
    pids = [unit.main_pid] if unit.main_pid else []
    pids = pids or [process.pid for process in processes if process.comm == _LISTENER]
    total = 0
    for pid in pids:
        inodes = _sockets(under(rootfs, f"/proc/{pid}/fd"))
        if isinstance(inodes, Unavailable):
            return inodes
        tables = (read_bytes(under(rootfs, f"/proc/{pid}/net/{name}")) for name in ("tcp", "tcp6"))
        established = {inode for table in tables for inode in parse_established(table)}
        total += len(inodes & established)
    return total


_DENIED = Unavailable("the listener's sockets may not be read", kind="denied")


def _sockets(folder: Path) -> set[str] | Unavailable:
    try:
        names = os.listdir(folder)
    except PermissionError:
        return _DENIED
    except OSError:  # it ended meanwhile
        return set()
    found = set()
    for name in names:
        try:
            target = os.readlink(folder / name)
        except PermissionError:  # names without targets: another user, or root without CAP_SYS_PTRACE
            return _DENIED
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def parse_established(table: bytes | Unavailable | None) -> set[str]:
    """The inodes of established sockets in /proc/net/tcp or tcp6: column 4 is the state, 10 the inode."""
    if not isinstance(table, bytes):
        return set()
    rows = (line.split() for line in table.decode("ascii", "replace").splitlines()[1:])
    return {row[9] for row in rows if len(row) > 9 and row[3] == _ESTABLISHED}


def invocations(units: Mapping[str, Unit]) -> dict[str, str]:
    """Slot -> the id of its unit's last run."""
    return {slot: unit.invocation_id for slot, unit in units.items()}
