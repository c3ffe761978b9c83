"""The host under a slot: systemd, users and processes. Standard library only; every call has a deadline."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from . import process
from .errors import HostError
from .process import Result

__all__ = ["Process", "System", "UnitState", "read_text", "remove_tree", "run"]

DEADLINE_SECONDS = 60.0
REMOVAL_SECONDS = 1800.0  # a workspace may hold millions of files


@dataclass(frozen=True)
class Process:
    """One process of a slot."""

    pid: int
    comm: str
    parent: int = 0


@dataclass(frozen=True)
class UnitState:
    """What systemd says of a unit."""

    active: str = "inactive"
    enabled: str = ""
    load: str = ""
    needs_reload: bool = False
    exit_status: int = 0

    @property
    def running(self) -> bool:
        """Whether a listener is there, or on its way."""
        return self.active in ("active", "activating", "reloading", "deactivating")


def run(
    argv: list[str], *, stdin: str | None = None, seconds: float = DEADLINE_SECONDS, check: bool = True
) -> Result:
    """Run a command with a deadline; with ``check``, a failure is a HostError with its last line."""
    done = process.run(argv, timeout=seconds, stdin=stdin)
    if check and done.rc:
        lines = (done.err.strip() or done.out.strip()).splitlines() or [f"exit {done.rc}"]
        raise HostError(lines[-1], where=" ".join(argv[:2]))
    return done


def remove_tree(path: Path) -> None:
    """Remove a directory that jobs wrote to. Raises HostError when something stays.

    ``rm`` follows no link, stays on the file system and goes as deep as a job went, where Python's own would
    end in a RecursionError.
    """
    run(["rm", "-rf", "--one-file-system", "--", str(path)], seconds=REMOVAL_SECONDS)


class System:
    """The real host."""

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        """The state of every unit, in one call."""
        if not units:
            return {}
        keys = "Id,ActiveState,UnitFileState,LoadState,NeedDaemonReload,ExecMainStatus"
        done = run(["systemctl", "show", f"--property={keys}", "--", *units], check=False)
        out = done.out
        if done.rc and not out.strip():
            reason = (done.err.strip().splitlines() or ["no answer"])[-1]
            raise HostError(
                reason, where="systemctl show", remedy="see whether systemd answers, then run again"
            )
        states = {}
        for block in out.strip().split("\n\n"):
            pairs = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            states[pairs.get("Id", "")] = UnitState(
                active=pairs.get("ActiveState", ""),
                enabled=pairs.get("UnitFileState", ""),
                load=pairs.get("LoadState", ""),
                needs_reload=pairs.get("NeedDaemonReload") == "yes",
                exit_status=int(pairs.get("ExecMainStatus") or 0),
            )
        return {unit: states.get(unit, UnitState()) for unit in units}

    def properties(self, unit: str, names: list[str]) -> dict[str, str]:
        """What systemd has loaded of a unit; of a list the last entry. Empty without an answer."""
        shown = run(["systemctl", "show", f"--property={','.join(names)}", "--", unit], check=False).out
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def systemctl(self, *words: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Run systemctl. Raises HostError."""
        run(["systemctl", *words], seconds=seconds)

    def forget_failure(self, unit: str) -> None:
        """Clear a failed state and its start counter; a unit that systemd does not know has none."""
        run(["systemctl", "reset-failed", "--", unit], check=False)

    def user_exists(self, name: str) -> bool:
        """Whether the system user is there."""
        try:
            pwd.getpwnam(name)
        except KeyError:
            return False
        return True

    def add_user(self, name: str, home: str, *, comment: str = "GitHub Actions runner") -> None:
        """Add a system user with a group of its own name, no login and no other group."""
        if not self.group_exists(name):
            run(["groupadd", "--system", "--", name])
        run(
            [
                "useradd",
                "--system",
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                "--gid",
                name,
                "--home-dir",
                home,
                "--comment",
                comment,
                "--",
                name,
            ]
        )

    def remove_user(self, name: str) -> None:
        """Remove the user and its group, when they are there."""
        if self.user_exists(name):
            run(["userdel", "--", name])
        if self.group_exists(name):
            self.remove_group(name)

    def group_exists(self, name: str) -> bool:
        """Whether the group is there."""
        try:
            grp.getgrnam(name)
        except KeyError:
            return False
        return True

    def remove_group(self, name: str) -> None:
        """Remove a group. Raises HostError."""
        run(["groupdel", "--", name])

    def ids(self, name: str) -> tuple[int, int]:
        """uid and gid of a user."""
        entry = pwd.getpwnam(name)
        return entry.pw_uid, entry.pw_gid

    def processes_in(self, unit: str) -> list[Process]:
        """Every process in a unit's control group (v1 or v2)."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if f"/{unit}" in read_text(entry / "cgroup"):
                    comm = read_text(entry / "comm").strip()
                    # "pid (comm) state ppid ...", and a name may hold anything: read behind its last bracket.
                    parent = read_text(entry / "stat").rpartition(")")[2].split()[1]
                    found.append(Process(int(entry.name), comm, int(parent)))
            except OSError:
                continue  # it ended while we looked
        return found

    def main_pid(self, unit: str) -> int:
        """The unit's main process; 0 when there is none."""
        out = run(["systemctl", "show", "--property=MainPID", "--value", "--", unit], check=False).out.strip()
        return int(out) if out.isdigit() else 0

    def busy(self, unit: str) -> bool:
        """Whether a job runs: a ``Runner.Worker`` that the unit's own listener started.

        A process that a job left behind may bear that name too, but never that parent. Without a listener any
        worker counts: a doubt never costs a job.
        """
        workers = [process for process in self.processes_in(unit) if process.comm == "Runner.Worker"]
        if not workers:
            return False
        listener = self.main_pid(unit)
        return listener == 0 or any(worker.parent == listener for worker in workers)

    def kill_all_of(self, user: str, *, seconds: float = 10.0) -> int:
        """End every process of a user and wait until none is left; returns how many there were.

        Raises HostError when some outlive SIGKILL (uninterruptible sleep): a token must not come near.
        """
        if not self.user_exists(user):
            return 0
        uid, _ = self.ids(user)
        killed: set[int] = set()
        deadline = time.monotonic() + seconds
        while pids := _pids_of(uid):
            if time.monotonic() > deadline:
                raise HostError(f"processes {sorted(pids)} do not end", where=user, remedy="reboot the host")
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            killed |= pids
            time.sleep(0.05)
        return len(killed)


def read_text(path: Path) -> str:
    """A file's text, whatever the locale and whatever its bytes: anybody may choose a process's name."""
    return path.read_text(encoding="utf-8", errors="replace")


def _pids_of(uid: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = read_text(entry / "status")
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        ids = {int(value) for value in fields.get("Uid", "").split()}
        if uid in ids and not fields.get("State", "").strip().startswith("Z"):
            found.add(int(entry.name))
    return found
