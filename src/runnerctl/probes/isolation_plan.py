"""What to try from within a slot: looked up as root, for a job cannot name what it cannot see."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runnerctl.core.device_nodes import Node
from runnerctl.core.isolation import Attempt, Expect

__all__ = ["Ground", "plan"]

_ROOTS, _STATE, _RELEASES = "/var/lib/gha-runner", "/var/lib/runnerctl", "/opt/actions-runner"
_SLOT_SECRETS = (".credentials", ".credentials_rsaparams", ".runner", ".env", "_work", "_diag", "home")
# To open a watchdog starts it: a proof that it can be opened would end the host.
_NOT_OPENED = ("watchdog", "st", "nst")
# Every job has these (systemd.resource-control, DevicePolicy=closed): null, zero, full, random, urandom, tty,
# ptmx, and the terminals of its own.
_COMMON = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
_TERMINALS = range(136, 144)
_MOST_NODES, _MOST_FILES, _MOST_PROCESSES = 4096, 512, 24
_SYSTEM_SECRETS = (
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/sudoers",
    "/root",
)
_SECRET_TREES = (
    "/etc/ssh",
    "/etc/runnerctl",
    "/etc/credstore",
    "/etc/credstore.encrypted",
    "/run/runnerctl",
    "/run/credentials",
    "/run/log/journal",
    "/var/log",
    _STATE,
)
_PUBLIC_TREES = ("env",)  # environments for jobs: thousands of files
_SOCKETS = (
    "/run/dbus/system_bus_socket",
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/systemd/private",
)
_ENGINE = ("/run/docker.sock", "/var/run/docker.sock")  # where a slot has an engine of its own
_GUARD = "/run/runnerctl/guard.sock"
_OPEN_SOCKETS = ("/run/systemd/resolve/", "/run/nscd/", "/run/runnerctl/")
_SYSTEM_FOLDERS = ("/etc/cron.d", "/var/spool/cron/crontabs", "/etc/systemd/system", "/usr/local/bin", "/opt")


@dataclass(frozen=True)
class Ground:
    """One unit of a slot as it stands. ``nodes`` are its own.

    ``engine``: the unit is that of the slot's container engine; ``reaches_engine``: it has that one's socket.
    ``sandboxed``: the attempts are made under the unit's filter of system calls, too.
    """

    slot: str
    unit: str
    uid: int
    control_group: str
    nodes: Sequence[Node] = ()
    engine: bool = False
    reaches_engine: bool = False
    sandboxed: bool = True


def plan(ground: Ground) -> list[Attempt]:
    """All attempts for a slot, in the order in which they are made."""
    return [
        *_devices(ground.nodes),
        *_files(ground),
        *_processes(ground.uid),
        *_sockets(own=_ENGINE if ground.reaches_engine else ()),
        *_writes(ground),
        *_limits(ground),
        *_privileges(ground),
    ]


def _devices(nodes: Sequence[Node]) -> Iterator[Attempt]:
    own = {(node.major, node.minor): node for node in nodes}
    seen: set[tuple[int, int]] = set()
    for path, mode, numbers in _nodes():
        character = stat.S_ISCHR(mode)
        if character and (numbers in _COMMON or numbers[0] in _TERMINALS):
            continue
        expect: Expect = "allowed" if character and numbers in own else "blocked"
        seen.add(numbers)
        yield Attempt("devices", "device", path, expect, path)
    for numbers, node in own.items():
        if numbers not in seen:
            yield Attempt("devices", "device", node.path, "allowed", node.path)


def _nodes() -> Iterator[tuple[str, int, tuple[int, int]]]:
    count = 0
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = f"{folder}/{name}"
            found = _status(path)
            if found is None or not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
                continue
            count += 1
            if count > _MOST_NODES:
                return
            if not name.rstrip("0123456789").startswith(_NOT_OPENED):
                yield path, found.st_mode, (os.major(found.st_rdev), os.minor(found.st_rdev))


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _files(ground: Ground) -> Iterator[Attempt]:
    for path in _SYSTEM_SECRETS:
        yield _reading(path)
    yield from (_reading(str(path)) for path in _homes())
    for slot in _other_slots(ground.slot):
        root = f"{_ROOTS}/{slot}"
        yield Attempt("files", "list", root, what=f"slot {slot}'s directory")
        yield from (_reading(f"{root}/{name}", f"slot {slot}'s {name}") for name in _SLOT_SECRETS)
    for path in _secrets():
        yield _reading(path)


def _reading(path: str, what: str = "") -> Attempt:
    kind = "list" if os.path.isdir(path) else "read"
    return Attempt("files", kind, path, what=what or path)


def _homes() -> list[Path]:
    try:
        return sorted(Path("/home").iterdir())[:8]
    except OSError:
        return []


def _other_slots(slot: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(_ROOTS) if name != slot)
    except OSError:
        return []


def _secrets() -> Iterator[str]:
    """Files that are root's alone, where secrets of the host and of ours are kept."""
    count = 0
    for top in _SECRET_TREES:
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if name not in _PUBLIC_TREES]
            for name in names:
                path = f"{folder}/{name}"
                found = _status(path)
                if found is None or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o004:
                    continue
                count += 1
                if count > _MOST_FILES:
                    return
                yield path


