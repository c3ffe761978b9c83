"""The store of conda environments on one host: its user, its place, its units, its credentials.

Standard library only. The store's content is its service's; here it is only given a place, and taken away.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from .atomic import Change, atomic_write
from .env_units import (
    CREDENTIALS,
    ENV_GC_SERVICE,
    ENV_GC_TIMER,
    ENV_SERVICE,
    ENV_SOCKET,
    USER,
    env_units,
)
from .own_units import OwnUnits, section_of
from .slot_files import STORE
from .slot_system import remove_tree

__all__ = ["EnvStore"]

OWNERS = f"{STORE}/owners"
OWNER = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
NO_HOME = "/nonexistent"
HIDDEN_TEXT = "credentials of channels, which are not shown\n"


def _silent(_text: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class EnvStore(OwnUnits):
    """The store on one host. ``warn`` is told what had to stay for now."""

    main = ENV_SERVICE
    wants: ClassVar[Mapping[str, str]] = {ENV_SOCKET: "sockets.target", ENV_GC_TIMER: "timers.target"}
    others = (ENV_SERVICE, ENV_GC_SERVICE)

    warn: Callable[[str], None] = _silent

    def converge(self, spec: str, *, owners: Iterable[str], credentials: str | None, renewed: bool) -> None:
        """Make the host have the store that ``host.json``'s text asks for, or none. Raises HostError.

        ``owners``: those at GitHub whose jobs run here; ``credentials``: the text of the channels' file;
        ``renewed``: the command that the service runs was replaced.
        """
        if not section_of(spec, "conda").get("store"):
            self._give_up()
            return
        self._user()
        self._places(owners)
        secret = self._credentials(credentials)
        texts = env_units(section_of(spec), credentials=credentials is not None)
        self.run(changed=self.write(texts), renewed=renewed or secret)

    def restart(self, *, changed: bool) -> None:
        """The service starts when it is asked. A socket would not listen anew beside one that has it."""
        self.system.forget_failure(ENV_SERVICE)
        if changed:
            self.stop()
            self.system.systemctl("restart", *self.wants)
        else:
            self.system.systemctl("try-restart", ENV_SERVICE)

    def stop(self) -> None:
        """Nobody gets in any more, then what is being built ends. Raises HostError."""
        states = self.system.unit_states([*self.wants, ENV_SERVICE])
        self.system.systemctl("stop", *(unit for unit in states if states[unit].load != "not-found"))

    # -- what is made

    def _user(self) -> None:
        if self.system.user_exists(USER):
            return

        def add() -> None:
            self.receipt.record("user", USER, role=self.role)
            self.system.add_user(USER, NO_HOME, comment="Builder of conda environments")

        self.act(f"user {USER}", add)

    def _places(self, owners: Iterable[str]) -> None:
        """What is one owner's alone lies where only the builder may enter; a slot's unit shows it its own."""
        wanted = {STORE: 0o755, OWNERS: 0o700}
        wanted |= {f"{OWNERS}/{name}": 0o755 for name in sorted(set(owners)) if OWNER.fullmatch(name)}
        ids = self.system.ids(USER) if self.system.user_exists(USER) else None
        for path, mode in wanted.items():
            if ids is None or not _is(self.place(path), *ids, mode):
                self.act(f"directory {path}", partial(self._settle, path, mode))

    def _settle(self, path: str, mode: int) -> None:
        """Root follows no link here: what is below the store's own directory is its user's to change."""
        uid, gid = self.system.ids(USER)
        folder, name = os.path.split(self.place(path))
        os.makedirs(self.place(os.path.dirname(STORE)), 0o755, exist_ok=True)
        above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
            found = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
        try:
            os.fchown(found, uid, gid)
            os.fchmod(found, mode)
        finally:
            os.close(found)

    def _credentials(self, text: str | None) -> bool:
        """Root's alone; systemd hands it to the service. Whether it is another than before."""
        path = self.place(CREDENTIALS)
        folder = os.path.dirname(path)
        if text is None:
            if os.path.lexists(path):
                self.act(f"removed {path}", partial(self._forget_credentials, path))
                return True
            return False
        if not self.check:
            self.receipt.record("path", os.path.dirname(CREDENTIALS), role=self.role)
            os.makedirs(folder, 0o700, exist_ok=True)
            os.chmod(folder, 0o700)
        change = atomic_write(path, text.encode(), mode=0o600, check=self.check)
        if change.changed:
            self.done(f"wrote {path}", Change(path, True, after=HIDDEN_TEXT))
        return change.changed

    def _forget_credentials(self, path: str) -> None:
        os.unlink(path)
        os.rmdir(os.path.dirname(path))
        self.receipt.forget("path", os.path.dirname(CREDENTIALS))

    # -- what is taken away

    def _give_up(self) -> None:
        """No new environments from now on; what jobs use stays until none does."""
        self.remove()
        self._credentials(None)
        path = self.place(STORE)
        if os.path.isdir(path):
            if any(_in_use(path)):
                self.warn(f"{path} stays while jobs use environments in it: run again later")
                return
            self.act(f"removed {path}", partial(_empty, path))
        if self.system.user_exists(USER) and self._made_user():
            self.act(f"removed user {USER}", self._remove_user)

    def _made_user(self) -> bool:
        return any(entry.name == USER for entry in self.receipt.entries("user"))

    def _remove_user(self) -> None:
        self.system.kill_all_of(USER)
        self.system.remove_user(USER)
        self.receipt.forget("user", USER)


def _is(path: str, uid: int, gid: int, mode: int) -> bool:
    """Whether it is a directory with that owner and mode."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    wanted = (uid, gid, mode)
    return (
        stat.S_ISDIR(status.st_mode)
        and (
            status.st_uid,
            status.st_gid,
            stat.S_IMODE(status.st_mode),
        )
        == wanted
    )


def _empty(path: str) -> None:
    """Remove a store; of a file system of its own the content. Raises HostError."""
    from pathlib import Path

    if not os.path.ismount(path):
        remove_tree(Path(path))
        return
    for entry in list(Path(path).iterdir()):
        remove_tree(entry)


def _in_use(store: str, *, proc: str = "/proc") -> Iterator[bool]:
    """For each lease of a store and of its owners': whether the process still lives that it was given to."""
    folders = [os.path.join(store, "leases")]
    with contextlib.suppress(OSError):
        folders += [os.path.join(store, "owners", name, "leases") for name in os.listdir(f"{store}/owners")]
    for folder in folders:
        names = os.listdir(folder) if os.path.isdir(folder) else []
        for name in names:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    lease = json.load(file)
                yield lease["expires_at"] > time.time() and _began(lease["pid"], proc) == lease["began"]


def _began(pid: int, proc: str) -> int:
    """When a process began, in clock ticks since boot. Raises OSError where there is none."""
    with open(os.path.join(proc, str(int(pid)), "stat"), encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[19])