def _processes(uid: int) -> Iterator[Attempt]:
    """Root's first process, and some of other users'."""
    others = [pid for pid in _pids() if pid == 1 or _owner(pid) not in (uid, None)]
    for pid in others[:_MOST_PROCESSES]:
        yield Attempt("processes", "read", f"/proc/{pid}/environ", what=f"environment of process {pid}")
        yield Attempt("processes", "read", f"/proc/{pid}/cmdline", what=f"arguments of process {pid}")
        yield Attempt("processes", "signal", str(pid), what=f"signals to process {pid}")


def _pids() -> list[int]:
    found = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    mine = os.getpid()
    return [1, *(pid for pid in reversed(found) if pid not in (1, mine) and _cmdline(pid))]


def _cmdline(pid: int) -> bytes:
    """Empty for threads of the kernel, and for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _owner(pid: int) -> int | None:
    found = _status(f"/proc/{pid}")
    return found.st_uid if found else None


def _sockets(*, own: Sequence[str]) -> Iterator[Attempt]:
    there = list(_walk_sockets("/run"))
    for path in dict.fromkeys([*_SOCKETS, *there]):
        if not path.startswith(_OPEN_SOCKETS) and path not in own:
            yield Attempt("sockets", "connect", path, what=path)
    if _GUARD in there:
        yield Attempt("sockets", "connect", _GUARD, "allowed", _GUARD)


def _walk_sockets(top: str) -> Iterator[str]:
    for folder, _, names in os.walk(top):
        for name in names:
            found = _status(f"{folder}/{name}")
            if found and stat.S_ISSOCK(found.st_mode):
                yield f"{folder}/{name}"


def _writes(ground: Ground) -> Iterator[Attempt]:
    root, mode = f"{_ROOTS}/{ground.slot}", ground.unit.partition("@")[0]
    folder = f"/etc/systemd/system/{ground.unit}.d"
    # An ephemeral slot's root directory is in memory and its one job's own, with the registration in it.
    kept = [] if mode == "gha-ephemeral" else [f"{root}/.runner", f"{root}/.credentials"]
    files = [
        *kept,
        "/opt/runnerctl/hooks/job-started.sh",
        "/opt/runnerctl/hooks/job-completed.sh",
        f"{root}/bin/Runner.Listener",
        f"{root}/.env",
        f"/etc/systemd/system/{mode}@.service",
        f"{folder}/10-slot.conf",
        "/etc/runnerctl/host.json",
        f"{_STATE}/slots/{ground.slot}.json",
        f"{_STATE}/hold/{ground.slot}",
        "/etc/passwd",
        "/etc/hosts",
    ]
    folders = [
        *([root] if kept else []),
        f"{root}/bin",
        _RELEASES,
        "/opt/runnerctl/hooks",
        folder,
        f"{_STATE}/hold",
    ]
    yield from (Attempt("writes", "write", path, what=path) for path in files)
    yield from (Attempt("writes", "create", path, what=f"a file in {path}") for path in _existing(folders))
    yield from (
        Attempt("writes", "create", path, what=f"a file in {path}") for path in _existing(_SYSTEM_FOLDERS)
    )


def _existing(folders: Iterable[str]) -> list[str]:
    return [path for path in folders if os.path.isdir(path)]


def _limits(ground: Ground) -> Iterator[Attempt]:
    yield Attempt("limits", "limit", "", what="more open files")
    group = ground.control_group
    files = [
        f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes",
        f"/sys/fs/cgroup/devices{group}/devices.allow",
        f"/sys/fs/cgroup/pids{group}/pids.max",
        "/sys/fs/cgroup/devices/cgroup.procs",
        f"/sys/fs/cgroup{group}/memory.max",
        f"/sys/fs/cgroup{group}/pids.max",
        "/sys/fs/cgroup/cgroup.procs",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/yama/ptrace_scope",
    ]
    yield from (Attempt("limits", "write", path, what=path) for path in files if os.path.exists(path))


def _privileges(ground: Ground) -> Iterator[Attempt]:
    yield Attempt("privileges", "root", "", what="becoming root")
    for program in ("/usr/bin/sudo", "/usr/bin/pkexec"):
        yield Attempt("privileges", "sudo", program, what=program.rpartition("/")[2])
    yield Attempt("privileges", "mount", "", what="mounting")
    yield Attempt("privileges", "clock", "", what="setting the clock")
    yield Attempt("privileges", "node", "", what="making a device node")
    if ground.sandboxed and not ground.engine:
        yield Attempt("privileges", "suid", "", what="making a set-user-ID file")
        yield Attempt("privileges", "user-namespace", "", what="a user namespace")
